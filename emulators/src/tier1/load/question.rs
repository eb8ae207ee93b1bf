//! One question of a device under load: what is heard of it until there is an outcome. Pure.

use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::ids::{RequestId, SessionId};
use halo_receipts::payload::AnswerStatus;
use serde::Serialize;

use crate::tier1::report::Report;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer came, and its seal fits.
    Answered,
    /// Nothing was computed; `code` says why.
    Refused,
    /// An answer began and broke off; the device was told.
    Interrupted,
    /// There is no outcome, or none that the device was told.
    Failed,
    /// The phone answered by itself: the words were no question for a substrate.
    Local,
}

/// A notice, when its state came first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What the notice said.
    pub state: Progress,
    /// Since the question was asked, in milliseconds.
    pub after_ms: u64,
    /// The estimate in it, in milliseconds; 0 if unknown.
    pub eta_ms: u32,
    /// Requests before this one.
    pub position: u32,
}

/// A question and what was heard of it; times in milliseconds since it was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Question {
    /// Counts the device's questions from 1.
    pub question: u32,
    /// What became of it; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Whether the device was told the outcome, by an answer, a seal or a refusal.
    pub reported: bool,
    /// The session in which it was asked.
    pub session_id: Option<SessionId>,
    /// The request.
    pub request_id: Option<RequestId>,
    /// Why there is no answer.
    pub code: Option<EndCode>,
    /// When the gateway would be asked again, if it said that with the last refusal, in milliseconds.
    pub retry_after_ms: Option<u32>,
    /// For a person: why there is no outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Why the request was put off, each time.
    pub put_off: Vec<EndCode>,
    /// How often the connection to the gateway was lost or refused meanwhile.
    pub retries: u32,
    /// How often the rest of an answer was asked for on a new connection.
    pub resumed: u32,
    /// The states of its notices, each when it came first.
    pub notices: Vec<Seen>,
    /// The request went to the gateway.
    pub asked_ms: Option<u64>,
    /// The first token.
    pub first_token_ms: Option<u64>,
    /// The last token.
    pub last_token_ms: Option<u64>,
    /// The end.
    pub end_ms: Option<u64>,
    /// The seal is in the ledger.
    pub sealed_ms: Option<u64>,
    /// Tokens of the answer.
    pub tokens: u32,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Question {
    /// A question that is asked now, in this session if there is one.
    pub fn new(question: u32, session_id: Option<SessionId>) -> Self {
        Self {
            question,
            outcome: None,
            reported: false,
            session_id,
            request_id: None,
            code: None,
            retry_after_ms: None,
            cause: None,
            put_off: Vec::new(),
            retries: 0,
            resumed: 0,
            notices: Vec::new(),
            asked_ms: None,
            first_token_ms: None,
            last_token_ms: None,
            end_ms: None,
            sealed_ms: None,
            tokens: 0,
            text: None,
        }
    }

    /// Takes what the phone reports, so many milliseconds after the question.
    pub fn hear(&mut self, report: &Report, now: u64) {
        match report {
            Report::SessionOpened { session_id, .. } if self.request_id.is_none() => {
                self.session_id = Some(*session_id);
            }
            Report::Asked {
                request_id,
                resumed,
            } => {
                self.request_id = Some(*request_id);
                self.asked_ms.get_or_insert(now);
                self.resumed += u32::from(*resumed);
            }
            Report::PutOff { code, retry_ms, .. } => {
                self.put_off.push(*code);
                self.retry_after_ms = u32::try_from(*retry_ms).ok();
            }
            Report::Retry { .. } => self.retries += 1,
            Report::Notice {
                state,
                position,
                eta_ms,
                ..
            } if self.notices.iter().all(|seen| seen.state != *state) => {
                self.notices.push(Seen {
                    state: *state,
                    after_ms: now,
                    eta_ms: *eta_ms,
                    position: *position,
                });
            }
            Report::Token { .. } => {
                self.first_token_ms.get_or_insert(now);
                self.last_token_ms = Some(now);
                self.tokens += 1;
            }
            Report::Answer {
                status,
                tokens,
                text,
                ..
            } => {
                self.tokens = *tokens;
                self.text = Some(text.clone());
                self.ended(now);
                self.outcome = Some(match status {
                    AnswerStatus::Ok => Outcome::Answered,
                    AnswerStatus::Interrupted => Outcome::Interrupted,
                    AnswerStatus::Refused => Outcome::Refused,
                });
            }
            Report::Unanswered {
                status,
                code,
                retry_after_ms,
                tokens,
                ..
            } => {
                self.tokens = *tokens;
                self.code = Some(*code);
                self.retry_after_ms = *retry_after_ms;
                self.ended(now);
                self.outcome = Some(match status {
                    EndStatus::Refused if *tokens == 0 => Outcome::Refused,
                    _ => Outcome::Interrupted,
                });
            }
            Report::LocalAnswer { text } if self.outcome.is_none() => {
                self.text = Some(text.clone());
                self.ended(now);
                self.outcome = Some(Outcome::Local);
            }
            Report::Sealed { .. } => self.sealed_ms = Some(now),
            _ => {}
        }
    }

    /// Nothing more is heard of it.
    pub fn fail(&mut self, cause: String) {
        if self.outcome.is_none() {
            self.outcome = Some(Outcome::Failed);
            self.cause = Some(cause);
        }
    }

    fn ended(&mut self, now: u64) {
        self.end_ms = Some(now);
        self.reported = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestId {
        RequestId::from_random([1; 16])
    }

    fn unanswered(status: EndStatus, tokens: u32) -> Report {
        Report::Unanswered {
            request_id: request(),
            status,
            code: EndCode::Unavailable,
            retry_after_ms: Some(2000),
            tokens,
            after_ms: 9,
        }
    }

    #[test]
    fn a_question_that_waits_for_a_wake() {
        let mut question = Question::new(1, None);
        let notice = |state| Report::Notice {
            request_id: request(),
            state,
            position: 1,
            eta_ms: 5000,
            after_ms: 0,
        };
        let asked = |resumed| Report::Asked {
            request_id: request(),
            resumed,
        };
        let token = || Report::Token {
            step: 0,
            text: "a".to_owned(),
            after_ms: 0,
        };
        let heard = [
            (asked(false), 10),
            (notice(Progress::Waking), 20),
            (notice(Progress::Waking), 30),
            (notice(Progress::Ready), 4000),
            (token(), 4100),
            (
                Report::Retry {
                    cause: "closed with 1012".to_owned(),
                    retry_ms: 70,
                },
                4150,
            ),
            (asked(true), 4300),
            (token(), 4400),
        ];
        for (report, at) in &heard {
            question.hear(report, *at);
        }
        assert_eq!(question.outcome, None);
        assert_eq!(
            (question.asked_ms, question.resumed, question.retries),
            (Some(10), 1, 1)
        );
        assert_eq!(
            (question.first_token_ms, question.last_token_ms),
            (Some(4100), Some(4400))
        );
        let states: Vec<_> = question
            .notices
            .iter()
            .map(|seen| (seen.state, seen.after_ms))
            .collect();
        assert_eq!(states, [(Progress::Waking, 20), (Progress::Ready, 4000)]);
        question.fail("no answer in time".to_owned());
        assert_eq!(
            (question.outcome, question.reported),
            (Some(Outcome::Failed), false)
        );
    }

    #[test]
    fn what_is_refused_and_what_broke_off() {
        for (status, tokens, outcome) in [
            (EndStatus::Refused, 0, Outcome::Refused),
            (EndStatus::Refused, 3, Outcome::Interrupted),
            (EndStatus::Failed, 0, Outcome::Interrupted),
        ] {
            let mut question = Question::new(1, None);
            question.hear(
                &Report::PutOff {
                    request_id: request(),
                    code: EndCode::RateLimited,
                    retry_ms: 500,
                    after_ms: 1,
                },
                5,
            );
            question.hear(&unanswered(status, tokens), 9);
            // What the phone says in its place is no answer.
            let said = Report::LocalAnswer {
                text: "The substrate did not answer.".to_owned(),
            };
            question.hear(&said, 10);
            question.fail("too late".to_owned());
            assert_eq!((question.outcome, question.reported), (Some(outcome), true));
            assert_eq!(question.put_off, [EndCode::RateLimited]);
            assert_eq!(
                (question.code, question.retry_after_ms, question.end_ms),
                (Some(EndCode::Unavailable), Some(2000), Some(9))
            );
            assert_eq!(question.cause, None);
        }
    }
}
