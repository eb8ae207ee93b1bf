//! One pair of glasses and its phone in one place, both machines without a socket between them, and the questions that they ask.

use std::sync::Arc;
use std::time::Duration;

use halo_receipts::documents::Sampling;
use halo_receipts::keys::PairingKey;
use halo_receipts::messages::Gesture;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Plan;
use super::question::{Outcome, Question};
use crate::edge::clock;
use crate::edge::secret_file::Credential;
use crate::tier0::machine::{Action as SensorAction, Capture, Event as SensorEvent, Sensor};
use crate::tier1::classifier::Rules;
use crate::tier1::local::Facts;
use crate::tier1::machine::{Config, Event};
use crate::tier1::phone::{Parts, Phone};
use crate::tier1::report::Report;
use crate::tier1::serve::{Said, ServeError};
use crate::tier1::transcribe::Deaf;
use crate::tier1::wire::{Input, Out, Wire};

/// A tap counts as the whole utterance after this pause, in milliseconds.
const UTTERANCE_GAP_MS: u32 = 20;

/// What a device tells.
pub(super) enum Told {
    /// A line to print.
    Line(Value),
    /// A question has its outcome.
    Asked(Box<Question>),
}

/// A device that runs.
pub(super) struct Device {
    name: Value,
    tenant: Value,
    phone: Phone,
    incoming: UnboundedReceiver<Input>,
    sensor: Sensor,
    from_phone: UnboundedReceiver<Out>,
    plan: Arc<Plan>,
    told: UnboundedSender<Told>,
    /// When the device began.
    begun: Instant,
    question: Option<(Question, Instant)>,
    asked: u32,
    /// Asked for besides the plan.
    extra: u32,
    /// When the next question of the plan is due.
    due: Instant,
    connected: bool,
}

impl Device {
    /// A device before its start. Its glasses and its phone share a key that nobody else has.
    pub(super) fn new(
        credential: Credential,
        plan: Arc<Plan>,
        told: UnboundedSender<Told>,
    ) -> Result<Self, ServeError> {
        let pairing = clock::random()?;
        let (name, tenant) = (json!(credential.device), json!(credential.tenant));
        let config = Config {
            tenant: credential.tenant,
            device: credential.device,
            generation: credential.generation,
            key: credential.key,
            pairing: PairingKey::from_bytes(pairing),
            max_tokens: plan.max_tokens,
            sampling: Sampling::default(),
            utterance_gap_ms: UTTERANCE_GAP_MS,
            attempts_max: plan.attempts,
            facts: Facts::default(),
        };
        let (phone, incoming) = Phone::new(Parts {
            config,
            gateway: plan.gateway.clone(),
            transcriber: Box::new(Deaf),
            // A tap holds no words, so this is what is asked.
            prompt: Some(plan.prompt.clone()),
            classifier: Arc::new(Rules),
            session_out: None,
            clock_offset: plan.clock_offset,
        })?;
        let (_, from_phone) = mpsc::unbounded_channel();
        let now = Instant::now();
        Ok(Self {
            name,
            tenant,
            phone,
            incoming,
            sensor: Sensor::new(PairingKey::from_bytes(pairing), None),
            from_phone,
            plan,
            told,
            begun: now,
            question: None,
            asked: 0,
            extra: 0,
            due: now,
            connected: false,
        })
    }

    /// Runs until every question has its outcome, or until `end` if the socket is to stay open. `asks` makes it ask once more each.
    pub(super) async fn run(
        mut self,
        mut asks: UnboundedReceiver<()>,
        end: CancellationToken,
    ) -> Result<(), ServeError> {
        self.phone(Event::Start)?;
        self.connect_sensor()?;
        while !self.is_done() && !end.is_cancelled() {
            self.ask_if_due()?;
            let (phone, sensor) = (self.phone.wake(), self.sensor_wake());
            let planned = self.question.is_none() && self.asked < self.plan.questions;
            let limit = self.question.as_ref();
            let limit = limit.map(|(_, begun)| *begun + self.plan.time_limit);
            tokio::select! {
                () = end.cancelled() => {}
                Some(input) = self.incoming.recv() => self.input(input)?,
                Some(out) = self.from_phone.recv() => if let Out::Message(message) = out {
                    self.sensor(SensorEvent::Message(message))?;
                },
                () = sleep(phone.unwrap_or_default()), if phone.is_some() => self.phone(Event::Tick)?,
                () = sleep(sensor.unwrap_or_default()), if sensor.is_some() => self.sensor(SensorEvent::Tick)?,
                () = sleep_until(self.due), if planned => {}
                () = sleep_until(limit.unwrap_or(self.begun)), if limit.is_some() => {
                    self.phone.stopped = Some("no answer in time".to_owned());
                }
                Some(()) = asks.recv() => self.extra += 1,
            }
            if let Some(cause) = self.phone.stopped.take() {
                self.stop(cause);
                break;
            }
            self.finish_question();
        }
        if let Some((mut question, _)) = self.question.take() {
            question.fail("the device was ended".to_owned());
            let _ = self.told.send(Told::Asked(Box::new(question)));
        }
        self.phone.close().await;
        Ok(())
    }

