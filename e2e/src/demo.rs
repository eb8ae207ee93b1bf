//! The steps of the demo, in the order in which its log prints them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use halo_ledger::{LedgerError, LedgerUrl};
use halo_receipts::evidence::Stream;
use halo_receipts::ids::{Epoch, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{KeyError, RootKeys, RootSecret, TenantKeys as _};
use halo_receipts::receipt::{Receipt, ReceiptKind};
use halo_receipts::time::Timestamp;
use serde_json::Value;

use crate::processes::{ProcessError, Programs, Running};
use crate::tamper::{self, Place, TamperError};

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
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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

/// The files of the data folder.
struct Data {
    folder: PathBuf,
}

impl Data {
    /// Empties and makes the folder.
    fn create(folder: &Path) -> Result<Self, DemoError> {
        let file = |source| DemoError::File {
            path: folder.to_owned(),
            source,
        };
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file(error)),
            _ => {}
        }
        fs::create_dir_all(folder.join("logs")).map_err(file)?;
        let folder = folder.canonicalize().map_err(file)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), DemoError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|source| DemoError::File { path, source })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DemoError> {
        let path = self.path(name);
        fs::read(&path).map_err(|source| DemoError::File { path, source })
    }

    fn ledger(&self, name: &str) -> String {
        format!("sqlite:{}", self.text(name))
    }
}

/// The programs that stay up for the whole demo.
struct Services {
    substrate: Running,
    gateway: Running,
    gateway_url: String,
}

/// Runs every step and prints the log. Dropping the future ends every program that it started.
pub async fn run(settings: &Settings) -> Result<(), DemoError> {
    let data = Data::create(&settings.data)?;
    let programs = Programs {
        folder: settings.programs.clone(),
        logs: data.path("logs"),
    };
    println!("=== HALO end-to-end demo at {} UTC ===", clock());
    let (services, loaded) = start_services(settings, &data, &programs).await?;
    let session = converse(settings, &data, &programs, &services, &loaded).await?;
    data.write("session_id", format!("{}\n", session.id))?;
    verify_clean(&data, &programs, &session).await?;
    verify_tampered(&data, &programs, &session).await?;
    live_tamper(settings, &data, &programs, &services).await?;
    services.gateway.stop().await?;
    services.substrate.stop().await?;
    println!();
    println!(
        "Every step held. ledger.db, root, session_id, bundle.json and logs/ are in {}.",
        settings.data.display()
    );
    println!(
        "What to look at next: the conversation, and the proof without a key and without the ledger:"
    );
    let verify = settings.programs.join("halo-verify");
    let (verify, data) = (verify.display(), settings.data.display());
    println!(
        "  {verify} {} --ledger sqlite:{data}/ledger.db --demo-root {data}/root --replay",
        session.id
    );
    println!(
        "  {verify} {} --bundle {data}/bundle.json --no-keys",
        session.id
    );
    Ok(())
}

/// The time as receipts write it.
fn clock() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let micros = u64::try_from(now.as_micros()).ok();
    let time = micros.and_then(Timestamp::from_micros);
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// Prints one line of a step: its title in a fixed width, then what it found.
fn step(number: &str, title: &str, found: &str) {
    println!("[{number}] {title:<40} {found}");
}

/// Prints a further line of the step above.
fn detail(text: &str) {
    println!("      {text}");
}

