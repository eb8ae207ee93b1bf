//! Many devices at once: `halo-tier1 load`, and what its devices were told.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::time::Instant;

use crate::children::Running;
use crate::device::Device;
use crate::world::World;

/// Devices that run.
pub struct Fleet {
    process: Running,
    label: String,
    /// Questions that have their outcome, in that order.
    pub questions: Vec<Question>,
    /// Sessions: id and the generation of the root that they began under.
    pub sessions: Vec<(String, u64)>,
    /// How often a connection was lost.
    pub lost: usize,
    /// How many connections are open.
    pub open: usize,
    /// Chains that broke.
    pub broken: usize,
    /// Tenants of which a device has heard the first token of an answer since this was emptied.
    pub begun: BTreeSet<String>,
}

/// A question with its outcome.
#[derive(Debug, Clone)]
pub struct Question(pub Value);

impl Question {
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// What became of it: answered, refused, interrupted or failed.
    pub fn outcome(&self) -> &str {
        self.text("outcome")
    }

    /// Whether the device was told.
    pub fn reported(&self) -> bool {
        self.0["reported"] == true
    }

    /// Its session.
    pub fn session(&self) -> &str {
        self.text("session_id")
    }

    /// Its tenant.
    pub fn tenant(&self) -> &str {
        self.text("tenant_id")
    }

    /// From the request to the first token.
    pub fn first_token(&self) -> Option<Duration> {
        let at = |name: &str| self.0[name].as_u64();
        let wait = at("first_token_ms")?.checked_sub(at("asked_ms")?)?;
        Some(Duration::from_millis(wait))
    }
}

/// How devices ask.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Questions of each device; 0 asks when told to.
    pub questions: u32,
    /// Between an outcome and the next question.
    pub pause: Duration,
    /// The most tokens of an answer.
    pub tokens: u32,
    /// Whether sockets stay open after the last question.
    pub hold_open: bool,
}

impl Fleet {
    /// Starts these devices. Their programs' lines are under `label`.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start(world: &World, label: &str, devices: &[Device], plan: &Plan) -> Result<Self> {
        let mut credentials = String::new();
        for device in devices {
            credentials.push_str(&fs::read_to_string(device.credential())?);
        }
        let path = world.folder.join(format!("fleet-{label}.json"));
        fs::write(&path, credentials)?;
        let mut arguments = vec![
            "load".to_owned(),
            "--gateway".to_owned(),
            world.door.url.clone(),
            "--ca".to_owned(),
            world.door.ca.display().to_string(),
            "--credentials".to_owned(),
            path.display().to_string(),
            "--questions".to_owned(),
            plan.questions.to_string(),
            "--pause".to_owned(),
            plan.pause.as_millis().to_string(),
            "--max-tokens".to_owned(),
            plan.tokens.to_string(),
        ];
        arguments.extend(plan.hold_open.then(|| "--hold-open".to_owned()));
        let process = world
            .programs
            .start("halo-tier1", &format!("fleet-{label}"), arguments)?;
        Ok(Self {
            process,
            label: label.to_owned(),
            questions: Vec::new(),
            sessions: Vec::new(),
            lost: 0,
            open: 0,
            broken: 0,
            begun: BTreeSet::new(),
        })
    }

    fn hear(&mut self, event: Value) {
        match event["event"].as_str() {
            Some("question") => self.questions.push(Question(event)),
            Some("session") => self.sessions.push((
                event["session_id"].as_str().unwrap_or_default().to_owned(),
                event["root_generation"].as_u64().unwrap_or_default(),
            )),
            Some("connection") if event["open"] == true => self.open += 1,
            Some("connection") => {
                self.open = self.open.saturating_sub(1);
                self.lost += 1;
            }
            Some("chain_broken") => self.broken += 1,
            Some("first_token") => {
                let tenant = event["tenant_id"].as_str().unwrap_or_default();
                self.begun.insert(tenant.to_owned());
            }
            _ => {}
        }
    }

    /// Listens until `enough` says so.
    ///
    /// # Errors
    /// It does not within `limit`, or the program ends.
    pub async fn until(
        &mut self,
        limit: Duration,
        what: &str,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !enough(self) {
            match tokio::time::timeout_at(deadline, self.process.next()).await {
                Ok(Some(event)) => self.hear(event),
                Ok(None) => bail!("the devices of {} ended before {what}", self.label),
                Err(_) => bail!(
                    "{}: not within {limit:?}: {what}; {} questions have an outcome",
                    self.label,
                    self.questions.len()
                ),
            }
        }
        Ok(())
    }

    /// Listens for a while.
    ///
    /// # Errors
    /// The program ends.
    pub async fn listen(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.process.next()).await {
            let event = event.with_context(|| format!("the devices of {} ended", self.label))?;
            self.hear(event);
        }
        Ok(())
    }

    /// Makes every device ask once more.
    ///
    /// # Errors
    /// The program has ended.
    pub async fn ask(&mut self) -> Result<()> {
        self.process.tell("ask").await
    }

    /// Has every device ask once more, and waits for all outcomes.
    ///
    /// # Errors
    /// They do not come within `limit`.
    pub async fn round(&mut self, devices: usize, limit: Duration) -> Result<()> {
        let enough = self.questions.len() + devices;
        self.ask().await?;
        self.until(limit, "every device has its outcome", |fleet| {
            fleet.questions.len() >= enough
        })
        .await
    }

    /// Waits until every planned question has its outcome and the program has ended.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub async fn done(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match tokio::time::timeout_at(deadline, self.process.next()).await {
                Ok(Some(event)) => self.hear(event),
                Ok(None) => return Ok(()),
                Err(_) => bail!(
                    "the devices of {} are not done after {limit:?}; {} questions have an outcome",
                    self.label,
                    self.questions.len()
                ),
            }
        }
    }

    /// Asks all devices to end, and waits for it.
    ///
    /// # Errors
    /// They do not.
    pub async fn end(&mut self, limit: Duration) -> Result<()> {
        self.process.tell("end").await?;
        self.done(limit).await
    }

    /// Every question was answered whole.
    ///
    /// # Errors
    /// One was not, or a chain broke.
    pub fn all_answered(&self) -> Result<()> {
        self.all_told()?;
        for question in &self.questions {
            ensure!(question.outcome() == "answered", "{}", question.0);
        }
        Ok(())
    }

    /// No question is without an outcome that its device knows, and no chain broke.
    ///
    /// # Errors
    /// One is.
    pub fn all_told(&self) -> Result<()> {
        ensure!(self.broken == 0, "{} chains broke", self.broken);
        ensure!(!self.questions.is_empty(), "nothing was asked");
        for question in &self.questions {
            let known = ["answered", "refused", "interrupted"].contains(&question.outcome());
            ensure!(known && question.reported(), "{}", question.0);
        }
        Ok(())
    }

    /// How many questions had this outcome.
    pub fn count(&self, outcome: &str) -> usize {
        let with = |question: &&Question| question.outcome() == outcome;
        self.questions.iter().filter(with).count()
    }
}
