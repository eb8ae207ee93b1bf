//! DynamoDB Local, AWS's own emulator, for tests: fetched once from Maven Central, started, waited for, and ended with whoever
//! started it.
//!
//! It has AWS's rules for keys, numbers, conditions and sizes; it has no throttling, no point-in-time recovery and no IAM. It
//! takes any credentials, and every client sees the same tables, whatever its region and key.
//!
//! It needs a Java runtime, 17 or later, and Maven the first time; an error says what to install. DynamoDB Local has no option for
//! its address: it listens on **every** address of its network namespace. Start it where that is no matter.

mod error;
mod install;
mod process;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

pub use error::LocalError;
pub use install::{VERSION, install};
use process::Running;

/// How an emulator is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address under which it is reached, and at which it is waited for.
    pub address: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// A folder that keeps the tables over a stop and a start; none keeps them in memory.
    pub data: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            data: None,
        }
    }
}

/// An emulator that runs. It ends when this is dropped, and when the program that holds it ends in any way.
pub struct DynamoDbLocal {
    address: SocketAddr,
    running: Running,
}

/// How often another free port is tried: somebody may take it before the emulator does.
const PORTS: u32 = 3;

impl DynamoDbLocal {
    /// Fetches the emulator if it is not there yet, starts it, and waits until it answers. Blocks: seconds, and a minute when it
    /// has to be fetched.
    pub fn start(options: &Options) -> Result<Self, LocalError> {
        let library = install()?;
        let mut tried = 0;
        loop {
            tried += 1;
            let port = match options.port {
                0 => free_port(options.address)?,
                port => port,
            };
            let address = SocketAddr::new(options.address, port);
            match Running::start(&library, address, options.data.as_deref()) {
                Ok(running) => return Ok(Self { address, running }),
                Err(LocalError::Ended { .. }) if options.port == 0 && tried < PORTS => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The environment with which an AWS client talks to it and to nobody else.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL_DYNAMODB", self.url()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Ends it in peace, so that a folder with tables is whole, and waits until it is gone. Start it again with the same
    /// options, and the port that [`DynamoDbLocal::address`] told, to have it back.
    pub fn stop(self) -> Result<(), LocalError> {
        self.running.stop()
    }
}

fn free_port(address: IpAddr) -> Result<u16, LocalError> {
    let bound = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    match bound {
        Ok(bound) => Ok(bound.port()),
        Err(error) => Err(LocalError::Io {
            what: format!("no free port at {address}"),
            error,
        }),
    }
}
