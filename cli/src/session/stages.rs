//! What a session test saw: which stage was reached when, and what came of it. Pure but for the time that it reads.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use halo_emulators::tier1::report::Report;
use halo_receipts::ids::{SessionId, TenantId};
use halo_receipts::payload::{AnswerStatus, Answerer};
use halo_receipts::verdict::Verdict;
use serde::Serialize;

/// A stage, and how long after the start it was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Milliseconds since the start.
    pub ms: u64,
}

/// What came of a session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Whether everything held.
    pub pass: bool,
    /// Why not; empty if it did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The substrate's answer, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The model that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The verifier's last line.
    pub verdict: String,
    /// Its exit code, as `halo-verify` has it.
    pub verdict_code: u8,
    /// How many receipts were verified.
    pub receipts: u32,
    /// The stages in the order in which they were reached.
    pub stages: Vec<Stage>,
}

impl Outcome {
    /// For a person: the stages with their times, the answer, the verdict.
    ///
    /// # Errors
    /// What the stream says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "session {} of tenant {}",
            self.session_id, self.tenant_id
        )?;
        for stage in &self.stages {
            writeln!(out, "  {:>8} ms  {}", stage.ms, stage.name)?;
        }
        if let (Some(model), Some(answer)) = (&self.model, &self.answer) {
            writeln!(out, "{model} said: {answer:?}")?;
        }
        match self.pass {
            true => write!(out, "{}", self.verdict),
            false => write!(out, "FAIL - {} ({})", self.why, self.verdict),
        }
    }
}

/// The substrate's answer.
struct Answered {
    status: AnswerStatus,
    model: String,
    text: String,
}

/// Listens to the phone.
pub struct Watch<F> {
    tell: F,
    begun: Instant,
    stages: Vec<Stage>,
    session: Option<SessionId>,
    answered: Option<Answered>,
    sealed_by: Option<Answerer>,
    /// What was said last of what went wrong.
    trouble: String,
}

impl<F: FnMut(&'static str, Duration)> Watch<F> {
    /// Begins to count.
    pub fn new(tell: F) -> Self {
        Self {
            tell,
            begun: Instant::now(),
            stages: Vec::new(),
            session: None,
            answered: None,
            sealed_by: None,
            trouble: String::new(),
        }
    }

    /// The session, once it is open.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Notes that a stage is reached, the first time.
    pub fn reached(&mut self, name: &'static str) {
        if self.stages.iter().any(|stage| stage.name == name) {
            return;
        }
        let passed = self.begun.elapsed();
        let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        self.stages.push(Stage { name, ms });
        (self.tell)(name, passed);
    }

    /// Hears what the phone reports.
    pub fn hear(&mut self, report: &Report) {
        match report {
            Report::SessionOpened { session_id, .. } => {
                self.session = Some(*session_id);
                self.reached("session opened");
            }
            Report::CaptureVerified { .. } => self.reached("capture verified"),
            Report::Routed { .. } => self.reached("routed"),
            Report::Notice { .. } => self.reached("held"),
            Report::Token { .. } => self.reached("first token"),
            Report::Answer {
                status,
                model,
                text,
                ..
            } => {
                self.answered = Some(Answered {
                    status: *status,
                    model: model.clone(),
                    text: text.clone(),
                });
                self.reached("answered");
            }
            Report::LocalAnswer { .. } => self.reached("recorded"),
            Report::Sealed { answered_by, .. } => {
                self.sealed_by = Some(*answered_by);
                self.reached("sealed");
            }
            Report::Retry { cause, .. } => {
                tracing::warn!("{cause}; again");
                self.trouble.clone_from(cause);
            }
            Report::PutOff { code, .. } => self.trouble = format!("put off: {}", code.name()),
            Report::Unanswered { code, .. } => self.trouble = format!("given up: {}", code.name()),
            Report::Error { message, .. } | Report::Ignored { message } => {
                self.trouble.clone_from(message)
            }
            Report::ChainBroken { reason, .. } => {
                self.trouble = format!("the chain broke: {reason}")
            }
            Report::Asked { .. } => self.reached("asked"),
            Report::EpochOpened { .. } | Report::Relinked { .. } => {}
        }
    }

    /// What is waited for after the last stage that was reached.
    pub fn waits_for(&self) -> &'static str {
        match self.stages.last().map(|stage| stage.name) {
            None => "opening the session",
            Some("session opened") => "capturing",
            Some("capture verified" | "routed" | "asked") => "reaching the substrate",
            Some("held") => "waking the substrate",
            Some("first token") => "answering",
            Some(_) => "sealing",
        }
    }

    /// The last trouble, as the end of a sentence.
    pub fn because(&self) -> String {
        match self.trouble.as_str() {
            "" => String::new(),
            trouble => format!(": {trouble}"),
        }
    }

    /// What came of it all; `asked` is whether the substrate was to answer.
    pub fn outcome(self, asked: bool, tenant: &TenantId, verdict: &Verdict) -> Outcome {
        let why = if verdict.exit_code != 0 {
            "the session does not verify".to_owned()
        } else {
            match (&self.answered, self.sealed_by, asked) {
                (_, _, false) => String::new(),
                (
                    Some(Answered {
                        status: AnswerStatus::Ok,
                        ..
                    }),
                    Some(Answerer::Substrate),
                    true,
                ) => String::new(),
                (
                    Some(Answered {
                        status: AnswerStatus::Interrupted,
                        ..
                    }),
                    ..,
                ) => format!("the answer was interrupted{}", self.because()),
                _ => format!("the substrate did not answer{}", self.because()),
            }
        };
        let (model, answer) = self
            .answered
            .map(|answered| (answered.model, answered.text))
            .unzip();
        Outcome {
            pass: why.is_empty(),
            why,
            session_id: verdict.session_id,
            tenant_id: tenant.clone(),
            answer,
            model,
            verdict: verdict.summary(),
            verdict_code: verdict.exit_code,
            receipts: u32::try_from(verdict.receipts.total).unwrap_or(u32::MAX),
            stages: self.stages,
        }
    }
}
