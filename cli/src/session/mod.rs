//! `halo session-test`: a device of its own goes through everything that a device does, and what stands in the ledger is verified.

pub mod enrol;
pub mod stages;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use halo_emulators::edge::clock;
use halo_emulators::tier0::machine::Capture;
use halo_emulators::tier0::{run as sensor, sample, sound, wav};
use halo_emulators::tier1::classifier::{Classifier, Rules};
use halo_emulators::tier1::classify::{Heard, Intent, Understanding};
use halo_emulators::tier1::client::{ClientError, Gateway};
use halo_emulators::tier1::local::Facts;
use halo_emulators::tier1::machine::Config;
use halo_emulators::tier1::serve::{self, Said, ServeError};
use halo_emulators::tier1::transcribe::{Deaf, Fixed, Transcriber};
use halo_ledger::{LedgerError, LedgerUrl};
use halo_receipts::documents::Sampling;
use halo_receipts::ids::{DeviceId, SessionId};
use halo_receipts::keys::PairingKey;
use halo_receipts::verdict::{self, Verdict};
use tokio::time::{Instant, sleep, timeout_at};

use enrol::{EnrolError, Keyring};
use stages::{Outcome, Watch};

/// Between two looks into the ledger, while the last receipts may still be on their way.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the ledger may take to show what the gateway has acknowledged.
const SETTLE: Duration = Duration::from_secs(15);

/// What is tried.
pub struct Options {
    /// The gateway, `https://HOST[:PORT]`.
    pub gateway: String,
    /// PEM certificates that the gateway's is signed by.
    pub ca: PathBuf,
    /// The tenant's keyring with its ENROLL_KEY: `keyring.json` of the Secret `halo-keys-<tenant id>`.
    pub keyring: PathBuf,
    /// Where the receipts are.
    pub ledger: LedgerUrl,
    /// What is asked; without it the session is recorded and nothing wakes.
    pub question: Option<String>,
    /// The device that is enrolled for it.
    pub device: DeviceId,
    /// The generation of the device's key.
    pub device_generation: u32,
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// How often the question may be put off, such as while the substrate wakes for longer than a gateway holds, before it is given up.
    pub attempts: u32,
    /// How long all of it may take, a wake included.
    pub timeout: Duration,
    /// By how many seconds the device's clock is before the machine's.
    pub clock_offset: i64,
}