async fn start_services(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
) -> Result<(Services, Value), DemoError> {
    // The first program that is given the demo root makes it; the others read the same file.
    let credential = programs
        .run(
            "halo-gateway",
            [
                "enroll",
                "--demo-root",
                &data.text("root"),
                "--tenant",
                TENANT,
                "--device",
                DEVICE,
            ],
        )
        .await?;
    let credential = succeeded("enrolling the device", credential)?;
    data.write("credential.json", &credential)?;
    succeeded(
        "pairing glasses and phone",
        programs
            .run("halo-tier1", ["pair", "--out", &data.text("pairing.key")])
            .await?,
    )?;
    write_certificate(data)?;

    let mut arguments = vec![
        "--model".to_owned(),
        settings.model.display().to_string(),
        "--listen".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--tenant".to_owned(),
        TENANT.to_owned(),
        "--ledger".to_owned(),
        data.ledger("ledger.db"),
        "--demo-root".to_owned(),
        data.text("root"),
        "--model-name".to_owned(),
        settings.model_name.clone(),
    ];
    if let Some(tokenizer) = &settings.tokenizer {
        arguments.extend(["--tokenizer".to_owned(), tokenizer.display().to_string()]);
    }
    let mut substrate = programs.start("halo-substrate", "substrate", arguments)?;
    let listening = substrate.wait_for("listening", SOON, |_| {}).await?;
    let pod: SocketAddr = parsed(&listening, "addr")?;
    data.write("gateway.toml", gateway_config(data, pod))?;
    let mut gateway = programs.start(
        "halo-gateway",
        "gateway",
        [
            "serve",
            "--config",
            &data.text("gateway.toml"),
            "--demo-root",
            &data.text("root"),
        ],
    )?;
    let listening = gateway.wait_for("listening", SOON, |_| {}).await?;
    let address: SocketAddr = parsed(&listening, "addr")?;
    let loaded = substrate.wait_for("loaded", LONG, |_| {}).await?;
    let services = Services {
        substrate,
        gateway,
        gateway_url: format!("https://localhost:{}", address.port()),
    };
    Ok((services, loaded))
}

/// A certificate for `localhost` that the gateway shows and the phone trusts, made anew for each run.
fn write_certificate(data: &Data) -> Result<(), DemoError> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    data.write("tls.crt", certified.cert.pem())?;
    data.write("tls.key", certified.signing_key.serialize_pem())
}

fn gateway_config(data: &Data, pod: SocketAddr) -> String {
    // TOML basic strings take the same escapes as JSON ones.
    let text = |value: String| Value::String(value).to_string();
    format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = {}\n\n\
         [tls]\ncertificate = {}\nkey = {}\n\n\
         [[tenants]]\nid = \"{TENANT}\"\nsubstrate = \"ws://{pod}\"\n",
        text(data.ledger("ledger.db")),
        text(data.text("tls.crt")),
        text(data.text("tls.key")),
    )
}

/// The session of the first conversation, and what the log says of it later.
struct Session {
    id: SessionId,
    /// Tier 2's halo_tier_response.
    response: ReceiptId,
}

