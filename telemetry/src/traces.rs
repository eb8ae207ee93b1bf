//! Traces: spans of target [`TARGET`] to an OpenTelemetry collector, over OTLP's HTTP with JSON. Off unless an endpoint is named.
//!
//! A span becomes part of the trace whose id is its request's id, in whichever program it is: gateway and pod need no header between
//! them to be in one trace. What leaves the program is a span's name, its times, and the attributes of [`span::ATTRIBUTES`] if
//! their values look like what they are called; never an event, never a text.
//!
//! A collector that is slow or away costs nothing but its spans: they wait in a bounded queue, and beyond it are dropped and counted.

mod export;
mod layer;
mod otlp;
pub mod span;

use std::sync::LazyLock;
use std::time::Duration;

use clap::Args;
use http::Uri;
use http::uri::Scheme;
use prometheus::{IntCounterVec, Opts};
use tracing_subscriber::util::TryInitError;

pub use self::export::Guard;
pub use self::layer::TraceLayer;
use crate::logs::LogArgs;
use crate::metrics::traces::SPANS;
use crate::registry::Maker;

/// The target of spans that are exported.
pub const TARGET: &str = "halo::trace";

/// Spans that wait to be sent.
const QUEUE: usize = 4096;

/// The flags of traces.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Send traces to this OpenTelemetry collector, over OTLP's HTTP, such as http://collector:4318; without it none are made
    #[arg(
        long,
        value_name = "URL",
        global = true,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_parser = endpoint
    )]
    pub otlp_endpoint: Option<Uri>,

    /// The name of this program in traces; by default its own
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        env = "OTEL_SERVICE_NAME",
        hide_short_help = true
    )]
    pub otlp_service_name: Option<String>,
}

/// The flags of logs and traces, for the command line of a program.
#[derive(Debug, Clone, Args)]
pub struct TelemetryArgs {
    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,
    /// Traces.
    #[command(flatten)]
    pub traces: TraceArgs,
}

/// What traces need to know.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// The collector; spans go to its path `/v1/traces`. `None`: no traces.
    pub endpoint: Option<Uri>,
    /// The program's name, `service.name`.
    pub service: String,
    /// Its version, `service.version`.
    pub version: String,
    /// Which of several it is, `service.instance.id`: the pod's name.
    pub instance: Option<String>,
}

/// Why traces cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system has no certificate authorities and the collector is behind TLS.
    #[error("--otlp-endpoint: the system's certificate authorities cannot be read")]
    Roots(#[source] std::io::Error),
    /// The system gives no thread, or no sockets.
    #[error("the thread that sends traces cannot start")]
    Thread(#[source] std::io::Error),
    /// Something logs already.
    #[error("the log is started already")]
    Log(#[from] TryInitError),
}

/// Parses the URL of a collector.
fn endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match uri.scheme() {
        Some(scheme) if [Scheme::HTTP, Scheme::HTTPS].contains(scheme) => Ok(uri),
        _ => Err("name it as http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

impl TelemetryArgs {
    /// Logs and, if asked to, sends traces, until the guard is dropped. `service` and `version` are the program's.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(&self, service: &str, version: &str) -> Result<Guard, StartError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (layer, guard) = start(TraceOptions {
            endpoint: self.traces.otlp_endpoint.clone(),
            service: match &self.traces.otlp_service_name {
                Some(name) => name.clone(),
                None => service.to_owned(),
            },
            version: version.to_owned(),
            instance: variable("POD_NAME").or_else(|| variable("HOSTNAME")),
        })?;
        self.logs.start(layer)?;
        Ok(guard)
    }
}

/// A receiver of spans, and a guard that sends what is left when it is dropped, for at most [`FLUSH`]. Without an endpoint neither
/// does anything.
///
/// # Errors
/// See [`StartError`].
pub fn start(options: TraceOptions) -> Result<(Option<TraceLayer>, Guard), StartError> {
    let Some(endpoint) = &options.endpoint else {
        return Ok((None, Guard::off()));
    };
    let (queue, guard) = export::start(endpoint, otlp::Resource::new(&options), QUEUE)?;
    Ok((Some(TraceLayer::new(queue)), guard))
}

/// How long the end of a program may wait for the collector.
pub const FLUSH: Duration = Duration::from_secs(3);

/// What became of spans, in this process.
static OUTCOMES: LazyLock<Option<IntCounterVec>> =
    LazyLock::new(|| IntCounterVec::new(Opts::new(SPANS.name, SPANS.help), SPANS.labels).ok());

fn count(outcome: &'static str, spans: usize) {
    if let Some(outcomes) = &*OUTCOMES {
        outcomes.with_label_values(&[outcome]).inc_by(spans as u64);
    }
}

/// Serves the counts of traces with a program's own metrics. They are the process's: one program, one log, one exporter.
///
/// # Errors
/// They are registered already.
pub fn metrics(maker: &Maker) -> prometheus::Result<()> {
    if let Some(outcomes) = &*OUTCOMES {
        for outcome in ["sent", "dropped", "refused"] {
            outcomes.with_label_values(&[outcome]);
        }
        maker.add(&SPANS, outcomes.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::metrics::traces::COMPONENT;

    #[test]
    fn an_endpoint_is_a_url_of_http() {
        assert!(endpoint("http://collector:4318").is_ok());
        assert!(endpoint("https://collector.example/otlp").is_ok());
        for wrong in ["collector:4318", "grpc://collector:4317", "", "http://"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        telemetry: TelemetryArgs,
        #[command(subcommand)]
        command: Command,
    }

    #[derive(clap::Subcommand)]
    enum Command {
        Run,
    }

    #[test]
    fn the_flags_stand_before_or_after_a_command() {
        use clap::Parser as _;
        let parse = |flags: &[&str]| {
            let all = ["program"].iter().chain(flags);
            let Program { telemetry, command } = Program::try_parse_from(all).map_err(drop)?;
            let Command::Run = command;
            Ok::<_, ()>(telemetry)
        };
        let url = "http://collector:4318";
        for flags in [
            ["--otlp-endpoint", url, "--log-format", "json", "run"],
            ["run", "--log-format", "json", "--otlp-endpoint", url],
        ] {
            let telemetry = parse(&flags).unwrap();
            assert_eq!(telemetry.traces.otlp_endpoint.unwrap(), *url);
            assert_eq!(telemetry.logs.log_format, crate::logs::LogFormat::Json);
        }
        assert!(parse(&["--otlp-endpoint", "collector", "run"]).is_err());
    }

    #[test]
    fn nothing_is_missing() {
        let maker = Maker::new();
        metrics(&maker).unwrap();
        assert!(maker.missing(&COMPONENT).is_empty());
        let text = String::from_utf8(maker.render().unwrap()).unwrap();
        assert!(text.contains("halo_traces_spans_total{outcome=\"dropped\"}"));
    }
}
