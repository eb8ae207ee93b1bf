//! The verdict over the evidence of one session (protocol section 7): four answers, never one word.
//!
//! [`verify`] takes all that a ledger holds of a session and the keys that the verifier has, and makes every check that
//! these allow. It reads no file and no clock. What it could not check is listed beside what it did.

mod code;
mod judge;
mod keys;
mod reading;
mod records;
mod repair;
mod roots;
mod seals;
mod walk;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::attribution::Damage;
use crate::evidence::{Evidence, Header, Stream};
use crate::ids::{Epoch, ReceiptId, SessionId, TenantId, Tier};
use crate::receipt::ReceiptKind;

pub use code::{Code, Severity};
pub use keys::{KeySource, NoKeys, SessionKeys, VerifyKeys};
pub use roots::{Roots, SessionRoot};

/// The version of the JSON that a verdict is written as.
pub const FORMAT: &str = "halo-verdict/1";

/// What the verifier asks for beyond the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether a seal that is anchored outside the ledger is required.
    pub require_anchor: bool,
    /// How many damaged receipts and payloads are searched for the byte that was changed; each costs up to about 50 ms.
    pub searches: u32,
    /// The most SHA-256 compressions that the search in one payload or record may cost.
    pub search_budget: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            require_anchor: false,
            searches: 16,
            search_budget: 2_000_000,
        }
    }
}

/// Whether anything that is there was changed, moved or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// Every check that was made held.
    Ok,
    /// At least one did not.
    Failed,
}

/// Whether the session is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Completeness {
    /// Its last receipt is a seal that commits to every other one.
    Sealed,
    /// Its last answer broke off, and was closed as such.
    Interrupted,
    /// It has no seal over everything: it still runs, or its end is missing.
    Open,
}

/// Whether someone outside the ledger and its keys vouches for the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Anchoring {
    /// A witness of its own has seen the seal.
    Witnessed,
    /// The seal stands in a signed checkpoint.
    Signed,
    /// Nobody does.
    None,
}

/// Whether signatures could be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    /// Every signature was checked.
    Ok,
    /// The keys of at least one epoch are not at hand, so at least some were not.
    Unavailable,
}

/// The receipt that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The stream it stands in.
    pub stream: Stream,
    /// Its number there.
    pub number: u32,
    /// Its id, as far as it can be told.
    pub id: Option<ReceiptId>,
    /// Its tier, as far as it can be told.
    pub tier: Option<Tier>,
    /// Its kind, as far as it can be told.
    pub kind: Option<ReceiptKind>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// What follows the code after a colon, such as the name of a field.
    pub suffix: Option<String>,
    /// Which receipt it is about, if it is about one.
    pub subject: Option<Subject>,
    /// Which bytes were changed, if that could be told.
    pub damage: Option<Damage>,
    /// In words, with the values that differ.
    pub detail: String,
}

impl Finding {
    /// The machine code with its detail, such as `receipt.attribute.mismatch:tier`.
    pub fn code_text(&self) -> String {
        match &self.suffix {
            Some(suffix) => format!("{}:{suffix}", self.code),
            None => self.code.to_string(),
        }
    }

