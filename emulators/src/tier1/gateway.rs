//! The phone's end of the link to the gateway: opening sessions and epochs, and the connection of each.

use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd};
use halo_receipts::fragment::{END_MAX, Reassembler};
use halo_receipts::frame::FrameType;
use halo_receipts::ids::{Epoch, Tier};
use halo_receipts::link::{End, Link};
use halo_receipts::messages::{Backpressure, TokenOrNotice};
use halo_receipts::opening::{
    Nonce, OpenAnswer, OpenRequest, SESSIONS_PATH, STREAM_PATH, epochs_path, signature,
};
use halo_receipts::time::Timestamp;
use zeroize::Zeroizing;

use crate::after;
use crate::tier1::answer::Progress;
use crate::tier1::machine::{Action, Orchestrator, Pipeline, Turn};
use crate::tier1::report::Report;
use crate::tier1::requests::InFlight;
use crate::tier1::session::Session;

/// After so many refused frames a connection is given up.
const REFUSED_MAX: u32 = 16;
/// How long a request may stay without an accepted frame once one was refused, in milliseconds.
const STALL_LIMIT_MS: u64 = 5_000;
/// How long a request may stay without any frame, in milliseconds. The gateway tells of a held request more often.
const SILENCE_LIMIT_MS: u64 = 180_000;
/// The first and the longest wait before another try, in milliseconds.
const BACKOFF_MS: (u64, u64) = (100, 10_000);
/// The longest wait that the gateway can impose, in milliseconds.
pub(super) const HOLD_MAX_MS: u32 = 300_000;

/// Where the connection to the gateway stands.
pub(super) enum Gateway {
    /// Not started.
    Idle,
    /// A session or an epoch is being opened.
    Posting,
    /// It failed; tried again at this time.
    Backoff(Timestamp),
    /// The WebSocket is being opened.
    Connecting,
    /// It stands.
    Open(Box<Open>),
    /// It is of no use any more.
    Stopped,
}

/// A connection that stands.
pub(super) struct Open {
    pub(super) link: Link,
    end: Reassembler,
    refused: u32,
    /// Since when a refused frame may have torn a hole into the stream.
    stalled_since: Option<Timestamp>,
    /// When the last frame was accepted, or the last request sent.
    pub(super) active: Timestamp,
}

impl Open {
    /// When a request that is under way is given up on this connection.
    fn deadline(&self) -> Timestamp {
        match self.stalled_since {
            Some(since) => after(since, STALL_LIMIT_MS),
            None => after(self.active, SILENCE_LIMIT_MS),
        }
    }
}

impl Orchestrator {
    pub(super) fn start(&mut self, turn: &mut Turn) {
        if matches!(self.gateway, Gateway::Idle) {
            self.post(turn);
        }
    }

    /// Asks for a session, or for the next epoch of the one there is.
    pub(super) fn post(&mut self, turn: &mut Turn) {
        let path = match &self.session {
            Some(session) => epochs_path(&session.id),
            None => SESSIONS_PATH.to_owned(),
        };
        let request = OpenRequest {
            tenant_id: self.config.tenant.clone(),
            device_id: self.config.device.clone(),
            device_generation: self.config.generation,
            timestamp: turn.now,
            nonce: Nonce(turn.draw.bytes()),
        };
        // Strings and numbers only: nothing here fails to serialise.
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let signature = signature(&self.config.key, "POST", &path, &body);
        self.gateway = Gateway::Posting;
        turn.actions.push(Action::Post {
            path,
            signature,
            body,
        });
    }

    pub(super) fn posted(&mut self, status: u16, body: Vec<u8>, turn: &mut Turn) {
        let body = Zeroizing::new(body);
        if !matches!(self.gateway, Gateway::Posting) {
            return self.refused.count("gateway_answer");
        }
        match status {
            200..=299 => {}
            // The gateway does not say why. The session's root may be out of use: a new session tells whether it is only that.
            401 | 404 if self.session.is_some() => return self.lose_session(turn),
            // Asking again in the same way cannot help.
            400 | 401 | 403 | 404 | 405 | 413 | 415 | 422 => {
                return self.stop(
                    "session_refused",
                    format!("the gateway refused to open a session (HTTP {status}); check the credential, the device's clock and its enrolment"),
                    turn,
                );
            }
            _ => return self.back_off(format!("the gateway answered with HTTP {status}"), turn),
        }
        let Some(answer) = self.acceptable(&body) else {
            return self.back_off(
                "the gateway's answer is not one to this request".to_owned(),
                turn,
            );
        };
        let report = match self.session {
            Some(_) => Report::EpochOpened {
                session_epoch: answer.session_epoch,
            },
            None => Report::SessionOpened {
                session_id: answer.session_id,
                session_epoch: answer.session_epoch,
                tenant_id: self.config.tenant.clone(),
                root_generation: answer.root_generation,
                demo_root: answer.demo_root,
                content: answer.content,
            },
        };
        let taken = match &mut self.session {
            Some(session) => session.rekey(&answer),
            None => Session::new(&answer, self.config.tenant.clone())
                .map(|session| self.session = Some(session)),
        };
        if taken.is_err() {
            return self.back_off("the gateway's answer holds no usable keys".to_owned(), turn);
        }
        turn.report(report);
        // What the sensor still signs with the key before this one is not taken any more.
        self.sensor.set_aside();
        // A sensor takes only a higher epoch than it saw, in whichever session.
        if self.sensor.told() >= Some(answer.session_epoch) {
            return self.post(turn);
        }
        let Some(session) = &self.session else { return };
        let path = answer.stream.clone();
        let signature = signature(&session.own_key, "GET", &path, b"");
        self.gateway = Gateway::Connecting;
        turn.actions.push(Action::Connect { path, signature });
    }