    fn is_done(&self) -> bool {
        let asked = self.asked >= self.plan.questions && self.question.is_none();
        asked && self.extra == 0 && !self.plan.hold_open
    }

    fn tell(&self, mut line: Value) {
        line["device_id"] = self.name.clone();
        line["tenant_id"] = self.tenant.clone();
        line["at_ms"] = clock::wall_ms().into();
        let _ = self.told.send(Told::Line(line));
    }

    fn stop(&mut self, cause: String) {
        self.tell(json!({"event": "stopped", "cause": cause}));
        if let Some((question, _)) = &mut self.question {
            question.fail(cause);
        } else {
            // A device that cannot ask has failed all that it was to ask.
            let mut question = Question::new(self.asked + 1, self.phone.machine.session_id());
            question.fail(cause);
            self.question = Some((question, Instant::now()));
        }
    }

    /// Taps the glasses when a question is due and none is open.
    fn ask_if_due(&mut self) -> Result<(), ServeError> {
        if self.question.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        if self.asked < self.plan.questions && self.due <= now {
            self.due = match self.plan.every {
                Some(every) => self.due + every,
                None => now,
            };
        } else if self.extra > 0 {
            self.extra -= 1;
        } else {
            return Ok(());
        }
        self.asked += 1;
        let question = Question::new(self.asked, self.phone.machine.session_id());
        self.question = Some((question, now));
        self.sensor(SensorEvent::Capture(Capture::Gesture(Gesture::Tap)))
    }

    /// A question is over when it has an outcome and all of it is in the ledger.
    fn finish_question(&mut self) {
        let over = |(question, _): &mut (Question, Instant)| {
            question.outcome.is_some() && self.phone.machine.is_settled()
        };
        let Some((question, _)) = self.question.take_if(over) else {
            return;
        };
        if self.plan.every.is_none() {
            self.due = Instant::now() + self.plan.pause;
        }
        let mut line = json!(question);
        line["event"] = json!("question");
        self.tell(line);
        let _ = self.told.send(Told::Asked(Box::new(question)));
    }

    fn input(&mut self, input: Input) -> Result<(), ServeError> {
        let mut reports = Vec::new();
        self.phone
            .input(input, &mut |said| keep(&mut reports, said))?;
        self.hear(reports);
        Ok(())
    }

    fn phone(&mut self, event: Event) -> Result<(), ServeError> {
        let mut reports = Vec::new();
        self.phone
            .step(event, &mut |said| keep(&mut reports, said))?;
        self.hear(reports);
        Ok(())
    }

    fn hear(&mut self, reports: Vec<Report>) {
        for report in &reports {
            let since =
                |begun: Instant| u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some((question, begun)) = &mut self.question {
                let answered = question.first_token_ms.is_some();
                question.hear(report, since(*begun));
                let first = !answered && question.first_token_ms.is_some();
                if let (true, Some(request_id)) = (first, question.request_id) {
                    self.tell(json!({"event": "first_token", "request_id": request_id}));
                }
            }
            match report {
                Report::SessionOpened {
                    session_id,
                    root_generation,
                    ..
                } => self.tell(json!({
                    "event": "session",
                    "session_id": session_id,
                    "root_generation": root_generation,
                    "after_ms": since(self.begun),
                })),
                Report::EpochOpened { session_epoch } => self.tell(json!({
                    "event": "epoch",
                    "session_id": self.phone.machine.session_id(),
                    "session_epoch": session_epoch,
                })),
                Report::Retry { cause, retry_ms } => self.tell(json!({
                    "event": "retry",
                    "cause": cause,
                    "retry_ms": retry_ms,
                })),
                Report::ChainBroken { reason, .. } => {
                    self.tell(json!({"event": "chain_broken", "reason": reason}));
                }
                Report::Error { code, message } => {
                    self.tell(json!({"event": "error", "code": code, "message": message}));
                }
                _ => {}
            }
        }
        let connected = self.phone.machine.is_connected();
        if connected != self.connected {
            self.connected = connected;
            self.tell(json!({"event": "connection", "open": connected}));
        }
    }

    fn connect_sensor(&mut self) -> Result<(), ServeError> {
        let (out, from_phone) = mpsc::unbounded_channel();
        self.from_phone = from_phone;
        self.input(Input::Sensor(1, Wire::Connected(out)))?;
        self.sensor(SensorEvent::Connected)
    }

    fn sensor_wake(&self) -> Option<Duration> {
        let wake = self.sensor.next_wake();
        wake.map(|time| self.phone.clock.until(time))
    }

    fn sensor(&mut self, event: SensorEvent) -> Result<(), ServeError> {
        let now = self.phone.clock.now();
        for action in self.sensor.handle(event, now, clock::random()?) {
            match action {
                SensorAction::Send(message) => {
                    self.input(Input::Sensor(1, Wire::Message(message)))?;
                }
                SensorAction::Disconnect => return self.connect_sensor(),
                _ => {}
            }
        }
        Ok(())
    }
}

fn keep(reports: &mut Vec<Report>, said: Said<'_>) {
    if let Said::Report(report) = said {
        reports.push(report.clone());
    }
}

/// Whether the device was told an outcome.
pub(super) fn is_told(question: &Question) -> bool {
    question.reported && question.outcome != Some(Outcome::Failed)
}
