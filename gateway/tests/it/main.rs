//! The gateway from outside: its pure machines as tables, and the running server with real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

mod author;
mod bundles;
mod device;
mod faults;
mod holding;
mod line;
mod machine;
mod moving;
mod openings;
mod pod;
mod program;
mod resume;
mod server;
mod several;
mod shifting;
mod shutdown;
mod upstreams;
mod world;
