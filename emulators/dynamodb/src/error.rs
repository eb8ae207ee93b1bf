//! Why DynamoDB Local could not be had.

/// What is wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No Java.
    #[error(
        "java is not there; install a Java 17 runtime, on Debian: apt-get install openjdk-17-jre-headless"
    )]
    NoJava,
    /// No Maven, and the emulator is not in the cache yet.
    #[error(
        "mvn is not there, and fetches DynamoDB Local the first time; on Debian: apt-get install maven"
    )]
    NoMaven,
    /// No place for the cache.
    #[error("neither XDG_CACHE_HOME nor HOME says where the cache is")]
    NoCache,
    /// Maven failed.
    #[error("mvn could not fetch DynamoDB Local ({status}):\n{output}")]
    Fetch {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said at last.
        output: String,
    },
    /// The emulator ended instead of answering.
    #[error("DynamoDB Local ended at once, perhaps because port {port} is taken:\n{output}")]
    Ended {
        /// Its port.
        port: u16,
        /// What it said.
        output: String,
    },
    /// The emulator does not answer.
    #[error("DynamoDB Local has not answered at {address} for {seconds} s:\n{output}")]
    Silent {
        /// Where.
        address: std::net::SocketAddr,
        /// For how long.
        seconds: u64,
        /// What it said.
        output: String,
    },
    /// A file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        error: std::io::Error,
    },
}

impl LocalError {
    /// For `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| LocalError::Io { what, error }
    }
}
