//! The phone around its machine: the gateway's connections, the words of an utterance, and what is told of it. Where the sensor's
//! messages come from is somebody else's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::edge::clock::{self, Clock};
use crate::tier1::classifier::Classifier;
use crate::tier1::classify::{Heard, Understanding};
use crate::tier1::client::Gateway;
use crate::tier1::machine::{Action, Config, Event, Media, Orchestrator};
use crate::tier1::report::Report;
use crate::tier1::serve::{Said, ServeError};
use crate::tier1::transcribe::Transcriber;
use crate::tier1::wire::{CLOSE_LIMIT, Input, Out, Peer, Wire, talk};

/// The gateway is pinged this often, and given up after three times as long without a word.
const PING: Duration = Duration::from_secs(15);

/// What a phone is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) gateway: Gateway,
    pub(super) transcriber: Box<dyn Transcriber>,
    pub(super) prompt: Option<String>,
    pub(super) classifier: Arc<dyn Classifier>,
    pub(super) session_out: Option<PathBuf>,
    pub(super) clock_offset: i64,
}

/// The machine with its clock, its gateway and what it hears with.
pub(super) struct Phone {
    pub(super) machine: Orchestrator,
    pub(super) clock: Clock,
    pub(super) gateway: Gateway,
    pub(super) transcriber: Box<dyn Transcriber>,
    pub(super) prompt: Option<String>,
    pub(super) classifier: Arc<dyn Classifier>,
    pub(super) inputs: UnboundedSender<Input>,
    pub(super) sensor: Option<Peer>,
    pub(super) sensor_task: Option<JoinHandle<()>>,
    pub(super) gateway_number: u64,
    pub(super) gateway_out: Option<UnboundedSender<Out>>,
    pub(super) gateway_task: Option<JoinHandle<()>>,
    pub(super) session_out: Option<PathBuf>,
    /// A session was sealed since the start.
    pub(super) sealed: bool,
    /// What the machine said last of what went wrong.
    pub(super) last_error: String,
    pub(super) stopped: Option<String>,
}

impl Phone {
    /// A phone before its start, and where its inputs arrive.
    pub(super) fn new(parts: Parts) -> Result<(Self, UnboundedReceiver<Input>), ServeError> {
        let (inputs, incoming) = mpsc::unbounded_channel();
        let phone = Self {
            machine: Orchestrator::new(parts.config),
            clock: Clock::shifted(parts.clock_offset)?,
            gateway: parts.gateway,
            transcriber: parts.transcriber,
            prompt: parts.prompt,
            classifier: parts.classifier,
            inputs,
            sensor: None,
            sensor_task: None,
            gateway_number: 0,
            gateway_out: None,
            gateway_task: None,
            session_out: parts.session_out,
            sealed: false,
            last_error: String::new(),
            stopped: None,
        };
        Ok((phone, incoming))
    }

    /// How long until the machine wants to be woken.
    pub(super) fn wake(&self) -> Option<Duration> {
        self.machine.next_wake().map(|time| self.clock.until(time))
    }

