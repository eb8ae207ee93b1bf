//! The edge of one device connection: drives the session machine with a socket, the ledger, the clock and the answers.

mod over;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use halo_ledger::LedgerError;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd, Operation};
use halo_receipts::evidence::{Block, Evidence};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::answer_ledger;
use crate::answer_task::Task;
use crate::answers::{Item, ReadAs, Reading};
use crate::gateway::Gateway;
use crate::session::{Action, Ask, Count, Event, Refusal, Session, WriteError};
use crate::websocket::DeviceSocket;

use over::Over;

/// How long a closed connection waits for the device's own close frame, so that what was sent last is not lost.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection stays at a shutdown after its answer ended, so that the device can record its own receipt of it.
const LAST_RECORD: Duration = Duration::from_secs(2);
/// A device may ping this often; what comes faster is refused.
const DEVICE_PING: Duration = Duration::from_secs(1);

/// Serves one device connection until it ends, and keeps its `place` for so long.
pub fn serve<P: Send + 'static>(
    gateway: Arc<Gateway>,
    socket: DeviceSocket,
    session: Session,
    peer: IpAddr,
    place: P,
) -> impl Future<Output = ()> + Send + 'static {
    let id = session.ring().session();
    let (number, superseded) = gateway.connect(id);
    tracing::info!(
        session = %id,
        tenant = %session.ring().tenant(),
        epoch = %session.terms().epoch,
        device = %session.device(),
        "a device connected"
    );
    // Made here, so that the future holds it once: there is one for each device, and most are idle.
    let mut connection = Connection {
        gateway,
        socket,
        session,
        peer,
        number,
        reading: None,
        last_request: Instant::now(),
    };
    async move {
        let over = match connection.run(superseded).await {
            Ok(never) => match never {},
            Err(over) => over,
        };
        tracing::info!(session = %id, reason = over.name(), "a device's connection ended");
        connection.gateway.metrics.connection_closed(over.name());
        Box::pin(connection.end(over)).await;
        connection.gateway.disconnect(&id, number);
        drop(place);
    }
}

struct Connection {
    gateway: Arc<Gateway>,
    socket: DeviceSocket,
    session: Session,
    peer: IpAddr,
    number: u64,
    reading: Option<Reading>,
    /// When the last request ended.
    last_request: Instant,
}

