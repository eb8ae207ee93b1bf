//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run HALO whole, on a real cluster on this machine: helm, real kubelets and containerd, DynamoDB Local, the AWS emulator whose
/// instances boot nodes, Prometheus, devices.
///
/// Needs root and some Debian packages; without them it says which. Progress goes to standard error, the summary to standard output.
///
/// Exit codes: 0 every step passed; 1 a step failed; 2 wrong usage; 3 something is missing on this machine; 4 another run is under way.
#[derive(Debug, Parser)]
#[command(name = "halo-e2e-run", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Arguments,
}

/// What a run is told.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Only this step, 1 to 7; may be given again. What a step needs is set up whatever is asked for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub step: Vec<u8>,
    /// For how many seconds step 3 watches idle sockets: every request of the gateways to the API server meanwhile is a failure.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub idle: u64,
    /// Leave everything running after the steps, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// The checkout: charts, examples, the builder of images.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub repository: PathBuf,
    /// Images as `images/build.py --out` makes them; without it they are built.
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<PathBuf>,
    /// The images' tag.
    #[arg(long, value_name = "TAG", default_value = "e2e")]
    pub tag: String,
    /// Where logs go; they are kept.
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir().join("halo-e2e-logs"))]
    pub logs: PathBuf,
}

/// What the run calls itself for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be a machine of the cluster: the AWS emulator's boot hook
    #[command(hide = true)]
    Node {
        /// What the cluster told its machines.
        #[arg(long)]
        joined: PathBuf,
        /// A node of the cluster's own; otherwise an instance.
        #[arg(long)]
        name: Option<String>,
    },
    /// The first of a machine's programs
    #[command(hide = true)]
    NodeInit {
        /// What the machine is.
        machine: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_given_one_by_one() {
        let cli = Cli::try_parse_from(["x", "--step", "1", "--step", "7", "--json"]).unwrap();
        assert_eq!(cli.run.step, [1, 7]);
        assert_eq!(cli.run.idle, 15);
        assert!(cli.run.json && !cli.run.keep);
        for bad in [
            &["x", "--step", "0"][..],
            &["x", "--step", "8"],
            &["x", "up"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