/// Why the test could not be made, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No device can be enrolled.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The gateway's address or certificates.
    #[error(transparent)]
    Gateway(#[from] ClientError),
    /// The phone stopped.
    #[error("{0}")]
    Phone(#[from] ServeError),
    /// The sensor stopped.
    #[error("{0}")]
    Sensor(#[from] sensor::RunError),
    /// The generated sound cannot be captured.
    #[error("the sample capture is broken: {0}")]
    Sample(String),
    /// It took too long.
    #[error("not finished within {limit:?}, at the stage {stage}{because}")]
    Late {
        /// How long it could take.
        limit: Duration,
        /// What it waited for.
        stage: &'static str,
        /// What was said last of why.
        because: String,
    },
    /// The ledger cannot be read, so nothing is verified.
    #[error("the session cannot be verified: {0}")]
    Ledger(#[from] LedgerError),
}

impl SessionError {
    /// 3 if nothing can be said of the session itself, 1 if it failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Ledger(_) | Self::Sample(_) => 3,
            Self::Enrol(_) | Self::Gateway(_) => 2,
            Self::Phone(_) | Self::Sensor(_) | Self::Late { .. } => 1,
        }
    }
}

/// Sends every utterance on: what is asked here is asked of the substrate, whatever its words.
struct Asked;

#[async_trait]
impl Classifier for Asked {
    async fn classify(&self, heard: &Heard) -> Understanding {
        Understanding {
            intent: Intent::Escalate,
            prompt: heard.segments.join(" "),
            reason: "asked by a session test".to_owned(),
            classifier: "session-test/1".to_owned(),
        }
    }
}

/// Opens a session, has it sealed, and verifies it. `tell` hears of each stage as it is reached.
///
/// # Errors
/// See [`SessionError`].
pub async fn run(
    options: &Options,
    tell: impl FnMut(&'static str, Duration),
) -> Result<Outcome, SessionError> {
    let keyring = Keyring::read(&options.keyring)?;
    let mut watch = Watch::new(tell);
    let deadline = Instant::now() + options.timeout;
    let talked = timeout_at(deadline, converse(options, &keyring, &mut watch)).await;
    match talked {
        Ok(done) => done?,
        Err(_) => {
            return Err(SessionError::Late {
                limit: options.timeout,
                stage: watch.waits_for(),
                because: watch.because(),
            });
        }
    }
    let Some(session) = watch.session() else {
        return Err(ServeError::Stopped("the phone ended without a session".to_owned()).into());
    };
    let verdict = verify(options, &keyring, &session).await?;
    watch.reached("verified");
    Ok(watch.outcome(options.question.is_some(), keyring.tenant(), &verdict))
}

/// The sensor and the phone in this process, until the session is sealed.
async fn converse<F: FnMut(&'static str, Duration)>(
    options: &Options,
    keyring: &Keyring,
    watch: &mut Watch<F>,
) -> Result<(), SessionError> {
    let gateway = Gateway::new(&options.gateway, &options.ca)?;
    let recording =
        wav::read(&sample::speech()).map_err(|error| SessionError::Sample(error.to_string()))?;
    let mut captures = sound::captures(&recording, &sound::VoiceDetection::default());
    // One phrase is enough.
    captures.truncate(1);
    let pairing = clock::random().map_err(ServeError::from)?;
    let (transcriber, classifier): (Box<dyn Transcriber>, Arc<dyn Classifier>) =
        match &options.question {
            Some(question) => (Box::new(Fixed(question.clone())), Arc::new(Asked)),
            None => (Box::new(Deaf), Arc::new(Rules)),
        };
    let phone = serve::Options {
        config: Config {
            tenant: keyring.tenant().clone(),
            device: options.device.clone(),
            generation: options.device_generation,
            key: keyring.device_key(&options.device, options.device_generation)?,
            pairing: PairingKey::from_bytes(pairing),
            max_tokens: options.max_tokens,
            sampling: Sampling {
                temperature_milli: 0,
                top_p_milli: 0,
                top_k: 0,
                seed: 0,
            },
            utterance_gap_ms: 600,
            attempts_max: options.attempts,
            facts: Facts::default(),
        },
        gateway,
        listen: ([127, 0, 0, 1], 0).into(),
        transcriber,
        prompt: None,
        classifier,
        once: true,
        session_out: None,
        clock_offset: options.clock_offset,
    };
    let glasses = |address: std::net::SocketAddr| sensor::Options {
        connect: format!("ws://{address}"),
        pairing: PairingKey::from_bytes(pairing),
        captures: captures.into_iter().map(Capture::Audio).collect(),
        tamper_frame: None,
        battery: 100,
        audio_out: None,
        state: None,
        give_up: options.timeout,
        clock_offset: options.clock_offset,
        json: false,
        // What a wearer would see is in the report.
        out: Box::new(std::io::sink()),
    };
    let (listening, address) = tokio::sync::oneshot::channel();
    let mut listening = Some(listening);
    let say = |said: Said<'_>| match said {
        Said::Listening(address) => {
            if let Some(listening) = listening.take() {
                // The sensor waits for it below, in the same future.
                let _ = listening.send(address);
            }
        }
        Said::Report(report) => watch.hear(report),
    };
    let serving = serve::serve(phone, say, std::future::pending());
    let sensing = async {
        match address.await {
            Ok(address) => sensor::run(glasses(address))
                .await
                .map_err(SessionError::from),
            // The phone could not listen, and says so itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::pin!(serving, sensing);
    // The phone says good-bye to the sensor at its end, and the sensor ends with that: the phone decides.
    tokio::select! {
        served = &mut serving => Ok(served?),
        sensed = &mut sensing => {
            sensed?;
            Ok(serving.await?)
        }
    }
}

/// The verdict on what stands in the ledger: a pass, or what it is after the ledger had time to show everything.
async fn verify(
    options: &Options,
    keyring: &Keyring,
    session: &SessionId,
) -> Result<Verdict, SessionError> {
    let ledger = halo_ledger::open_read_only(&options.ledger).await?;
    let deadline = Instant::now() + SETTLE;
    loop {
        let evidence = ledger.snapshot(session).await?.unwrap_or_default();
        let keys = keyring.verify_keys(&evidence);
        let verdict = verdict::verify(*session, &evidence, &keys, &verdict::Options::default());
        if verdict.exit_code == 0 || Instant::now() + AGAIN >= deadline {
            return Ok(verdict);
        }
        sleep(AGAIN).await;
    }
}