impl Connection {
    async fn run(
        &mut self,
        superseded: CancellationToken,
    ) -> Result<std::convert::Infallible, Over> {
        let limits = &self.gateway.limits;
        let every = Duration::from_millis(limits.ping_ms);
        let start = Instant::now();
        // The pong to this first ping is a sign of life as good as a frame: a person may take a while to speak.
        self.ping().await?;
        let mut next_ping = start + every;
        let mut alive_by = Some(start + Duration::from_millis(self.gateway.limits.first_frame_ms));
        let mut device_ping = None;
        let drain = self.gateway.drain.clone();
        let interrupt = self.gateway.interrupt.clone();
        let mut close_at: Option<Instant> = None;
        loop {
            if let Some(missing) = self.reading.as_mut().and_then(Reading::take_missing) {
                Box::pin(self.catch_up(missing)).await?;
            }
            let silent = alive_by.unwrap_or(start + Duration::from_secs(u64::from(u32::MAX)));
            let leave = match close_at {
                Some(turn) if self.session.is_idle() => Some(turn.max(self.last_request)),
                _ => None,
            };
            tokio::select! {
                message = self.socket.next() => match message {
                    Some(Ok(Message::Binary(message))) => {
                        self.handle(Event::Message(&message)).await?;
                        if self.session.heard() {
                            alive_by = None;
                        }
                    }
                    Some(Ok(Message::Pong(_))) => alive_by = None,
                    Some(Ok(Message::Ping(_))) => {
                        let now = Instant::now();
                        if device_ping.replace(now).is_some_and(|last| now - last < DEVICE_PING) {
                            self.handle(Event::Foreign("ping_flood")).await?;
                        }
                    }
                    Some(Ok(Message::Close(_))) => return Err(Over::Closed),
                    Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                        return Err(Over::Protocol(CloseCode::Unsupported));
                    }
                    Some(Err(error)) => return Err(self.broken(&error)),
                    None => return Err(Over::Broken),
                },
                item = next_item(&mut self.reading) => self.relay(item).await?,
                () = sleep_until(next_ping) => {
                    self.ping().await?;
                    next_ping = Instant::now() + every;
                    alive_by.get_or_insert(next_ping);
                }
                () = sleep_until(silent) => return Err(Over::Silent),
                () = superseded.cancelled() => return Err(Over::Superseded),
                () = drain.cancelled(), if close_at.is_none() => {
                    close_at = Some(Instant::now() + self.gateway.close_delay());
                }
                () = sleep_until(leave.unwrap_or(start)), if leave.is_some() => {
                    self.handle(Event::Shutdown).await?;
                }
                () = interrupt.cancelled(), if self.session.is_idle() => {
                    self.handle(Event::Shutdown).await?;
                }
            }
        }
    }

    fn broken(&self, error: &Error) -> Over {
        match error {
            // One frame is one message: fragments are refused whatever they would make.
            Error::Io(_) if self.socket.get_ref().saw_fragment() => {
                Over::Protocol(CloseCode::Unsupported)
            }
            Error::Capacity(_) => Over::Protocol(CloseCode::Size),
            Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ) => Over::Broken,
            Error::Protocol(_) | Error::Utf8(_) => Over::Protocol(CloseCode::Protocol),
            _ => Over::Broken,
        }
    }

    async fn relay(&mut self, item: Item) -> Result<(), Over> {
        match item {
            Item::Notice(payload) => self.handle(Event::Token(&payload)).await,
            Item::Token(payload) => {
                self.handle(Event::Token(&payload)).await?;
                self.gateway.metrics.relayed.inc();
                Ok(())
            }
            Item::End(document) => {
                self.reading = None;
                self.last_request = Instant::now() + LAST_RECORD;
                self.handle(Event::Ended(&document)).await
            }
        }
    }

    /// Sends the tokens that were asked for and that the answer's log no longer has: the ledger has them.
    async fn catch_up(&mut self, missing: Range<usize>) -> Result<(), Over> {
        let Some(request) = self.reading.as_ref().map(Reading::request_id) else {
            return Ok(());
        };
        let mut ring = self.session.ring();
        let stored = answer_ledger::read(&self.gateway, &mut ring, request).await;
        let tokens = stored.and_then(|stored| match stored {
            Some(stored) => {
                let tokens = stored.token_payloads(missing.clone());
                tokens.map_err(|error| error.to_string())
            }
            None => Err("the request is not in the ledger".to_owned()),
        });
        match tokens {
            Ok(tokens) if tokens.len() == missing.len() => {
                for token in tokens {
                    self.relay(Item::Token(token.into())).await?;
                }
                Ok(())
            }
            // They are not durable yet, or cannot be read: the answer goes on, and the device asks again.
            tokens => {
                let error = tokens.err().unwrap_or_default();
                tracing::warn!(session = %ring.session(), error, "what was relayed before cannot be read yet");
                self.reading = None;
                let end = EscalateEnd {
                    retry_after_ms: Some(1_000),
                    ..EscalateEnd::bare(request, EndStatus::Failed, EndCode::LedgerUnavailable)
                };
                match end.to_json() {
                    Ok(document) => self.handle(Event::Ended(&document)).await,
                    Err(_) => Err(Over::Broken),
                }
            }
        }
    }

    /// The same as [`Session::handle`] for what a device sent, whose check is timed.
    fn check(&mut self, what: &str, event: Event<'_>) -> Vec<Action> {
        let begun = Instant::now();
        let actions = self.session.handle(event);
        // A bundle that first needs the ledger is checked when that is read.
        if !matches!(actions.first(), Some(Action::Read)) {
            let seconds = begun.elapsed().as_secs_f64();
            self.gateway.metrics.verified(what, seconds);
        }
        actions
    }

    /// Gives the machine an event, and what its demands bring. Boxed: a connection that is idle keeps no room for it.
    fn handle<'a>(
        &'a mut self,
        event: Event<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Over>> + Send + 'a>> {
        Box::pin(self.drive(event))
    }

    async fn drive(&mut self, event: Event<'_>) -> Result<(), Over> {
        let first = match event {
            Event::Message(_) => self.check("frame", event),
            _ => self.session.handle(event),
        };
        let mut actions = VecDeque::from(first);
        while let Some(action) = actions.pop_front() {
            let more = match action {
                Action::Send(frame) => {
                    self.send(Message::Binary(frame.into())).await?;
                    continue;
                }
                Action::Count(count) => {
                    self.count(&count);
                    continue;
                }
                Action::Close(reason) => return Err(Over::Machine(reason)),
                Action::Admit(operation) => {
                    let admitted = self.admit(operation);
                    self.check("bundle", Event::Admitted(admitted))
                }
                Action::Read => {
                    let evidence = self.read().await;
                    self.check("bundle", Event::Evidence(evidence))
                }
                Action::Append(blocks) => {
                    let written = self.append(&blocks).await;
                    self.session.handle(Event::Written(written))
                }
                Action::Ask(ask) => {
                    let started = self.ask(ask);
                    self.session.handle(Event::Started(started))
                }
                Action::Resume {
                    request_id,
                    from_step,
                } => {
                    let started = self.resume(request_id, from_step);
                    self.session.handle(Event::Started(started))
                }
            };
            actions.extend(more);
        }
        Ok(())
    }

    fn count(&self, count: &Count) {
        let tenant = self.session.ring().tenant().clone();
        self.gateway.metrics.count(&tenant, count);
        if let Count::Refused(reason) = count {
            tracing::debug!(session = %self.session.ring().session(), reason, "a message was refused");
            let now = self.gateway.steady_ms();
            self.gateway.penalties().failed(self.peer, now);
        }
    }

    fn admit(&self, operation: Operation) -> Result<(), Refusal> {
        let gateway = &self.gateway;
        let refused = |code, retry_after_ms| {
            Err(Refusal {
                code,
                retry_after_ms: Some(retry_after_ms),
            })
        };
        let ring = self.session.ring();
        // What only records is let through at a shutdown: it is how a session that was just answered gets its seal.
        if gateway.drain.is_cancelled() && operation != Operation::Record {
            return refused(EndCode::Draining, 1_000);
        }
        if operation == Operation::Infer && gateway.answers.is_running(&ring.session()) {
            return refused(EndCode::Busy, 1_000);
        }
        let per_minute = gateway
            .directory
            .tenant(ring.tenant())
            .map_or(0, |t| t.requests_per_minute);
        let taken = gateway
            .rates()
            .take(ring.tenant(), per_minute, gateway.steady_ms());
        taken.or_else(|wait_ms| refused(EndCode::RateLimited, wait_ms))
    }

    async fn read(&mut self) -> Result<Box<Evidence>, String> {
        let session = self.session.ring().session();
        let snapshot = timeout(self.ledger_time(), self.gateway.ledger.snapshot(&session)).await;
        match snapshot {
            Ok(Ok(Some(evidence))) => Ok(Box::new(evidence)),
            Ok(Ok(None)) => Err("the session is not in the ledger".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the ledger did not answer in time".to_owned()),
        }
    }

    async fn append(&mut self, blocks: &[Block]) -> Result<(), WriteError> {
        let session = self.session.ring().session();
        let metrics = &self.gateway.metrics;
        let timer = metrics.append_seconds.start_timer();
        for block in blocks {
            let append = self.gateway.ledger.append(&session, block);
            match timeout(self.ledger_time(), append).await {
                Ok(Ok(_)) => metrics.receipts.inc_by(block.receipts.len() as u64),
                Ok(Err(LedgerError::Fork { .. } | LedgerError::Gap { .. })) => {
                    return Err(WriteError::Conflict);
                }
                Ok(Err(error)) => return Err(WriteError::Unavailable(error.to_string())),
                Err(_) => {
                    return Err(WriteError::Unavailable(
                        "the ledger did not answer in time".to_owned(),
                    ));
                }
            }
        }
        timer.observe_duration();
        Ok(())
    }

    fn ask(&mut self, ask: Ask) -> Result<(), Refusal> {
        let task = self.begin(ask.request_id, 0)?;
        self.gateway.tasks.spawn(task.ask(ask));
        Ok(())
    }

    fn resume(
        &mut self,
        request_id: halo_receipts::ids::RequestId,
        from_step: u32,
    ) -> Result<(), Refusal> {
        let session = self.session.ring().session();
        let reader = self.reader(from_step);
        if let Some(reading) = self.gateway.answers.attach(&session, request_id, reader) {
            self.reading = Some(reading);
            return Ok(());
        }
        let task = self.begin(request_id, from_step)?;
        self.gateway.tasks.spawn(task.follow());
        Ok(())
    }

    fn reader(&self, from_step: u32) -> ReadAs {
        ReadAs {
            connection: self.number,
            epoch: self.session.terms().epoch,
            from_step,
        }
    }

    /// Begins an answer that this connection reads; refused while another one of the session is under way.
    fn begin(
        &mut self,
        request_id: halo_receipts::ids::RequestId,
        from_step: u32,
    ) -> Result<Task, Refusal> {
        let session = self.session.ring().session();
        let reader = self.reader(from_step);
        let begun = self.gateway.answers.begin(session, request_id, reader);
        let (answer, reading) = begun.ok_or(Refusal {
            code: EndCode::Busy,
            retry_after_ms: Some(1_000),
        })?;
        self.reading = Some(reading);
        Ok(Task {
            gateway: Arc::clone(&self.gateway),
            answer,
            ring: self.session.ring(),
            terms: self.session.terms().clone(),
        })
    }

    async fn ping(&mut self) -> Result<(), Over> {
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Over> {
        let limit = Duration::from_millis(self.gateway.limits.send_ms);
        match timeout(limit, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::WriteBufferFull(_))) | Err(_) => Err(Over::Slow),
            Ok(Err(_)) => Err(Over::Broken),
        }
    }

    fn ledger_time(&self) -> Duration {
        Duration::from_millis(self.gateway.limits.ledger_ms)
    }

    /// Lets go of the answer and says goodbye.
    async fn end(&mut self, over: Over) {
        if let Some(reading) = self.reading.take()
            && !over.may_come_back()
        {
            reading.cancel();
        }
        let Some((code, reason)) = over.code() else {
            // Answers the device's close frame, if it sent one.
            let _ = timeout(LINGER, self.socket.close(None)).await;
            return;
        };
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let goodbye = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<_, Error>(())
        };
        // Whether the device hears it or not, the connection ends here.
        let _ = timeout(LINGER, goodbye).await;
    }
}

async fn next_item(reading: &mut Option<Reading>) -> Item {
    match reading {
        Some(reading) => reading.next().await,
        None => std::future::pending().await,
    }
}
