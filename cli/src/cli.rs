//! The flags of `halo`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use halo_crds::Period;
use halo_emulators::edge::logs::LogFormat;
use halo_emulators::tier1::machine::ATTEMPTS_MAX;
use halo_ledger::LedgerUrl;
use halo_receipts::ids::DeviceId;

use crate::check::render::Output;
use crate::check::{self, Component, Group};
use crate::session;

/// Checks a cluster and its AWS account, makes the ledger's table, opens a test session.
#[derive(Parser)]
#[command(name = "halo", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How logs on standard error look; RUST_LOG says what is logged.
    #[arg(
        long,
        value_enum,
        default_value_t,
        global = true,
        env = "HALO_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  as it should be
  1  a check, the table or the session failed
  2  wrong usage, or a file that cannot be used
  3  it could not be told";

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Check that the cluster, the network and the AWS account have what HALO needs, and name what is missing.
    ///
    /// Run it in the cluster, under the service account of the component to check: there, names, routes and permissions are those that
    /// the component has. Calls change nothing. See docs/aws-vpc.md.
    #[command(after_help = EXIT_CODES)]
    Check(Box<CheckArgs>),
    /// The ledger's table.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Open a session as a device does, have it recorded and answered, and verify it from the ledger.
    ///
    /// The device is enrolled with the tenant's own key, so its session is a real one and stays in the ledger.
    #[command(after_help = EXIT_CODES)]
    SessionTest(SessionArgs),
    /// Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`.
    Crds,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// What is done with the ledger's table.
#[derive(Subcommand)]
pub enum LedgerCommand {
    /// Make the table: paid by request, with point-in-time recovery and deletion protection, without time to live.
    ///
    /// A table that is there is left as it is; what differs is listed, and the exit code is 1.
    Create {
        /// The table.
        #[arg(long, value_name = "dynamodb:TABLE@REGION", env = "HALO_LEDGER")]
        ledger: LedgerUrl,
    },
}

/// The flags of `halo check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Before the charts are installed: what they need, and nothing that they make.
    #[arg(long)]
    pub pre: bool,

    /// Only these groups.
    #[arg(long, value_enum, value_name = "GROUP", value_delimiter = ',')]
    pub only: Vec<Group>,

    /// Whose permissions are asked; `all` is for administrators.
    #[arg(long, value_enum, default_value_t)]
    pub component: Component,

    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Check again until nothing fails, for so long, such as 5m.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub wait: Period,

    /// How long a name, a connection or a handshake may take.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub timeout: Period,

    /// Where the charts are installed.
    #[arg(short, long, default_value = "halo-system", env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Another kubeconfig than the usual one.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Another context than the current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// The region of SSM, EC2 and STS; the ledger's if left out.
    #[arg(long, env = "AWS_REGION")]
    pub region: Option<String>,

    /// The parameter that holds the root secret.
    #[arg(long, value_name = "NAME", default_value = "/halo/root")]
    pub root_parameter: String,

    /// The ledger's table.
    #[arg(long, value_name = "dynamodb:TABLE@REGION", env = "HALO_LEDGER")]
    pub ledger: Option<LedgerUrl>,

    /// The VPC has no way out: a public address is a warning.
    #[arg(long)]
    pub isolated: bool,
}

impl CheckArgs {
    /// What is checked, with the environment of this process.
    pub fn options(self) -> check::Options {
        check::Options {
            pre: self.pre,
            only: self.only,
            component: self.component,
            namespace: self.namespace,
            kubeconfig: self.kubeconfig,
            context: self.context,
            region: self.region,
            root_parameter: self.root_parameter,
            ledger: match self.ledger {
                Some(LedgerUrl::DynamoDb { table, region }) => Some((table, region)),
                // A file is nothing of AWS.
                _ => None,
            },
            isolated: self.isolated,
            timeout: self.timeout.get(),
            variable: Arc::new(|name| std::env::var(name).ok()),
        }
    }
}

/// The flags of `halo session-test`.
#[derive(Args)]
pub struct SessionArgs {
    /// The gateway.
    #[arg(long, value_name = "https://HOST[:PORT]")]
    pub gateway: String,

    /// PEM certificates that the gateway's is signed by.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,

    /// The tenant's keyring: keyring.json of the Secret halo-keys-<tenant id> in the operator's namespace.
    #[arg(long, value_name = "FILE")]
    pub keyring: PathBuf,

    /// Where the gateway records.
    #[arg(long, value_name = "URL", env = "HALO_LEDGER")]
    pub ledger: LedgerUrl,

    /// What the substrate is asked. Left out, the session is recorded and verified, and nothing wakes.
    #[arg(long, value_name = "TEXT")]
    pub question: Option<String>,

    /// The id of the device that is enrolled.
    #[arg(long, value_name = "ID", default_value = "session-test")]
    pub device: DeviceId,

    /// The generation of the device's key; the tenant's spec.devices may ask for a higher one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub device_generation: u32,

    /// The most tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,

    /// How often the question may be put off before it is given up: a gateway holds it for a while only, and a wake may take longer.
    #[arg(long, value_name = "N", default_value_t = ATTEMPTS_MAX)]
    pub attempts: u32,

    /// How long all of it may take, a wake included.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub timeout: Period,

    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,

    /// For tests: shift this program's clock by so many seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true,
        env = "HALO_CLOCK_OFFSET_SECONDS"
    )]
    pub clock_offset_seconds: i64,
}

impl SessionArgs {
    /// What is tried.
    pub fn options(self) -> session::Options {
        session::Options {
            gateway: self.gateway,
            ca: self.ca,
            keyring: self.keyring,
            ledger: self.ledger,
            question: self.question,
            device: self.device,
            device_generation: self.device_generation,
            max_tokens: self.max_tokens,
            attempts: self.attempts,
            timeout: self.timeout.get(),
            clock_offset: self.clock_offset_seconds,
        }
    }
}

/// How the program was called: by its own name, or by kubectl as a plugin.
pub fn called_as(program: Option<&std::ffi::OsStr>) -> &'static str {
    let name = program
        .map(std::path::Path::new)
        .and_then(|path| path.file_stem());
    match name.and_then(|name| name.to_str()) {
        Some("kubectl-halo") => "kubectl halo",
        _ => "halo",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::time::Duration;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_plugin_of_kubectl_says_so() {
        for (program, name) in [
            ("/usr/local/bin/kubectl-halo", "kubectl halo"),
            ("kubectl-halo.exe", "kubectl halo"),
            ("/halo", "halo"),
        ] {
            assert_eq!(called_as(Some(program.as_ref())), name);
        }
        assert_eq!(called_as(None), "halo");
        let help = Cli::command()
            .bin_name("kubectl halo")
            .render_help()
            .to_string();
        assert!(help.contains("Usage: kubectl halo"), "{help}");
    }

    #[test]
    fn what_flags_become() {
        let arguments = [
            "halo",
            "check",
            "--ledger",
            "dynamodb:howdify-receipts@us-east-2",
            "--wait",
            "5m",
            "--only",
            "aws,ledger",
            "-o",
            "json",
        ];
        let cli = Cli::try_parse_from(arguments).unwrap();
        let Command::Check(arguments) = cli.command else {
            panic!("another verb")
        };
        assert_eq!(
            (arguments.wait.get(), arguments.output),
            (Duration::from_secs(300), Output::Json)
        );
        let options = arguments.options();
        assert_eq!(
            options.ledger,
            Some(("howdify-receipts".to_owned(), "us-east-2".to_owned()))
        );
        assert_eq!(options.only, [Group::Aws, Group::Ledger]);
    }
}