    /// Its first line, as the field's own log writes it where that has a form for it.
    pub fn headline(&self) -> String {
        let subject = self.subject.map(|subject| subject.to_string());
        match (self.code, subject) {
            (Code::ReceiptHmac, Some(subject)) => format!("HMAC FAIL at {subject}"),
            (Code::PayloadHash, Some(subject)) => format!("PAYLOAD HASH FAIL at {subject}"),
            (_, Some(subject)) => format!("{} at {subject}", self.code_text()),
            (_, None) => self.code_text(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "receipt {id}")?,
            None => write!(f, "receipt {} of stream {}", self.number, self.stream)?,
        }
        match (self.tier, self.kind) {
            (Some(tier), Some(kind)) => write!(f, " (tier {tier}, kind {kind})"),
            (Some(tier), None) => write!(f, " (tier {tier})"),
            _ => write!(f, " (stream {}, number {})", self.stream, self.number),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let byte = |byte: Option<u8>| match byte {
            None => "nothing".to_owned(),
            Some(byte) if byte.is_ascii_graphic() => format!("0x{byte:02x} '{}'", char::from(byte)),
            Some(byte) => format!("0x{byte:02x}"),
        };
        write!(f, "field {}, byte offset {}", self.field, self.offset)?;
        write!(f, ", old {}, new {}", byte(self.old), byte(self.new))?;
        if self.differing > 1 {
            write!(f, " (the first of {} bytes that differ)", self.differing)?;
        }
        write!(f, "; shown by {}", self.shown.name())
    }
}

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckKind {
    /// The session's header.
    Header,
    /// The claims.
    Claims,
    /// The numbers of the receipts, and the ids beside their blocks.
    Numbering,
    /// The one canonical form.
    Form,
    /// The MACs.
    Signatures,
    /// The parents' hashes, and which parent each kind must have.
    Parents,
    /// The payloads' hashes and form.
    Payloads,
    /// The searchable copies.
    Attributes,
    /// The seals of tier 2.
    AnswerSeals,
    /// The seals of tier 1.
    SessionSeals,
    /// The times along parents.
    Times,
}

impl CheckKind {
    const ALL: [CheckKind; 11] = [
        CheckKind::Header,
        CheckKind::Claims,
        CheckKind::Numbering,
        CheckKind::Form,
        CheckKind::Signatures,
        CheckKind::Parents,
        CheckKind::Payloads,
        CheckKind::Attributes,
        CheckKind::AnswerSeals,
        CheckKind::SessionSeals,
        CheckKind::Times,
    ];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            CheckKind::Header => "header",
            CheckKind::Claims => "claims",
            CheckKind::Numbering => "numbering",
            CheckKind::Form => "form",
            CheckKind::Signatures => "signatures",
            CheckKind::Parents => "parents",
            CheckKind::Payloads => "payloads",
            CheckKind::Attributes => "attributes",
            CheckKind::AnswerSeals => "answer_seals",
            CheckKind::SessionSeals => "session_seals",
            CheckKind::Times => "times",
        }
    }

    /// What is checked, in words.
    pub const fn about(self) -> &'static str {
        match self {
            CheckKind::Header => "session header: form, MAC, session",
            CheckKind::Claims => "claims: form, MAC, each made once",
            CheckKind::Numbering => "stored numbers without gap or fork, ids beside the blocks",
            CheckKind::Form => "receipts in their one canonical form",
            CheckKind::Signatures => "receipt HMACs under the key of their epoch and tier",
            CheckKind::Parents => "parent hashes, parent rules, epochs claimed",
            CheckKind::Payloads => "event payloads: hash and form",
            CheckKind::Attributes => "searchable fields equal to the signed ones",
            CheckKind::AnswerSeals => "tier 2 seals: count, root, root of each block",
            CheckKind::SessionSeals => "tier 1 seals: count and root over both streams",
            CheckKind::Times => "times that do not run backwards along parents",
        }
    }
}

/// One check that was really made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Which.
    pub kind: CheckKind,
    /// On how many things.
    pub made: u64,
    /// How many of them failed it.
    pub failed: u64,
}

/// A check that was not made, or not on everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotMade {
    /// Which.
    pub check: &'static str,
    /// Why.
    pub why: String,
}

/// How many receipts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// In both streams.
    pub total: u64,
    /// In stream `d`.
    pub device: u64,
    /// In stream `s`.
    pub substrate: u64,
    /// Whose signature was verified.
    pub signed: u64,
}

/// A break in a device's stream that the chain records, and the new epoch that followed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedBreak {
    /// The receipt that records it.
    pub receipt_id: ReceiptId,
    /// The epoch whose stream broke.
    pub broken_epoch: Epoch,
    /// The epoch that the session went on in.
    pub session_epoch: Epoch,
    /// The sequence number of the first bad frame.
    pub first_bad: u32,
    /// What was wrong with it.
    pub reason: String,
}

/// What [`verify`] says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The session.
    pub session_id: SessionId,
    /// Its tenant, as its receipts or its header say.
    pub tenant_id: Option<TenantId>,
    /// The header as it stands, if it can be read.
    pub header: Option<Header>,
    /// Whether anything was changed.
    pub integrity: Integrity,
    /// Whether it is whole.
    pub completeness: Completeness,
    /// Whether an outsider vouches for it.
    pub anchoring: Anchoring,
    /// Whether signatures could be checked.
    pub keys: Keys,
    /// What the verifier was given.
    pub key_source: KeySource,
    /// How many receipts there are.
    pub receipts: Counts,
    /// The epochs that were claimed, rising.
    pub epochs: Vec<Epoch>,
    /// The breaks that it records, in their order. A break that is recorded is no failure.
    pub breaks: Vec<RecordedBreak>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What was not.
    pub not_made: Vec<NotMade>,
    /// What was found, in the order in which it should be read.
    pub findings: Vec<Finding>,
    /// The exit code that this verdict stands for.
    pub exit_code: u8,
}

/// Makes every check on a session's evidence that the keys allow.
pub fn verify(
    session_id: SessionId,
    evidence: &Evidence,
    keys: &dyn VerifyKeys,
    options: &Options,
) -> Verdict {
    judge::judge(session_id, evidence, keys, options)
}

/// What a verified MAC does and does not prove.
const PROVES: &str = "A receipt's MAC proves that a holder of its key wrote it: the phone can sign for its own sensor, and \
     the tenant's cluster for every tier. It is proof to someone who trusts those holders; proof to a third party needs an \
     anchored seal.";
const PROVES_NO_KEYS: &str = "Without keys only hashes, structure and seals were checked: what is there is consistent, \
     anyone could have written it, and nothing but its own unchecked signature commits to the last receipt.";