    /// The session cannot go on: what is not recorded of it is lost, and the phone says so.
    fn lose_session(&mut self, turn: &mut Turn) {
        if let Pipeline::Answering(answer) = std::mem::replace(&mut self.pipeline, Pipeline::Idle) {
            turn.report(Report::Unanswered {
                request_id: answer.request_id,
                status: EndStatus::Failed,
                code: EndCode::Lost,
                retry_after_ms: None,
                tokens: answer.last_step().map_or(0, |last| last + 1),
                after_ms: answer.after_ms(turn.now),
            });
            self.sensor.show("\nThe answer is lost.");
            self.end_of_answer();
        }
        turn.report(Report::Error {
            code: "session_lost",
            message: "the gateway does not let the session go on; a new one begins".to_owned(),
        });
        self.session = None;
        self.forming.clear();
        self.pending_break = None;
        self.abandoned = false;
        self.post(turn);
    }

    /// The answer, if it is one for this device's request.
    fn acceptable(&self, body: &[u8]) -> Option<OpenAnswer> {
        let answer: OpenAnswer = serde_json::from_slice(body).ok()?;
        let path = answer.stream.split('?').next();
        let continues = match &self.session {
            Some(session) => {
                answer.session_id == session.id && answer.session_epoch > session.epoch
            }
            None => true,
        };
        (continues && path == Some(STREAM_PATH)).then_some(answer)
    }

    pub(super) fn post_failed(&mut self, cause: String, turn: &mut Turn) {
        if matches!(self.gateway, Gateway::Posting) {
            self.back_off(cause, turn);
        }
    }

    pub(super) fn gateway_lost(&mut self, cause: String, turn: &mut Turn) {
        if matches!(self.gateway, Gateway::Connecting | Gateway::Open(_)) {
            self.disconnected();
            self.back_off(cause, turn);
        }
    }

    /// Leaves the connection, if there is one, and opens another epoch.
    pub(super) fn new_epoch(&mut self, turn: &mut Turn) {
        if matches!(self.gateway, Gateway::Connecting | Gateway::Open(_)) {
            turn.actions.push(Action::CloseGateway);
            self.disconnected();
            self.post(turn);
        }
    }

    /// What was under way on the connection is not any more.
    fn disconnected(&mut self) {
        self.in_flight = None;
        self.hold_until = None;
        if let Pipeline::Answering(answer) = &mut self.pipeline
            && answer.progress == Progress::Sent
        {
            answer.progress = Progress::Interrupted;
        }
    }

    /// Leaves a connection that cannot be trusted to deliver, and tries again a little later.
    pub(super) fn give_up_connection(&mut self, cause: &str, turn: &mut Turn) {
        turn.actions.push(Action::CloseGateway);
        self.disconnected();
        self.back_off(cause.to_owned(), turn);
    }

    fn back_off(&mut self, cause: String, turn: &mut Turn) {
        let (first, longest) = BACKOFF_MS;
        let wait = (first << self.failures.min(10)).min(longest);
        // Half of it is chance, so that many phones do not come back at once.
        let jitter = u64::from(u32::from_be_bytes(turn.draw.bytes())) % (wait / 2 + 1);
        let retry_ms = wait / 2 + jitter;
        self.failures = self.failures.saturating_add(1);
        self.gateway = Gateway::Backoff(after(turn.now, retry_ms));
        turn.report(Report::Retry { cause, retry_ms });
    }

    pub(super) fn stop(&mut self, code: &'static str, message: String, turn: &mut Turn) {
        if matches!(self.gateway, Gateway::Connecting | Gateway::Open(_)) {
            turn.actions.push(Action::CloseGateway);
        }
        self.gateway = Gateway::Stopped;
        turn.report(Report::Error { code, message });
        turn.actions.push(Action::Stop);
    }

