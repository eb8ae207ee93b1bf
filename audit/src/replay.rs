//! The conversation of a session: who asked what, what was decided, what was answered. The words are sealed, and stand
//! here only for whoever holds the SESSION_KEYs.

use std::fmt;
use std::io::{self, Write};

use halo_receipts::chain::Event;
use halo_receipts::evidence::Evidence;
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::PayloadKey;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, BreakFound, Decision, OrchestratorResponse,
    PayloadError, Private, Routing, RoutingContent, SubstrateResponse, TokenContent,
};
use halo_receipts::receipt::{Receipt, Unsigned};
use halo_receipts::time::Timestamp;
use halo_receipts::verdict::VerifyKeys;
use serde::Serialize;

/// What a person said or was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Words {
    /// The words.
    Text(String),
    /// The tenant keeps no text.
    Omitted,
    /// The key is not at hand.
    Locked,
    /// It does not open, or does not fit the hash beside it.
    Broken(String),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When, by the clock of whoever signed.
    pub time: Timestamp,
    /// Who signed.
    pub tier: Tier,
    /// The receipt.
    pub receipt_id: ReceiptId,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The sensor captured something.
    Captured {
        /// SHA-256 of its bytes, which are stored nowhere.
        sha256: Hash,
    },
    /// The phone decided.
    Decided {
        /// What.
        decision: Decision,
        /// Why.
        reason: String,
        /// By which classifier.
        classifier: String,
        /// What was asked, if the decision has it.
        asked: Option<Words>,
    },
    /// The phone found a break and opened a new epoch.
    Broke {
        /// The epoch that broke.
        epoch: Epoch,
        /// The sequence number of the first bad frame.
        first_bad: u32,
        /// What was wrong.
        reason: String,
    },
    /// The substrate answered.
    Generated {
        /// Which model.
        model: String,
        /// How many tokens.
        tokens: u32,
        /// How it ended.
        status: AnswerStatus,
        /// Why it ended.
        finish: String,
        /// What it said.
        said: Words,
    },
    /// The phone gave the answer, and sealed.
    Answered {
        /// Who had answered.
        by: Answerer,
        /// How it ended.
        status: AnswerStatus,
        /// What was answered.
        said: Words,
    },
    /// Tokens that no response closed.
    Unfinished {
        /// How many.
        tokens: u32,
        /// What they say.
        said: Words,
    },
    /// A receipt or payload that cannot be read; the verdict says more.
    Unreadable,
}

/// Opens what the keys open.
struct Opener<'k> {
    keys: &'k dyn VerifyKeys,
    session: SessionId,
    opened: Vec<(Epoch, TenantId, Option<[PayloadKey; 3]>)>,
}

impl Opener<'_> {
    fn key(&mut self, body: &Unsigned) -> Option<&PayloadKey> {
        let known = |(epoch, tenant, _): &(Epoch, TenantId, _)| {
            *epoch == body.session_epoch && *tenant == body.tenant_id
        };
        if !self.opened.iter().any(known) {
            let (tenant, epoch) = (&body.tenant_id, body.session_epoch);
            let key = self.keys.session_key(tenant, &self.session, epoch);
            let keys = key.map(|key| Tier::ALL.map(|tier| key.tier_key(tier).payload_key()));
            self.opened.push((epoch, tenant.clone(), keys));
        }
        let (.., keys) = self.opened.iter().find(|opened| known(opened))?;
        keys.as_ref()?.get(usize::from(body.tier.number()))
    }

    fn open<T: Serialize + for<'de> serde::Deserialize<'de>>(
        &mut self,
        body: &Unsigned,
        private: Option<Private>,
    ) -> Result<T, Words> {
        match private {
            None => Err(Words::Broken("there is no private content".to_owned())),
            Some(Private::Commitment(_)) => Err(Words::Omitted),
            Some(private) => {
                let id = body.receipt_id;
                let key = self.key(body).ok_or(Words::Locked)?;
                private
                    .open(key, &id)
                    .map_err(|error: PayloadError| Words::Broken(error.to_string()))
            }
        }
    }
}

/// The text of the tokens so far.
#[derive(Default)]
struct Tokens {
    count: u32,
    text: String,
    /// Why there is no text, if there is none.
    missing: Option<Words>,
    last: Option<(Timestamp, ReceiptId)>,
}

impl Tokens {
    fn words(self) -> Words {
        self.missing.unwrap_or(Words::Text(self.text))
    }
}

/// The conversation, in the order in which it was recorded. It is read from the evidence as it stands: whether that can be
/// trusted is what the verdict says.
pub fn replay(session: SessionId, evidence: &Evidence, keys: &dyn VerifyKeys) -> Vec<Entry> {
    let mut opener = Opener {
        keys,
        session,
        opened: Vec::new(),
    };
    let mut entries = Vec::new();
    let mut tokens = Tokens::default();
    for (_, _, stored) in evidence.in_causal_order() {
        let Ok(receipt) = Receipt::parse(&stored.bytes) else {
            continue;
        };
        let body = &receipt.body;
        let what = match Event::read(body, stored.payload.as_deref()) {
            Err(_) => What::Unreadable,
            Ok(Event::Capture) => What::Captured {
                sha256: body.event_payload_hash,
            },
            Ok(Event::Routing(routing)) => decided(&mut opener, body, routing),
            Ok(Event::ExpertLoad(_)) => continue,
            Ok(Event::TokenEmit(token)) => {
                tokens.count += 1;
                tokens.last = Some((body.timestamp_utc, body.receipt_id));
                match opener.open::<TokenContent>(body, token.private()) {
                    Ok(content) => tokens.text.push_str(&content.text),
                    Err(words) => tokens.missing = Some(words),
                }
                continue;
            }
            Ok(Event::SubstrateResponse(response)) => {
                let tokens = std::mem::take(&mut tokens);
                generated(&mut opener, body, response, tokens)
            }
            Ok(Event::OrchestratorResponse(response)) => answered(&mut opener, body, response),
        };
        entries.push(Entry {
            time: body.timestamp_utc,
            tier: body.tier,
            receipt_id: body.receipt_id,
            what,
        });
    }
    if let Some((time, receipt_id)) = tokens.last {
        entries.push(Entry {
            time,
            tier: Tier::Substrate,
            receipt_id,
            what: What::Unfinished {
                tokens: tokens.count,
                said: tokens.words(),
            },
        });
    }
    entries
}