impl Verdict {
    /// Whether the session was keyed from a demo root, as far as its header can be read.
    pub fn demo_root(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.demo_root)
    }

    /// What the verdict rests on, in a sentence.
    pub fn proves(&self) -> &'static str {
        match self.receipts.signed {
            0 => PROVES_NO_KEYS,
            _ => PROVES,
        }
    }

    /// The final line. A plain pass is said as the field's own log says it, and nothing else begins with its words.
    pub fn summary(&self) -> String {
        let n = self.receipts.total;
        let failures = self.count(Severity::Failure);
        match (self.exit_code, self.keys, self.completeness) {
            (0, Keys::Ok, _) => format!("PASS - {n} receipts verified, chain intact"),
            (0, Keys::Unavailable, _) => format!(
                "STRUCTURE OK - {n} receipts, hashes and seals intact; NO SIGNATURE WAS CHECKED"
            ),
            (1, ..) => format!("FAIL - {failures} findings in {n} receipts, see above"),
            (4, ..) => "NOT FOUND - there is no receipt of this session here".to_owned(),
            (5, ..) => format!(
                "UNVERIFIABLE - the keys of {n} receipts are not at hand; this is not a sign of tampering"
            ),
            (_, _, Completeness::Sealed) => {
                format!("NOT ANCHORED - {n} receipts intact and sealed, and no anchor")
            }
            (_, _, Completeness::Interrupted) => format!(
                "INCOMPLETE - {n} receipts intact; the session's last answer was interrupted"
            ),
            (_, _, Completeness::Open) => format!(
                "INCOMPLETE - {n} receipts intact; no seal commits to the end of the session"
            ),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.code.severity() == severity)
            .count()
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            code: String,
            severity: &'static str,
            detail: &'a str,
            stream: Option<Stream>,
            number: Option<u32>,
            receipt_id: Option<ReceiptId>,
            tier: Option<Tier>,
            receipt_kind: Option<ReceiptKind>,
            field: Option<&'a str>,
            offset: Option<usize>,
            old: Option<u8>,
            new: Option<u8>,
            differing: Option<usize>,
            shown_by: Option<&'static str>,
        }
        let (subject, damage) = (self.subject, self.damage.as_ref());
        let row = Row {
            code: self.code_text(),
            severity: self.code.severity().name(),
            detail: &self.detail,
            stream: subject.map(|subject| subject.stream),
            number: subject.map(|subject| subject.number),
            receipt_id: subject.and_then(|subject| subject.id),
            tier: subject.and_then(|subject| subject.tier),
            receipt_kind: subject.and_then(|subject| subject.kind),
            field: damage.map(|damage| damage.field.as_str()),
            offset: damage.map(|damage| damage.offset),
            old: damage.and_then(|damage| damage.old),
            new: damage.and_then(|damage| damage.new),
            differing: damage.map(|damage| damage.differing),
            shown_by: damage.map(|damage| damage.shown.name()),
        };
        row.serialize(serializer)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct CheckRow {
            check: &'static str,
            about: &'static str,
            made: u64,
            failed: u64,
        }
        #[derive(Serialize)]
        struct NotMadeRow<'a> {
            check: &'a str,
            why: &'a str,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            format: &'static str,
            session_id: SessionId,
            tenant_id: Option<&'a TenantId>,
            exit_code: u8,
            summary: String,
            integrity: Integrity,
            completeness: Completeness,
            anchoring: Anchoring,
            keys: Keys,
            key_source: &'static str,
            root_generation: Option<u32>,
            demo_root: bool,
            receipts: Counts,
            epochs: &'a [Epoch],
            breaks: &'a [RecordedBreak],
            checks: Vec<CheckRow>,
            not_made: Vec<NotMadeRow<'a>>,
            findings: &'a [Finding],
            proves: &'static str,
        }
        let checks = self.checks.iter().map(|check| CheckRow {
            check: check.kind.name(),
            about: check.kind.about(),
            made: check.made,
            failed: check.failed,
        });
        let not_made = self.not_made.iter().map(|not| NotMadeRow {
            check: not.check,
            why: &not.why,
        });
        let document = Document {
            format: FORMAT,
            session_id: self.session_id,
            tenant_id: self.tenant_id.as_ref(),
            exit_code: self.exit_code,
            summary: self.summary(),
            integrity: self.integrity,
            completeness: self.completeness,
            anchoring: self.anchoring,
            keys: self.keys,
            key_source: self.key_source.name(),
            root_generation: self.header.as_ref().map(|header| header.root_generation),
            demo_root: self.demo_root(),
            receipts: self.receipts,
            epochs: &self.epochs,
            breaks: &self.breaks,
            checks: checks.collect(),
            not_made: not_made.collect(),
            findings: &self.findings,
            proves: self.proves(),
        };
        document.serialize(serializer)
    }
}
