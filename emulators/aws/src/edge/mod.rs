//! Sockets, files, clocks and child processes around the pure middle.

pub mod admin;
pub mod calls;
pub mod emulator;
pub mod hook;
pub mod http;
mod leftovers;
pub mod logs;
mod server;
mod shared;
pub mod state_file;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::faults::Fault;
use crate::rules::Rules;

pub use hook::Boot;

/// How an emulator is to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Catalogue, delays, limits.
    pub rules: Rules,
    /// Where the state is kept over restarts; nowhere by default.
    pub state_file: Option<PathBuf>,
    /// Faults that wait from the beginning.
    pub faults: Vec<Fault>,
    /// What an instance is.
    pub boot: Boot,
    /// The one key pair that requests must be signed by; by default every well-formed signature passes.
    pub credentials: Option<Credentials>,
    /// Where ids come from; random by default. The same seed and the same calls give the same ids.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            rules: Rules::default(),
            state_file: None,
            faults: Vec::new(),
            boot: Boot::Nothing,
            credentials: None,
            seed: None,
        }
    }
}

impl Config {
    /// Without delays: what is asked for is true at the next call.
    pub fn instant() -> Self {
        let mut config = Self::default();
        config.rules.timings = crate::rules::Timings::instant();
        config
    }
}

/// A key pair as AWS names it. It signs requests to this emulator and opens nothing else.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.id)
    }
}