fn decided(opener: &mut Opener<'_>, body: &Unsigned, routing: Routing) -> What {
    if let Some(BreakFound {
        epoch,
        first_bad,
        reason,
        ..
    }) = routing.break_found
    {
        return What::Broke {
            epoch,
            first_bad,
            reason,
        };
    }
    let asked =
        routing.private().map(
            |private| match opener.open::<RoutingContent>(body, Some(private)) {
                Ok(content) => fitting(content.prompt, content.prompt_sha256),
                Err(words) => words,
            },
        );
    What::Decided {
        decision: routing.decision,
        reason: routing.reason,
        classifier: routing.classifier,
        asked,
    }
}

fn generated(
    opener: &mut Opener<'_>,
    body: &Unsigned,
    response: SubstrateResponse,
    tokens: Tokens,
) -> What {
    let said = match (
        tokens.words(),
        opener.open::<AnswerContent>(body, response.private()),
    ) {
        (Words::Text(text), Ok(content)) => fitting(text, content.output_sha256),
        (words, _) => words,
    };
    What::Generated {
        model: response.model,
        tokens: response.completion_tokens,
        status: response.status,
        finish: response.finish,
        said,
    }
}

fn answered(opener: &mut Opener<'_>, body: &Unsigned, response: OrchestratorResponse) -> What {
    let said = match opener.open::<AnswerContent>(body, response.private()) {
        Ok(AnswerContent {
            output: Some(output),
            output_sha256,
        }) => fitting(output, output_sha256),
        Ok(_) => Words::Omitted,
        Err(words) => words,
    };
    What::Answered {
        by: response.answered_by,
        status: response.status,
        said,
    }
}

/// The text, if it is the one that its signer committed to.
fn fitting(text: String, hash: Hash) -> Words {
    if Hash::of(text.as_bytes()) == hash {
        Words::Text(text)
    } else {
        Words::Broken(format!(
            "the text {text:?} does not have the hash that was committed to"
        ))
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Control characters of a stored text must not reach the terminal.
            Words::Text(text) => write!(f, "{text:?}"),
            Words::Omitted => f.write_str("(the tenant keeps no text)"),
            Words::Locked => f.write_str("(sealed; the key is not at hand)"),
            Words::Broken(why) => write!(f, "(unreadable: {why})"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Captured { sha256 } => write!(f, "captured, SHA-256 {sha256}"),
            What::Decided {
                decision,
                reason,
                classifier,
                asked,
            } => {
                let decision = match decision {
                    Decision::Local => "answer locally",
                    Decision::Escalate => "escalate",
                    Decision::VerificationFailed => "verification failed",
                };
                if let Some(asked) = asked {
                    write!(f, "asked {asked}; ")?;
                }
                write!(f, "decided: {decision} ({reason}; {classifier})")
            }
            What::Broke {
                epoch,
                first_bad,
                reason,
            } => write!(
                f,
                "chain broken in epoch {epoch} at frame {first_bad} ({reason}); re-keyed"
            ),
            What::Generated {
                model,
                tokens,
                status,
                finish,
                said,
            } => write!(
                f,
                "{model}, {tokens} tokens, {} ({finish}): {said}",
                status_name(*status)
            ),
            What::Answered { by, status, said } => {
                let by = match by {
                    Answerer::Local => "by itself",
                    Answerer::Substrate => "from the substrate",
                };
                write!(f, "answered {by}, {}: {said}", status_name(*status))
            }
            What::Unfinished { tokens, said } => {
                write!(f, "{tokens} tokens that no response closed: {said}")
            }
            What::Unreadable => f.write_str("(its payload cannot be read)"),
        }
    }
}

fn status_name(status: AnswerStatus) -> &'static str {
    match status {
        AnswerStatus::Ok => "ok",
        AnswerStatus::Refused => "refused",
        AnswerStatus::Interrupted => "interrupted",
    }
}

/// Writes the conversation, one line for each thing that happened.
pub fn write(out: &mut impl Write, entries: &[Entry], verified: bool) -> io::Result<()> {
    writeln!(out, "replay:")?;
    if !verified {
        writeln!(
            out,
            "  !!! this session did not verify: what follows may not be what was said !!!"
        )?;
    }
    for entry in entries {
        let id = entry.receipt_id.to_string();
        let short = id.get(..8).unwrap_or(&id);
        writeln!(
            out,
            "  {}  tier {}  {short}  {}",
            entry.time, entry.tier, entry.what
        )?;
    }
    Ok(())
}
