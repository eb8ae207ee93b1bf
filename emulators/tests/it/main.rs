//! The two machines together and against a fake gateway, first in memory, then over real sockets.

mod arbitrary;
mod edges;
mod fake;
mod losses;
mod pair;
mod tampering;
mod world;
