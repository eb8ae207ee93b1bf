//! The demo: what it runs with, and its steps in the order in which its log prints them.

mod conversation;
mod data;
mod log;
mod services;
mod tampering;

use std::path::PathBuf;
use std::time::Duration;

use halo_ledger::LedgerError;
use halo_receipts::keys::KeyError;

use crate::processes::{ProcessError, Programs};
use crate::tamper::TamperError;
use conversation::converse;
use data::Data;
use log::{clock, line};
use services::start_services;
use tampering::{live_tamper, verify_clean, verify_tampered};

/// What the sample capture says.
pub const PROMPT: &str = "What is sovereign inference, in one sentence?";

const TENANT: &str = "acme-warehouse";
const DEVICE: &str = "phone-1";
/// How long a step may take that only moves data.
const SOON: Duration = Duration::from_secs(30);
/// How long a model may take to load or to answer.
const LONG: Duration = Duration::from_secs(600);
/// The frame of the picture in which a byte is flipped in flight.
const TAMPERED_FRAME: u32 = 20;

/// Why the demo did not hold.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A program did not do its part.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The copy of the ledger could not be damaged.
    #[error(transparent)]
    Tamper(#[from] TamperError),
    /// The root secret cannot be used.
    #[error("the demo's root: {0}")]
    Root(#[from] KeyError),
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The folder holds something that no demo wrote.
    #[error("{0} holds files that no demo wrote; name an empty or a new folder with --data")]
    NotOurs(PathBuf),
    /// Another demo runs.
    #[error("{0} is in use by another demo; wait for it, or name another folder with --data")]
    InUse(PathBuf),
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The certificate could not be made.
    #[error("the certificate for the gateway could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// An event lacks what the log prints.
    #[error("the event {event} has no usable '{field}'")]
    Event {
        /// The event.
        event: String,
        /// The field.
        field: &'static str,
    },
    /// A step gave another result than it must.
    #[error("{step}: {what}")]
    Step {
        /// The step.
        step: &'static str,
        /// What happened instead.
        what: String,
    },
}

/// What is captured.
#[derive(Debug, Clone)]
pub enum Capture {
    /// A generated wav.
    Sample,
    /// A 16-bit PCM wav.
    Wav(PathBuf),
    /// A 640x480 JPEG.
    Image(PathBuf),
}

/// What the demo runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the programs.
    pub programs: PathBuf,
    /// Where everything that is left behind goes.
    pub data: PathBuf,
    /// The model's folder or file.
    pub model: PathBuf,
    /// The tokenizer of a GGUF model.
    pub tokenizer: Option<PathBuf>,
    /// The model's name in the receipts.
    pub model_name: String,
    /// What is captured.
    pub capture: Capture,
    /// What is said in it.
    pub prompt: String,
    /// The most tokens to generate.
    pub tokens: u32,
}
/// Runs every step and prints the log. Dropping the future ends every program that it started.
pub async fn run(settings: &Settings) -> Result<(), DemoError> {
    let data = Data::create(&settings.data)?;
    let programs = Programs {
        folder: settings.programs.clone(),
        logs: data.path("logs"),
    };
    line(&format!("=== HALO end-to-end demo at {} UTC ===", clock()));
    let (services, loaded) = start_services(settings, &data, &programs).await?;
    let session = converse(settings, &data, &programs, &services, &loaded).await?;
    data.write("session_id", format!("{}\n", session.id))?;
    verify_clean(&data, &programs, &session).await?;
    verify_tampered(&data, &programs, &session).await?;
    live_tamper(settings, &data, &programs, &services).await?;
    services.gateway.stop().await?;
    services.substrate.stop().await?;
    line("");
    line(&format!(
        "Every step held. ledger.db, root, session_id, bundle.json and logs/ are in {}.",
        settings.data.display()
    ));
    line(
        "What to look at next: the conversation, and the proof without a key and without the ledger:",
    );
    let verify = settings.programs.join("halo-verify");
    // Shorter to read, and the same for everybody who runs it from the checkout.
    let here = std::env::current_dir().unwrap_or_default();
    let verify = verify.strip_prefix(here).unwrap_or(&verify);
    let (verify, data) = (verify.display(), settings.data.display());
    line(&format!(
        "  {verify} {} --ledger sqlite:{data}/ledger.db --demo-root {data}/root --replay",
        session.id
    ));
    line(&format!(
        "  {verify} {} --bundle {data}/bundle.json --no-keys",
        session.id
    ));
    Ok(())
}
