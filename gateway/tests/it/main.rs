//! The gateway from outside: its pure machines as tables, and the running server with real sockets.

mod author;
mod bundles;
mod device;
mod machine;
mod openings;
mod pod;
mod resume;
mod server;
mod upstreams;
mod world;