async fn converse(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
    loaded: &Value,
) -> Result<Session, DemoError> {
    let mut phone = start_phone(settings, data, programs, services, "tier1").await?;
    let listening = phone.wait_for("listening", SOON, |_| {}).await?;
    let mut glasses = match &settings.capture {
        Capture::Image(path) => {
            start_glasses(data, programs, "tier0", &listening, "--image", path, &[])?
        }
        Capture::Wav(path) => {
            start_glasses(data, programs, "tier0", &listening, "--wav", path, &[])?
        }
        Capture::Sample => {
            let wav = data.path("question.wav");
            sample(programs, "--wav", &wav).await?;
            start_glasses(data, programs, "tier0", &listening, "--wav", &wav, &[])?
        }
    };
    let opened = phone.wait_for("session_opened", SOON, |_| {}).await?;
    let id: SessionId = parsed(&opened, "session_id")?;
    let epoch = Epoch(parsed(&opened, "session_epoch")?);
    let model = text(loaded, "model")?;
    println!("session_id = {id}, tenant_id = {TENANT}, model = {model}");
    derive_keys(data, &id, epoch)?;

    let mut captures = Vec::new();
    let see = |event: &Value| {
        if event["event"] == "capture_verified" {
            captures.push(event.clone());
        }
    };
    let routed = phone.wait_for("routed", SOON, see).await?;
    for captured in &captures {
        step(
            "1/5",
            &format!("TIER 0: sensor capture, {}", text(captured, "kind")?),
            &format!(
                "{} frames, {} bytes, signed and verified",
                captured["frames"], captured["bytes"]
            ),
        );
        detail(&format!(
            "receipt {}  hmac {}",
            text(captured, "receipt_id")?,
            text(captured, "hmac")?
        ));
    }
    step(
        "2/5",
        &format!("TIER 1: routing decision, {}", text(&routed, "decision")?),
        text(&routed, "reason")?,
    );
    detail(&format!(
        "receipt {}  parent {} (the T0 capture)",
        text(&routed, "receipt_id")?,
        text(&routed, "parent")?
    ));

    let answer = phone.wait_for("answer", LONG, |_| {}).await?;
    step(
        "3/5",
        &format!("TIER 2: load {model}"),
        &format!(
            "model loaded in {} s, weights sha256 {:.16}..",
            loaded["seconds"],
            text(loaded, "weights_sha256")?
        ),
    );
    detail(&format!("prompt: '{}'", settings.prompt));
    detail(&format!(
        "generated {} tokens in {} s = {} tok/s",
        answer["tokens"], answer["seconds"], answer["tok_per_s"]
    ));
    detail(&format!("decoded: '{}'", text(&answer, "text")?));
    let response: ReceiptId = parsed(&answer, "receipt_id")?;
    detail(&format!("receipt {response}"));
    phone.wait_for("sealed", SOON, |_| {}).await?;
    succeeded_status("the phone", phone.wait().await?)?;
    succeeded_status("the glasses", glasses.wait().await?)?;
    Ok(Session { id, response })
}

/// Derives the three tier keys of the session from the root, as every holder of a root can.
fn derive_keys(data: &Data, session: &SessionId, epoch: Epoch) -> Result<(), DemoError> {
    let keys = RootKeys::new(RootSecret::new(data.read("root")?)?, 1, true);
    let tenant: TenantId = TENANT.parse().map_err(|error| DemoError::Step {
        step: "[0/5]",
        what: format!("{error}"),
    })?;
    let session_key = keys
        .session_key(&tenant, session, epoch)
        .ok_or(DemoError::Step {
            step: "[0/5]",
            what: "the root holds no key for this tenant".to_owned(),
        })?;
    let bytes = Tier::ALL.map(|tier| session_key.tier_key(tier).expose().len());
    step(
        "0/5",
        "derive HKDF keys",
        &format!(
            "TIER_KEY[0..{}] derived ({}B each)",
            bytes.len() - 1,
            bytes[0]
        ),
    );
    Ok(())
}

async fn start_phone(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
    label: &str,
) -> Result<Running, DemoError> {
    let arguments = [
        "serve".to_owned(),
        "--gateway".to_owned(),
        services.gateway_url.clone(),
        "--ca".to_owned(),
        data.text("tls.crt"),
        "--credential".to_owned(),
        data.text("credential.json"),
        "--pairing-key".to_owned(),
        data.text("pairing.key"),
        "--listen".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--transcript".to_owned(),
        settings.prompt.clone(),
        "--max-tokens".to_owned(),
        settings.tokens.to_string(),
        "--once".to_owned(),
        "--json".to_owned(),
    ];
    Ok(programs.start("halo-tier1", label, arguments)?)
}

fn start_glasses(
    data: &Data,
    programs: &Programs,
    label: &str,
    listening: &Value,
    what: &str,
    file: &Path,
    more: &[String],
) -> Result<Running, DemoError> {
    let mut arguments = vec![
        "--connect".to_owned(),
        format!("ws://{}", text(listening, "addr")?),
        "--pairing-key".to_owned(),
        data.text("pairing.key"),
        "--json".to_owned(),
        what.to_owned(),
        file.display().to_string(),
    ];
    arguments.extend_from_slice(more);
    Ok(programs.start("halo-tier0", label, arguments)?)
}

/// Has the sensor's program write sample media.
async fn sample(programs: &Programs, what: &str, file: &Path) -> Result<(), DemoError> {
    let file = file.display().to_string();
    let made = programs.run("halo-tier0", ["sample", what, &file]).await?;
    succeeded("writing a sample capture", made).map(|_| ())
}

