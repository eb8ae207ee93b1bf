//! What a damaged receipt must look like by everything that is known about it from elsewhere.

use crate::hex;
use crate::ids::{Epoch, Hash, ReceiptId, Tier};
use crate::receipt::{Parent, ReceiptKind, SIGNATURE_AT, SIGNATURE_LEN};

use super::Context;

/// The fields in the order of their bytes.
pub(crate) const FIELDS: [&str; 11] = [
    "event_payload_hash",
    "hmac_signature",
    "parent_receipt_hash",
    "parent_receipt_id",
    "receipt_id",
    "receipt_kind",
    "session_epoch",
    "session_id",
    "tenant_id",
    "tier",
    "timestamp_utc",
];

/// Bytes of which only the kind of character is known.
#[derive(Clone, Copy)]
pub(crate) struct Open {
    /// Where they begin.
    pub at: usize,
    /// How many there are.
    pub len: usize,
    /// Which characters can stand there.
    pub alphabet: &'static [u8],
}

/// One guess: the receipt's bytes with everything known filled in, and the rest as it was found.
pub(crate) struct Template {
    /// As long as the receipt that was found.
    pub bytes: Vec<u8>,
    /// The parts that only the found bytes say.
    pub open: Vec<Open>,
    /// Whose key signs it.
    pub epoch: Epoch,
    /// Whose key signs it.
    pub tier: Tier,
}

impl Template {
    /// The signed part, without the signature.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = self.bytes.clone();
        body.drain(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE_LEN);
        body
    }

    /// The signature that stands in it.
    pub(crate) fn signature(&self) -> Option<[u8; 32]> {
        hex::decode(self.bytes.get(Self::digits())?)
    }

    /// The place of the signature's digits.
    pub(crate) fn digits() -> std::ops::Range<usize> {
        let end = SIGNATURE_AT + SIGNATURE_LEN - 1;
        end - 64..end
    }
}

const HEX: &[u8] = b"0123456789abcdef";
const DECIMAL: &[u8] = b"0123456789";
const NULL: &[u8] = b"null";

/// Fills a template from front to back.
struct Writer<'a> {
    found: &'a [u8],
    bytes: Vec<u8>,
    open: Vec<Open>,
    field: usize,
}

impl Writer<'_> {
    fn known(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A value that is known, or as many bytes as stand there, of which only the alphabet is known.
    fn value(&mut self, value: Option<&[u8]>, len: usize, alphabet: &'static [u8]) {
        match value {
            Some(value) => self.known(value),
            None => {
                let at = self.bytes.len();
                let found = self.found.get(at..at + len).unwrap_or_default();
                self.bytes.extend_from_slice(found);
                self.open.push(Open { at, len, alphabet });
            }
        }
    }

    /// The comma, the field's name and the colon.
    fn name(&mut self) {
        self.known(if self.field == 0 { b"{\"" } else { b",\"" });
        self.known(FIELDS[self.field].as_bytes());
        self.known(b"\":");
    }

    fn end(&mut self) {
        self.field += 1;
    }

    /// A field whose value stands in quotes.
    fn quoted(&mut self, value: Option<&[u8]>, len: usize, alphabet: &'static [u8]) {
        self.name();
        self.known(b"\"");
        self.value(value, len, alphabet);
        self.known(b"\"");
        self.end();
    }

    fn bare(&mut self, value: &[u8]) {
        self.name();
        self.known(value);
        self.end();
    }

    /// A UUID: its hyphens are known, and so is the version's digit.
    fn uuid(&mut self, id: Option<&ReceiptId>) {
        self.name();
        self.known(b"\"");
        match id {
            Some(id) => self.known(&id.encode()),
            None => {
                self.value(None, 8, HEX);
                for (known, len) in [("-", 4), ("-4", 3), ("-", 4), ("-", 12)] {
                    self.known(known.as_bytes());
                    self.value(None, len, HEX);
                }
            }
        }
        self.known(b"\"");
        self.end();
    }
}

/// How a guess names the parent.
#[derive(Clone, Copy)]
enum ParentGuess {
    /// None.
    Null,
    /// As the damaged bytes say.
    Found,
    /// This one, of all receipts that are known.
    Known(Parent),
}