    pub(super) fn input(
        &mut self,
        input: Input,
        say: &mut impl FnMut(Said<'_>),
    ) -> Result<(), ServeError> {
        match input {
            Input::Machine(event) => self.step(event, say),
            Input::Sensor(number, Wire::Connected(out)) => {
                // A sensor that comes back takes the place of the connection that it left.
                if self.sensor.take().is_some() {
                    self.step(Event::SensorLost, say)?;
                }
                self.sensor = Some(Peer { number, out });
                self.step(Event::SensorConnected, say)
            }
            Input::Sensor(number, wire) => {
                if self
                    .sensor
                    .as_ref()
                    .is_none_or(|peer| peer.number != number)
                {
                    return Ok(());
                }
                match wire {
                    Wire::Message(message) => self.step(Event::SensorMessage(message), say),
                    Wire::Lost(_) | Wire::Connected(_) => {
                        self.sensor = None;
                        self.step(Event::SensorLost, say)
                    }
                }
            }
            Input::Gateway(number, _) if number != self.gateway_number => Ok(()),
            Input::Gateway(_, Wire::Connected(out)) => {
                self.gateway_out = Some(out);
                self.step(Event::GatewayConnected, say)
            }
            Input::Gateway(_, Wire::Message(message)) => {
                self.step(Event::GatewayMessage(message), say)
            }
            Input::Gateway(_, Wire::Lost(cause)) => {
                self.forget_gateway();
                self.step(Event::GatewayLost { cause }, say)
            }
        }
    }

    /// Nothing of the current connection is listened to any more.
    fn forget_gateway(&mut self) {
        self.gateway_number += 1;
        // Its task says good-bye by itself once nobody can give it anything to write.
        self.gateway_out = None;
    }

    pub(super) fn step(
        &mut self,
        event: Event,
        say: &mut impl FnMut(Said<'_>),
    ) -> Result<(), ServeError> {
        let actions = self
            .machine
            .handle(event, self.clock.now(), clock::random()?);
        for action in actions {
            match action {
                // A peer that is gone is noticed by its own task.
                Action::SendSensor(message) => {
                    if let Some(peer) = &self.sensor {
                        let _ = peer.out.send(Out::Message(message));
                    }
                }
                Action::SendGateway(message) => {
                    if let Some(out) = &self.gateway_out {
                        let _ = out.send(Out::Message(message));
                    }
                }
                Action::Post {
                    path,
                    signature,
                    body,
                } => self.post(path, signature, body),
                Action::Connect { path, signature } => self.connect(path, signature),
                Action::CloseGateway => self.forget_gateway(),
                Action::Understand {
                    utterance,
                    media,
                    typed,
                } => self.understand(utterance, &media, typed),
                Action::Report(report) => self.report(&report, say)?,
                Action::Stop => {
                    self.stopped = Some(self.last_error.clone());
                }
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        report: &Report,
        say: &mut impl FnMut(Said<'_>),
    ) -> Result<(), ServeError> {
        match report {
            Report::SessionOpened { session_id, .. } => {
                if let Some(path) = &self.session_out {
                    let written = std::fs::write(path, format!("{session_id}\n"));
                    written.map_err(|source| ServeError::File {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            Report::Sealed { .. } => self.sealed = true,
            Report::Error { message, .. } => {
                tracing::error!("{message}");
                self.last_error.clone_from(message);
            }
            _ => {}
        }
        say(Said::Report(report));
        Ok(())
    }

    fn post(&self, path: String, signature: String, body: Vec<u8>) {
        let (gateway, inputs) = (self.gateway.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let event = match gateway.post(&path, &signature, body).await {
                Ok((status, body)) => Event::Posted { status, body },
                Err(error) => Event::PostFailed {
                    cause: error.to_string(),
                },
            };
            let _ = inputs.send(Input::Machine(event));
        });
    }

    fn connect(&mut self, path: String, signature: String) {
        self.gateway_number += 1;
        let number = self.gateway_number;
        let (gateway, inputs) = (self.gateway.clone(), self.inputs.clone());
        let task = tokio::spawn(async move {
            let to_input = move |wire| Input::Gateway(number, wire);
            match gateway.stream(&path, &signature).await {
                Ok(socket) => talk(socket, inputs, to_input, Some(PING)).await,
                Err(error) => {
                    let _ = inputs.send(to_input(Wire::Lost(error.to_string())));
                }
            }
        });
        self.gateway_task = Some(task);
    }

    fn understand(&mut self, utterance: u64, media: &[Media], typed: Option<String>) {
        let mut heard = Heard {
            segments: self.transcriber_words(media, typed.is_some()),
            typed: typed.is_some(),
            ..Heard::default()
        };
        heard.segments.extend(typed);
        for capture in media {
            match capture.kind {
                halo_receipts::messages::CaptureKind::Image => heard.images += 1,
                halo_receipts::messages::CaptureKind::Gesture => heard.gestures += 1,
                halo_receipts::messages::CaptureKind::Audio => {}
            }
        }
        if heard.segments.is_empty() {
            heard.segments.extend(self.prompt.clone());
            heard.typed = true;
        }
        let (classifier, inputs) = (Arc::clone(&self.classifier), self.inputs.clone());
        tokio::spawn(async move {
            let understanding: Understanding = classifier.classify(&heard).await;
            let _ = inputs.send(Input::Machine(Event::Understood {
                utterance,
                understanding,
            }));
        });
    }

    fn transcriber_words(&mut self, media: &[Media], typed: bool) -> Vec<String> {
        if typed {
            Vec::new()
        } else {
            self.transcriber.transcribe(media)
        }
    }

    /// Lets both peers read what was sent, then closes.
    pub(super) async fn close(mut self) {
        self.gateway_out = None;
        if let Some(peer) = self.sensor.take() {
            let _ = peer.out.send(Out::Close);
            if let Some(task) = self.sensor_task.take()
                && timeout(CLOSE_LIMIT, task).await.is_err()
            {
                tracing::warn!("the sensor did not read to the end");
            }
        }
        if let Some(task) = self.gateway_task.take() {
            let _ = timeout(CLOSE_LIMIT, task).await;
        }
    }
}
