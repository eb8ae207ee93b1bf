//! Logs: to standard error, as text or JSON. `RUST_LOG` says what is logged, `info` if it is missing.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flag of logs.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How logs are written, to standard error; RUST_LOG says what is logged
    #[arg(
        long,
        value_enum,
        global = true,
        default_value = "text",
        env = "HALO_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

impl LogArgs {
    /// Logs from here on; `also` is another receiver of what the program does, such as [`crate::traces`].
    ///
    /// # Errors
    /// Something logs already.
    pub fn start<L>(&self, also: Option<L>) -> Result<(), TryInitError>
    where
        L: Layer<Registry> + Send + Sync,
    {
        let mut filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        // Spans of this target say what a line is about, whichever lines are asked for.
        if let Ok(spans) = "halo::trace=info".parse() {
            filter = filter.add_directive(spans);
        }
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match self.log_format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry()
            .with(also)
            .with(lines.with_filter(filter))
            .try_init()
    }
}
