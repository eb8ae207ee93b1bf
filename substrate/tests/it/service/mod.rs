//! The pod's service half: the pure machines first, then a real server.

mod answers;
mod demo;
mod device;
mod edge;
mod endings;
mod engine;
mod forgeries;
mod generations;
mod harness;
mod keyring;
mod lagging;
mod links;
mod program;
mod random;
mod server;
mod traces;
mod verify;
mod workers;
