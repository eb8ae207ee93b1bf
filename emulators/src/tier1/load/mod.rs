//! Many devices in one process: each with glasses, a phone and a socket of its own, asking question after question.

mod device;
pub mod question;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::device::{Device, Told, is_told};
use self::question::{Outcome, Question};
use crate::edge::clock;
use crate::edge::secret_file::Credential;
use crate::tier1::client::Gateway;

/// What every device does.
pub struct Plan {
    /// Where the gateway is.
    pub gateway: Gateway,
    /// Questions of each device; 0 opens the socket and asks nothing by itself.
    pub questions: u32,
    /// From the beginning of a question to the beginning of the next one; a late one follows at once.
    pub every: Option<Duration>,
    /// From the end of a question to the beginning of the next one, without `every`.
    pub pause: Duration,
    /// From the start of one device to the start of the next.
    pub ramp: Duration,
    /// What is asked.
    pub prompt: String,
    /// The most tokens of an answer.
    pub max_tokens: u32,
    /// How often a request may be put off before that is its outcome.
    pub attempts: u32,
    /// How long a question may be without an outcome before its device is given up.
    pub time_limit: Duration,
    /// Whether sockets stay open when every question has its outcome.
    pub hold_open: bool,
    /// By how many seconds the devices' clocks are before the machine's.
    pub clock_offset: i64,
}

/// What a running load is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask once more: this device, or all of them.
    Ask(Option<String>),
    /// End.
    End,
}

impl std::str::FromStr for Command {
    type Err = String;

    /// `ask`, `ask DEVICE` or `end`.
    fn from_str(line: &str) -> Result<Self, String> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["ask"] => Ok(Self::Ask(None)),
            ["ask", device] => Ok(Self::Ask(Some((*device).to_owned()))),
            ["end"] => Ok(Self::End),
            _ => Err(format!("{line:?}: say ask, ask DEVICE or end")),
        }
    }
}

/// How a load came out.
#[derive(Debug, Default)]
pub struct Totals {
    devices: usize,
    outcomes: BTreeMap<&'static str, u32>,
    untold: u32,
    first_tokens: Vec<u64>,
}

impl Totals {
    fn count(&mut self, question: &Question) {
        let outcome = match question.outcome {
            Some(Outcome::Answered) => "answered",
            Some(Outcome::Refused) => "refused",
            Some(Outcome::Interrupted) => "interrupted",
            Some(Outcome::Local) => "local",
            Some(Outcome::Failed) | None => "failed",
        };
        *self.outcomes.entry(outcome).or_default() += 1;
        self.untold += u32::from(!is_told(question));
        self.first_tokens.extend(question.first_token_ms);
    }

    /// Whether every question had an outcome that its device was told.
    pub fn all_told(&self) -> bool {
        self.untold == 0
    }

    fn line(&mut self, seconds: f64) -> Value {
        self.first_tokens.sort_unstable();
        let quantile = |per_mille: usize| {
            let last = self.first_tokens.len().checked_sub(1)?;
            self.first_tokens
                .get((last * per_mille).div_ceil(1000))
                .copied()
        };
        let of = |outcome: &str| self.outcomes.get(outcome).copied().unwrap_or(0);
        json!({
            "event": "done",
            "at_ms": clock::wall_ms(),
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "devices": self.devices,
            "questions": self.outcomes.values().sum::<u32>(),
            "answered": of("answered"),
            "refused": of("refused"),
            "interrupted": of("interrupted"),
            "failed": of("failed"),
            "local": of("local"),
            "first_token_ms": {"p50": quantile(500), "p99": quantile(990), "max": quantile(1000)},
        })
    }
}

/// Runs all devices to their end, or until they are told to; `say` gets a JSON line for whatever happens.
pub async fn load(
    plan: Plan,
    credentials: Vec<Credential>,
    mut commands: UnboundedReceiver<Command>,
    mut say: impl FnMut(Value),
) -> Totals {
    let begun = Instant::now();
    let mut totals = Totals {
        devices: credentials.len(),
        ..Totals::default()
    };
    let (plan, end) = (Arc::new(plan), CancellationToken::new());
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut asks: Vec<(String, UnboundedSender<()>)> = Vec::new();
    let mut running = JoinSet::new();
    for (place, credential) in (0_u32..).zip(credentials) {
        let (ask, asked) = mpsc::unbounded_channel();
        asks.push((credential.device.as_str().to_owned(), ask));
        let (plan, told, end) = (Arc::clone(&plan), told.clone(), end.clone());
        running.spawn(async move {
            tokio::select! {
                () = sleep(plan.ramp * place) => {}
                () = end.cancelled() => return,
            }
            let ran = match Device::new(credential, plan, told.clone()) {
                Ok(device) => device.run(asked, end).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ran {
                let line = json!({"event": "stopped", "cause": error.to_string(), "at_ms": clock::wall_ms()});
                let _ = told.send(Told::Line(line));
                let mut question = Question::new(0, None);
                question.fail(error.to_string());
                let _ = told.send(Told::Asked(Box::new(question)));
            }
        });
    }
    drop(told);
    let mut listening = true;
    loop {
        tokio::select! {
            command = commands.recv(), if listening => match command {
                Some(Command::Ask(wanted)) => {
                    let wanted = |name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
                    for (_, ask) in asks.iter().filter(|(name, _)| wanted(name)) {
                        let _ = ask.send(());
                    }
                }
                Some(Command::End) => end.cancel(),
                None => listening = false,
            },
            told = heard.recv() => match told {
                Some(Told::Line(line)) => say(line),
                Some(Told::Asked(question)) => totals.count(&question),
                // Every device has ended.
                None => break,
            },
        }
    }
    while running.join_next().await.is_some() {}
    say(totals.line(begun.elapsed().as_secs_f64()));
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let table = [
            ("ask", Some(Command::Ask(None))),
            (" ask phone-1 ", Some(Command::Ask(Some("phone-1".into())))),
            ("end", Some(Command::End)),
            ("ask a b", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(line.parse().ok(), expected, "{line:?}");
        }
    }

    #[test]
    fn a_question_that_nobody_was_told_the_outcome_of_is_counted() {
        let mut totals = Totals::default();
        let mut question = Question::new(1, None);
        question.outcome = Some(Outcome::Interrupted);
        question.reported = true;
        question.first_token_ms = Some(40);
        totals.count(&question);
        assert!(totals.all_told());
        let mut lost = Question::new(2, None);
        lost.fail("no answer in time".to_owned());
        totals.count(&lost);
        assert!(!totals.all_told());
        let line = totals.line(1.5);
        assert_eq!(
            (&line["interrupted"], &line["failed"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(line["first_token_ms"]["p99"], 40);
    }
}
