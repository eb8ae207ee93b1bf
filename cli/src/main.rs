//! `halo`: flags in, an exit code out.

use clap::Parser;

/// Checks a cluster and its AWS account, makes the ledger's table, opens a test session.
#[derive(Parser)]
#[command(name = "halo", version)]
struct Cli {}

fn main() {
    Cli::parse();
}
