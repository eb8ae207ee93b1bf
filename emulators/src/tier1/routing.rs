//! What follows from what was understood: a decision on record, then an answer from here or a request to the substrate.

use halo_receipts::payload::{AnswerStatus, Answerer, BreakFound, Decision, Routing};
use halo_receipts::receipt::{Parent, Receipt};

use crate::tier1::answer::Answer;
use crate::tier1::capture::Break;
use crate::tier1::classify::{Intent, PROMPT_MAX, Understanding};
use crate::tier1::local::{self, LocalIntent};
use crate::tier1::machine::{BREAK, Orchestrator, Pipeline, Turn};
use crate::tier1::report::Report;
use crate::tier1::session::WriteError;

/// The name under which a break is recorded: no classifier decides about it.
const VERIFIER: &str = "verifier/1";

impl Orchestrator {
    /// Signs the decision and acts on it.
    pub(super) fn understood(&mut self, understanding: Understanding, turn: &mut Turn) {
        if let Err(error) = self.try_route(understanding, turn) {
            self.cannot_write(&error, turn);
        }
    }

    fn try_route(
        &mut self,
        mut understood: Understanding,
        turn: &mut Turn,
    ) -> Result<(), WriteError> {
        // A control character takes six bytes of JSON; none of them is asked for.
        understood.prompt = understood.prompt.replace(char::is_control, " ");
        if understood.prompt.len() > PROMPT_MAX {
            understood.intent = Intent::Local(LocalIntent::TooLong);
            understood.prompt.clear();
        }
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let parent = session.chain.routing_parent();
        let id = turn.receipt_id();
        let decision = match understood.intent {
            Intent::Escalate => Decision::Escalate,
            Intent::Local(_) | Intent::Ambient => Decision::Local,
        };
        let mut routing = Routing::new(decision, &understood.reason, &understood.classifier);
        let request_id = turn.request_id();
        if decision == Decision::Escalate {
            routing.request_id = Some(request_id);
        }
        // Of ambient talk nothing is kept, not even sealed.
        let prompt = (understood.intent != Intent::Ambient).then_some(understood.prompt.as_str());
        let receipt = session.route(id, parent, routing, prompt, turn.now)?;
        turn.report(Report::Routed {
            decision,
            reason: understood.reason.clone(),
            classifier: understood.classifier.clone(),
            receipt_id: id,
            parent: parent.map(|parent| parent.id),
            hmac: halo_receipts::hex::encode(&receipt.hmac_signature),
        });
        let text = match &understood.intent {
            Intent::Escalate => {
                let upto = session.outbox.end();
                let answer = Answer::new(request_id, understood.prompt, receipt.as_parent(), upto);
                self.pipeline = Pipeline::Answering(Box::new(answer));
                return Ok(());
            }
            Intent::Ambient => String::new(),
            Intent::Local(intent) => {
                self.config.facts.sensor_battery_low |= self.sensor.battery_low();
                local::answer(intent, &mut self.config.facts, turn.now)
            }
        };
        self.finish(
            receipt.as_parent(),
            AnswerStatus::Ok,
            Answerer::Local,
            &text,
            turn,
        )?;
        turn.report(Report::LocalAnswer { text: text.clone() });
        if !text.is_empty() {
            self.sensor.show(&text);
            self.end_of_answer();
        }
        Ok(())
    }

    /// Writes the session's seal after an answer.
    pub(super) fn finish(
        &mut self,
        parent: Parent,
        status: AnswerStatus,
        answered_by: Answerer,
        text: &str,
        turn: &mut Turn,
    ) -> Result<(), WriteError> {
        let id = turn.receipt_id();
        if let Some(session) = &mut self.session {
            session.seal(id, parent, status, answered_by, text, turn.now)?;
        }
        self.pipeline = Pipeline::Idle;
        Ok(())
    }

    /// A line feed and a short tone tell the user that nothing more comes.
    pub(super) fn end_of_answer(&mut self) {
        self.sensor.show("\n");
        self.sensor.play(&earcon());
    }

    /// Records a break under the epoch that follows it.
    pub(super) fn record_break(
        &mut self,
        found: &Break,
        turn: &mut Turn,
    ) -> Result<Option<Receipt>, WriteError> {
        let id = turn.receipt_id();
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        let mut routing = Routing::new(BREAK, &format!("break: {}", found.name), VERIFIER);
        routing.break_found = Some(BreakFound {
            epoch: found.epoch,
            first_bad: found.first_bad,
            reason: found.name.to_owned(),
            expected: found.expected,
            computed: found.computed,
        });
        let parent = session.chain.break_parent();
        session.route(id, parent, routing, None, turn.now).map(Some)
    }

    /// The phone's own receipt does not fit its own chain: the session is given up, and the next one begins cleanly.
    pub(super) fn cannot_write(&mut self, error: &WriteError, turn: &mut Turn) {
        turn.report(Report::Error {
            code: "receipt_refused",
            message: format!("a receipt could not be written: {error}; the session is left open and a new one begins"),
        });
        self.pipeline = Pipeline::Idle;
        self.abandoned = true;
    }
}

/// The sound at the end of an answer: 120 ms of 880 Hz at 16 kHz, fading out, from a recurrence instead of a table.
fn earcon() -> Vec<u8> {
    const SAMPLES: i32 = 1920;
    let step = 2.0 * (std::f64::consts::TAU * 880.0 / 16_000.0).cos();
    let (mut last, mut current) = (0.0, (std::f64::consts::TAU * 880.0 / 16_000.0).sin());
    let mut sound = Vec::new();
    for at in 0..SAMPLES {
        let fade = f64::from(SAMPLES - at) / f64::from(SAMPLES);
        let sample = (current * fade * 8000.0) as i16;
        sound.extend_from_slice(&sample.to_le_bytes());
        (last, current) = (current, step * current - last);
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tone_is_even_and_does_not_clip() {
        let sound = earcon();
        assert_eq!(sound.len(), 3840);
        let loudest = sound
            .chunks_exact(2)
            .map(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs())
            .max();
        assert!(
            loudest.is_some_and(|loudest| (7000..=8001).contains(&loudest)),
            "{loudest:?}"
        );
    }
}
