//! `halo-verify`: reads flags, verifies, prints, and ends with the verdict's exit code.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use halo_audit::cli::Cli;
use halo_audit::run::run;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match verdict(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nothing can be done if standard error is closed too.
            let _ = writeln!(anstream::stderr(), "halo-verify: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn verdict(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let mut out = std::io::BufWriter::new(anstream::stdout());
    let code = runtime.block_on(run(cli, &mut out))?;
    out.flush().context("cannot write to standard output")?;
    Ok(code)
}
