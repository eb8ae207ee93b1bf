//! The two machines together and against a fake gateway, first in memory, then over real sockets.

#![allow(clippy::unwrap_used, clippy::panic)]

mod arbitrary;
mod edges;
mod fake;
mod load;
mod losses;
mod pair;
mod storm;
mod tampering;
mod world;
