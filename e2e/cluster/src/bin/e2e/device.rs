//! Devices: a phone and the glasses that are paired with it, as programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::children::{Programs, Running};

/// How long what only moves data may take.
const SOON: Duration = Duration::from_secs(60);

/// The variable that shifts a program's clock.
pub const CLOCK_OFFSET: &str = "HALO_CLOCK_OFFSET_SECONDS";

/// An enrolled device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its tenant.
    pub tenant: String,
    /// Its id.
    pub name: String,
    folder: PathBuf,
}

/// Where devices connect.
#[derive(Debug, Clone)]
pub struct Door {
    /// The gateway.
    pub url: String,
    /// Who its certificate is signed by.
    pub ca: PathBuf,
}

/// A question that was answered and sealed.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The session.
    pub session: String,
    /// When the phone decided to ask the substrate.
    pub routed: Instant,
    /// When the first token was there.
    pub first_token: Instant,
    /// When the session was sealed.
    pub sealed: Instant,
    /// The answer, as the phone reported it.
    pub answer: Value,
    /// What the gateway said while the request was held.
    pub notices: Vec<Value>,
}

impl Asked {
    /// From the decision to the first token.
    pub fn wait(&self) -> Duration {
        self.first_token.duration_since(self.routed)
    }

    /// How the answer ended, such as `ok` or `interrupted`.
    pub fn status(&self) -> &str {
        self.answer["status"].as_str().unwrap_or_default()
    }
}

impl Device {
    /// Enrols a device with its tenant's keyring, and pairs it.
    ///
    /// # Errors
    /// A program refuses.
    pub async fn enrol(
        programs: &Programs,
        folder: &Path,
        keyring: &Path,
        tenant: &str,
        name: &str,
    ) -> Result<Self> {
        let folder = folder.join(tenant).join(name);
        fs::create_dir_all(&folder)?;
        let keyring = keyring.display().to_string();
        let arguments = [
            "enroll",
            "--keyring",
            &keyring,
            "--tenant",
            tenant,
            "--device",
            name,
        ];
        let credential = programs.output("halo-gateway", arguments).await?;
        fs::write(folder.join("credential.json"), credential)?;
        let device = Self {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            folder,
        };
        if !device.pairing().exists() {
            let pairing = device.pairing().display().to_string();
            programs
                .output("halo-tier1", ["pair", "--out", &pairing])
                .await?;
        }
        Ok(device)
    }

    fn pairing(&self) -> PathBuf {
        self.folder.join("pairing.key")
    }

    /// What the gateway knows it by.
    pub fn credential(&self) -> PathBuf {
        self.folder.join("credential.json")
    }

    fn label(&self, what: &str) -> String {
        format!("{what}-{}-{}", self.tenant, self.name)
    }

    /// Starts the phone. With `once` it ends after its first sealed session.
    ///
    /// # Errors
    /// It does not start.
    pub async fn phone(
        &self,
        programs: &Programs,
        door: &Door,
        says: &str,
        tokens: u32,
        once: bool,
    ) -> Result<Phone> {
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            "serve".to_owned(),
            "--gateway".to_owned(),
            door.url.clone(),
            "--ca".to_owned(),
            text(&door.ca),
            "--credential".to_owned(),
            text(&self.credential()),
            "--pairing-key".to_owned(),
            text(&self.pairing()),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--transcript".to_owned(),
            says.to_owned(),
            "--max-tokens".to_owned(),
            tokens.to_string(),
            "--json".to_owned(),
        ];
        arguments.extend(once.then(|| "--once".to_owned()));
        let mut process = programs.start("halo-tier1", &self.label("phone"), arguments)?;
        let listening = process.wait_for("listening", SOON, |_| {}).await?;
        let address = listening["addr"].as_str().context("the phone's address")?;
        Ok(Phone {
            process,
            address: address.to_owned(),
        })
    }

    /// Asks one question, spoken into a wav, in a session of its own.
    ///
    /// # Errors
    /// It is not answered and sealed within `limit`.
    pub async fn ask(
        &self,
        programs: &Programs,
        door: &Door,
        says: &str,
        tokens: u32,
        limit: Duration,
    ) -> Result<Asked> {
        let mut phone = self.phone(programs, door, says, tokens, true).await?;
        let glasses = self.speak(programs, &phone).await?;
        let asked = phone.answered(limit).await;
        let asked = asked.with_context(|| format!("{} of {}", self.name, self.tenant))?;
        phone.process.finish(SOON).await?;
        glasses.finish(SOON).await?;
        Ok(asked)
    }

    /// Has the glasses say something to the phone.
    ///
    /// # Errors
    /// A program does not start.
    pub async fn speak(&self, programs: &Programs, phone: &Phone) -> Result<Running> {
        let wav = self.folder.join("question.wav");
        if !wav.exists() {
            let wav = wav.display().to_string();
            programs
                .output("halo-tier0", ["sample", "--wav", &wav])
                .await?;
        }
        let arguments = [
            "--connect".to_owned(),
            format!("ws://{}", phone.address),
            "--pairing-key".to_owned(),
            self.pairing().display().to_string(),
            "--json".to_owned(),
            "--wav".to_owned(),
            wav.display().to_string(),
        ];
        programs.start("halo-tier0", &self.label("glasses"), arguments)
    }
}

/// A phone that runs.
pub struct Phone {
    /// Its program.
    pub process: Running,
    address: String,
}

impl Phone {
    /// Waits for one answer and its seal.
    ///
    /// # Errors
    /// They do not come within `limit`.
    pub async fn answered(&mut self, limit: Duration) -> Result<Asked> {
        let mut session = None;
        let mut routed = None;
        let mut first_token = None;
        let mut answer = None;
        let mut notices = Vec::new();
        let process = &mut self.process;
        process
            .wait_for("sealed", limit, |event| match event["event"].as_str() {
                Some("session_opened") => {
                    session = event["session_id"].as_str().map(str::to_owned);
                }
                Some("routed") => routed = Some(Instant::now()),
                Some("notice") => notices.push(event.clone()),
                Some("token") if first_token.is_none() => first_token = Some(Instant::now()),
                Some("answer") => answer = Some(event.clone()),
                _ => {}
            })
            .await?;
        let answer = answer.context("the session was sealed without an answer")?;
        ensure!(
            answer["text"].as_str().is_some_and(|text| !text.is_empty()),
            "an empty answer: {answer}"
        );
        Ok(Asked {
            session: session.context("no session was opened")?,
            routed: routed.context("nothing was asked of the substrate")?,
            first_token: first_token.context("no token came")?,
            sealed: Instant::now(),
            answer,
            notices,
        })
    }
}
