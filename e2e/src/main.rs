//! `halo-demo`: one whole conversation and its tamper tests, by the product's own programs, on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use halo_e2e::demo::{self, Capture, Settings};

/// Run one HALO session end to end on this machine: sensor, phone, gateway, substrate, ledger and verifier as separate
/// programs on loopback, then damage a copy of the ledger and a frame in flight, and check that both are found.
///
/// Exit code 0 only if every step held. What is left to look at is in the data folder.
#[derive(Parser)]
#[command(name = "halo-demo", version)]
struct Arguments {
    /// The model: a Hugging Face Qwen3-MoE folder or a GGUF file.
    #[arg(long, default_value = "substrate/demo-model/model")]
    model: PathBuf,
    /// The tokenizer.json of a GGUF model.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// What the sensor captures: a 16-bit PCM wav or a 640x480 JPEG. Default: a generated wav.
    #[arg(long, value_name = "WAV|JPEG")]
    capture: Option<PathBuf>,
    /// What is said in the capture, as the phone would transcribe it.
    #[arg(long, default_value = demo::PROMPT)]
    prompt: String,
    /// The most tokens to generate.
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Where ledger, root, session id, bundle and logs go; what an earlier demo left there is removed first.
    #[arg(long, default_value = "target/demo")]
    data: PathBuf,
}

impl Arguments {
    fn settings(self) -> anyhow::Result<Settings> {
        let own = std::env::current_exe().context("the path of this program is unknown")?;
        let programs = own
            .parent()
            .context("this program has no folder")?
            .to_owned();
        let capture = match self.capture {
            None => Capture::Sample,
            Some(path) => match path.extension().and_then(|e| e.to_str()) {
                Some("jpg" | "jpeg" | "JPG" | "JPEG") => Capture::Image(path),
                _ => Capture::Wav(path),
            },
        };
        // A folder that is only called `model` says nothing; the one above it does.
        let mut names = self.model.iter().rev().filter_map(|name| name.to_str());
        let model_name = names
            .find(|name| *name != "model" && *name != "..")
            .unwrap_or("model");
        let model_name = model_name.trim_end_matches(".gguf").to_owned();
        Ok(Settings {
            model_name,
            programs,
            data: self.data,
            model: self.model,
            tokenizer: self.tokenizer,
            capture,
            prompt: self.prompt,
            tokens: self.tokens,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("halo-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.settings()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        // Whichever ends first drops the other, and with it the handles that end every program that was started.
        tokio::select! {
            outcome = demo::run(&settings) => Ok(outcome?),
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; every program is stopped"),
            _ = terminate.recv() => anyhow::bail!("terminated; every program is stopped"),
        }
    })
}