async fn halo_verify(
    data: &Data,
    programs: &Programs,
    session: &SessionId,
    ledger: &str,
    more: &[&str],
) -> Result<(Option<i32>, String), DemoError> {
    let session = session.to_string();
    let (ledger, root) = (data.ledger(ledger), data.text("root"));
    let mut arguments = vec![session.as_str(), "--ledger", &ledger, "--demo-root", &root];
    arguments.extend_from_slice(more);
    let output = programs.run("halo-verify", arguments).await?;
    let mut report = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(2) {
        report.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    Ok((output.status.code(), report))
}

async fn verify_clean(
    data: &Data,
    programs: &Programs,
    session: &Session,
) -> Result<(), DemoError> {
    let bundle = data.text("bundle.json");
    let more = ["--bundle-out", bundle.as_str()];
    let (code, report) = halo_verify(data, programs, &session.id, "ledger.db", &more).await?;
    let pass = line_with(&report, "PASS - ");
    match (code, pass) {
        (Some(0), Some(pass)) => {
            step(
                "4/5",
                "HALO-VERIFY: walk chain",
                &format!("CLEAN PATH RESULT: {pass}"),
            );
            Ok(())
        }
        _ => Err(DemoError::Step {
            step: "[4/5]",
            what: format!("halo-verify ended with {code:?}:\n{report}"),
        }),
    }
}

async fn verify_tampered(
    data: &Data,
    programs: &Programs,
    session: &Session,
) -> Result<(), DemoError> {
    step(
        "5/5",
        "TAMPER TEST",
        "one byte of a stored tier 2 receipt, in a copy of the ledger",
    );
    let mut detected = Vec::new();
    // Byte 30 stands inside event_payload_hash; byte 40 of the payload stands in the roots of its blocks.
    for (copy, place, offset, expected) in [
        ("tampered.db", Place::Receipt, 30, "HMAC FAIL at receipt "),
        (
            "tampered-payload.db",
            Place::Payload,
            40,
            "PAYLOAD HASH FAIL at receipt ",
        ),
    ] {
        let path = data.path(copy);
        tamper::copy(&data.path("ledger.db"), &path)?;
        tamper::flip_byte(&path, &session.response, place, offset)?;
        let (code, report) = halo_verify(data, programs, &session.id, copy, &[]).await?;
        let named = format!("{expected}{}", session.response);
        match (code, line_with(&report, &named)) {
            (Some(1), Some(line)) => detected.push((line.to_owned(), report)),
            _ => {
                return Err(DemoError::Step {
                    step: "[5/5]",
                    what: format!(
                        "the damage was not named; halo-verify ended with {code:?}:\n{report}"
                    ),
                });
            }
        }
    }
    detail("TAMPERED PATH RESULT: CORRECTLY DETECTED");
    for (line, report) in &detected {
        detail(&format!("  {line}"));
        // What follows the line, indented further, says which byte it was.
        let found = report
            .lines()
            .skip_while(|found| found.trim() != line.trim())
            .skip(1);
        for more in found.take_while(|more| more.starts_with("    ")) {
            detail(&format!("    {}", more.trim()));
        }
    }
    Ok(())
}

async fn live_tamper(
    settings: &Settings,
    data: &Data,
    programs: &Programs,
    services: &Services,
) -> Result<(), DemoError> {
    step("+", "LIVE TAMPER", "one byte of an image frame, in flight");
    let image = data.path("photo.jpg");
    sample(programs, "--image", &image).await?;
    let mut phone = start_phone(settings, data, programs, services, "tier1-tamper").await?;
    let listening = phone.wait_for("listening", SOON, |_| {}).await?;
    let frame = ["--tamper-frame".to_owned(), TAMPERED_FRAME.to_string()];
    let mut glasses = start_glasses(
        data,
        programs,
        "tier0-tamper",
        &listening,
        "--image",
        &image,
        &frame,
    )?;
    let opened = phone.wait_for("session_opened", SOON, |_| {}).await?;
    let id: SessionId = parsed(&opened, "session_id")?;
    let broken = phone.wait_for("chain_broken", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: frame {} refused ({}); 0x80 sent, nothing of the capture written",
        broken["first_bad"],
        text(&broken, "reason")?
    ));
    glasses.wait_for("alert", SOON, |_| {}).await?;
    detail("tier 0: key wiped; SECURITY ALERT - CHAIN BROKEN");
    let relinked = phone.wait_for("relinked", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: epoch {} opened, the break recorded in receipt {}; 0x81 sent",
        relinked["session_epoch"],
        text(&relinked, "receipt_id")?
    ));
    glasses.wait_for("relinked", SOON, |_| {}).await?;
    detail("tier 0: READY TO RE-LINK; capture resumes");
    let captured = phone.wait_for("capture_verified", SOON, |_| {}).await?;
    detail(&format!(
        "tier 1: capture verified, {} frames, receipt {}",
        captured["frames"],
        text(&captured, "receipt_id")?
    ));
    phone.wait_for("sealed", LONG, |_| {}).await?;
    succeeded_status("the phone", phone.wait().await?)?;
    succeeded_status("the glasses", glasses.wait().await?)?;
    let kept = captures_in(data, &id).await?;
    let (code, report) = halo_verify(data, programs, &id, "ledger.db", &[]).await?;
    match (
        code,
        line_with(&report, "PASS - "),
        line_with(&report, "break recorded"),
    ) {
        (Some(0), Some(pass), Some(found)) if kept == 1 => {
            detail("ledger: one capture, the whole one");
            detail(&format!("halo-verify: {}", pass.trim()));
            detail(&format!("             {}", found.trim()));
            Ok(())
        }
        _ => Err(DemoError::Step {
            step: "[+]",
            what: format!(
                "the ledger holds {kept} captures and must hold 1; halo-verify ended with {code:?} and must pass and \
                 show the break:\n{report}"
            ),
        }),
    }
}