/// The guesses of the same length as `found`, those that differ least from it first.
pub(crate) fn templates(found: &[u8], context: &Context<'_>) -> Vec<Template> {
    let kinds = match context.stream {
        crate::evidence::Stream::Device => [
            (Tier::Sensor, ReceiptKind::SensorCapture),
            (Tier::Orchestrator, ReceiptKind::TierRouting),
            (Tier::Orchestrator, ReceiptKind::TierResponse),
        ],
        crate::evidence::Stream::Substrate => [
            (Tier::Substrate, ReceiptKind::ExpertLoad),
            (Tier::Substrate, ReceiptKind::TokenEmit),
            (Tier::Substrate, ReceiptKind::TierResponse),
        ],
    };
    let payload = context.payload.map(Hash::of);
    let mut templates = Vec::new();
    for (tier, kind) in kinds {
        for epoch in nearest_epochs(found, context) {
            // A payload may be what was damaged, so its hash is one guess and the found one another.
            for payload in [payload, None] {
                let with = |parent| fill(found, context, (tier, kind), epoch, payload, parent);
                templates.extend(with(ParentGuess::Null));
                let Some(template) = with(ParentGuess::Found) else {
                    continue;
                };
                if let Some(parent) = nearest_parent(&template.bytes, context) {
                    templates.extend(with(ParentGuess::Known(parent)));
                }
                templates.push(template);
            }
        }
    }
    templates.sort_by_cached_key(|template| distance(&template.bytes, found));
    templates
}

/// The epochs whose digits are nearest to what stands where the epoch should; all of them would make the guesses as many
/// as a bundle has claims.
fn nearest_epochs(found: &[u8], context: &Context<'_>) -> Vec<Epoch> {
    const EPOCHS_MAX: usize = 8;
    let fixed = b",\"session_id\":\"\",\"tenant_id\":\"\",\"tier\":0,\"timestamp_utc\":\"\"}".len();
    let after = fixed + 36 + context.tenant_id.as_str().len() + 27;
    let end = found.len().saturating_sub(after);
    let mut epochs = context.epochs.to_vec();
    epochs.sort_by_cached_key(|epoch| {
        let digits = epoch.to_string();
        let stands = found.get(end.saturating_sub(digits.len())..end);
        distance(stands.unwrap_or_default(), digits.as_bytes())
    });
    epochs.truncate(EPOCHS_MAX);
    epochs
}

/// The known receipt whose id and hash are nearest to what stands where the parent should.
fn nearest_parent(bytes: &[u8], context: &Context<'_>) -> Option<Parent> {
    let at = SIGNATURE_AT + SIGNATURE_LEN + b",\"parent_receipt_hash\":\"".len();
    let hash = bytes.get(at..at + 64)?;
    let at = at + 64 + b"\",\"parent_receipt_id\":\"".len();
    let id = bytes.get(at..at + 36)?;
    let parents = context.receipts.iter().map(|(known_id, known_hash)| {
        let mut digits = Vec::with_capacity(64);
        hex::push(&mut digits, &known_hash.0);
        let far = distance(hash, &digits) + distance(id, &known_id.encode());
        (far, *known_id, *known_hash)
    });
    let (_, id, hash) = parents.min_by_key(|(far, ..)| *far)?;
    Some(Parent { id, hash })
}

/// The number of places at which two slices of the same length differ.
pub(crate) fn distance(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count() + a.len().abs_diff(b.len())
}

fn fill(
    found: &[u8],
    context: &Context<'_>,
    (tier, kind): (Tier, ReceiptKind),
    epoch: Epoch,
    payload: Option<Hash>,
    parent: ParentGuess,
) -> Option<Template> {
    let mut writer = Writer {
        found,
        bytes: Vec::with_capacity(found.len()),
        open: Vec::new(),
        field: 0,
    };
    let payload = payload.map(|hash| hash.to_string());
    writer.quoted(payload.as_deref().map(str::as_bytes), 64, HEX);
    let digits = found.get(Template::digits());
    writer.quoted(Some(digits?), 64, HEX);
    match parent {
        ParentGuess::Null => {
            writer.bare(NULL);
            writer.bare(NULL);
        }
        ParentGuess::Found => {
            writer.quoted(None, 64, HEX);
            writer.uuid(None);
        }
        ParentGuess::Known(parent) => {
            writer.quoted(Some(parent.hash.to_string().as_bytes()), 64, HEX);
            writer.uuid(Some(&parent.id));
        }
    }
    writer.uuid(context.id.as_ref());
    writer.quoted(Some(kind.name().as_bytes()), 0, HEX);
    writer.bare(epoch.to_string().as_bytes());
    writer.quoted(Some(&context.session_id.encode()), 36, HEX);
    writer.quoted(Some(context.tenant_id.as_str().as_bytes()), 0, HEX);
    writer.bare(tier.to_string().as_bytes());
    writer.name();
    writer.known(b"\"");
    for (len, after) in [
        (4, "-"),
        (2, "-"),
        (2, "T"),
        (2, ":"),
        (2, ":"),
        (2, "."),
        (6, "Z"),
    ] {
        writer.value(None, len, DECIMAL);
        writer.known(after.as_bytes());
    }
    writer.known(b"\"}");
    writer.end();
    let fits = writer.bytes.len() == found.len();
    fits.then_some(Template {
        bytes: writer.bytes,
        open: writer.open,
        epoch,
        tier,
    })
}