    pub(super) fn gateway_connected(&mut self, turn: &mut Turn) {
        let (Gateway::Connecting, Some(session)) = (&self.gateway, &self.session) else {
            return;
        };
        let key = std::sync::Arc::clone(&session.own_key);
        let link = Link::new(End::OrchestratorToGateway, session.id, key);
        self.gateway = Gateway::Open(Box::new(Open {
            link,
            end: Reassembler::new(END_MAX),
            refused: 0,
            stalled_since: None,
            active: turn.now,
        }));
        if let Some(found) = self.pending_break.take() {
            match self.record_break(&found, turn) {
                Ok(Some(receipt)) => turn.report(Report::Relinked {
                    session_epoch: receipt.body.session_epoch,
                    receipt_id: receipt.body.receipt_id,
                    parent: receipt.body.parent.map(|parent| parent.id),
                }),
                Ok(None) => {}
                Err(error) => self.cannot_write(&error, turn),
            }
            // The record goes first, then the sensor hears of the new epoch.
            self.pump(turn);
        }
        self.reset_sensor(turn);
    }

    /// A sensor came. It gets this epoch's key, or the next one's if this one's was already given away.
    pub(super) fn sensor_arrived(&mut self, told: Option<Epoch>, turn: &mut Turn) {
        if let (Gateway::Open(_), Some(session)) = (&self.gateway, &self.session) {
            if told >= Some(session.epoch) {
                self.new_epoch(turn);
            } else {
                self.reset_sensor(turn);
            }
        }
    }

    fn reset_sensor(&mut self, turn: &mut Turn) {
        if let Some(session) = &self.session
            && self.sensor.is_present()
            && let Ok(frame) = self
                .sensor
                .reset(session, &self.config.pairing, turn.draw.bytes())
        {
            turn.actions.push(Action::SendSensor(frame));
        }
    }

    pub(super) fn gateway_message(&mut self, message: &[u8], turn: &mut Turn) {
        let Gateway::Open(open) = &mut self.gateway else {
            return self.refused.count("gateway_not_open");
        };
        let sequence = open.link.next_received();
        let frame = match open.link.receive(message) {
            Ok(frame) => frame,
            Err(error) => {
                self.refused.count(error.name());
                open.refused += 1;
                open.stalled_since.get_or_insert(turn.now);
                if open.refused >= REFUSED_MAX {
                    self.give_up_connection("too many frames of the gateway were refused", turn);
                }
                return;
            }
        };
        open.stalled_since = None;
        open.active = turn.now;
        self.failures = 0;
        match frame.typ {
            FrameType::EscalateToken => match TokenOrNotice::decode(frame.payload) {
                Ok(TokenOrNotice::Token(token)) => self.token(&token, sequence, turn),
                Ok(TokenOrNotice::Notice(notice)) => {
                    if let Some(InFlight { request_id, .. }) = self.in_flight {
                        let after_ms = match &self.pipeline {
                            Pipeline::Answering(answer) => answer.after_ms(turn.now),
                            _ => 0,
                        };
                        turn.report(Report::Notice {
                            request_id,
                            state: notice.state,
                            position: notice.position,
                            eta_ms: notice.eta_ms,
                            after_ms,
                        });
                    }
                }
                Err(_) => self.bad_stream("gateway_token", turn),
            },
            FrameType::EscalateEnd => match open.end.push(frame.payload) {
                Ok(None) => {}
                Ok(Some(document)) => match EscalateEnd::parse(&document) {
                    Ok(end) => self.end(&end, sequence, turn),
                    Err(_) => self.bad_stream("gateway_end", turn),
                },
                Err(_) => self.bad_stream("gateway_fragment", turn),
            },
            FrameType::Backpressure => {
                match Backpressure::decode(frame.payload, Tier::Orchestrator) {
                    Ok(plea) => self.hold(plea.pause_ms, turn.now),
                    Err(_) => self.refused.count("gateway_backpressure"),
                }
            }
            other => self.refused.count(other.name()),
        }
    }

    pub(super) fn hold(&mut self, milliseconds: u32, now: Timestamp) {
        let until = after(now, u64::from(milliseconds.min(HOLD_MAX_MS)));
        self.hold_until = self.hold_until.max(Some(until));
    }

    /// An authentic frame that makes no sense: the peer and this end no longer agree on the stream.
    fn bad_stream(&mut self, reason: &'static str, turn: &mut Turn) {
        self.refused.count(reason);
        self.failures = self.failures.saturating_add(1);
        self.give_up_connection("the gateway's stream made no sense", turn);
    }

    pub(super) fn gateway_wake(&self) -> Option<Timestamp> {
        match &self.gateway {
            Gateway::Backoff(until) => Some(*until),
            Gateway::Open(open) => match &self.in_flight {
                Some(_) => Some(open.deadline()),
                None => {
                    let retry = match &self.pipeline {
                        Pipeline::Answering(answer) => answer.retry_at,
                        _ => None,
                    };
                    [self.hold_until, retry].into_iter().flatten().min()
                }
            },
            _ => None,
        }
    }

    pub(super) fn advance_gateway(&mut self, turn: &mut Turn) {
        match &self.gateway {
            Gateway::Backoff(until) if *until <= turn.now => self.post(turn),
            Gateway::Open(open) => {
                if self.in_flight.is_some() && open.deadline() <= turn.now {
                    return self.give_up_connection("the gateway does not answer", turn);
                }
                self.pump(turn);
            }
            _ => {}
        }
    }
}