/// How many sensor captures the ledger holds of a session.
async fn captures_in(data: &Data, session: &SessionId) -> Result<usize, DemoError> {
    let url: LedgerUrl = data.ledger("ledger.db").parse()?;
    let evidence = halo_ledger::open_read_only(&url)?.snapshot(session).await?;
    let evidence = evidence.unwrap_or_default();
    let receipts = evidence.receipts(Stream::Device);
    let parsed = receipts.filter_map(|(_, stored)| Receipt::parse(&stored.bytes).ok());
    Ok(parsed
        .filter(|receipt| receipt.body.receipt_kind == ReceiptKind::SensorCapture)
        .count())
}

fn line_with<'a>(report: &'a str, words: &str) -> Option<&'a str> {
    report.lines().find(|line| line.contains(words))
}

fn text<'a>(event: &'a Value, field: &'static str) -> Result<&'a str, DemoError> {
    event[field].as_str().ok_or_else(|| DemoError::Event {
        event: event.to_string(),
        field,
    })
}

/// A field of an event, as a string or a number, parsed.
fn parsed<T: std::str::FromStr>(event: &Value, field: &'static str) -> Result<T, DemoError> {
    let value = match &event[field] {
        Value::String(text) => text.parse().ok(),
        other => other.to_string().parse().ok(),
    };
    value.ok_or_else(|| DemoError::Event {
        event: event.to_string(),
        field,
    })
}

/// The standard output of a program that must have succeeded.
fn succeeded(step: &'static str, output: Output) -> Result<Vec<u8>, DemoError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(DemoError::Step {
        step,
        what: format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    })
}

fn succeeded_status(step: &'static str, status: std::process::ExitStatus) -> Result<(), DemoError> {
    if status.success() {
        return Ok(());
    }
    Err(DemoError::Step {
        step,
        what: format!("ended with {status}; its log says why"),
    })
}
