//! Makes the vector files. `examples/vectors.rs` writes them; `tests/vectors.rs` fails when the files say something else.

mod broken;
mod frames;
// The builder panics on what cannot happen; it is a test's own code.
#[allow(clippy::unwrap_used, missing_docs)]
#[path = "../golden.rs"]
mod golden;
mod keys;
mod opening;
mod receipts;
mod refused;
mod resets;
mod session;
mod text;

use std::error::Error;

use halo_receipts::ids::{Epoch, Hash, RequestId, SessionId, TenantId, Tier};
use halo_receipts::keys::{RootSecret, SessionKey, TierKey};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::{KeyMonth, Timestamp};
use serde_json::Value;

/// A vector, or why it could not be made.
pub type Made<T = Value> = Result<T, Box<dyn Error>>;

/// A check of the maker on itself.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Made<()> {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// Every generated file: its name, and its text.
pub fn files() -> Made<Vec<(&'static str, String)>> {
    Ok(vec![
        ("keys.json", text::pretty(&keys::make()?)),
        ("frames.json", text::pretty(&frames::make()?)),
        ("receipts.json", text::pretty(&receipts::make()?)),
        ("opening.json", text::pretty(&opening::make()?)),
        ("session.json", text::pretty(&session::make()?)),
        ("broken.json", text::pretty(&broken::make()?)),
    ])
}

/// The root secret of all vectors. Its last byte is a line feed, as a file has one that an editor wrote: it counts.
pub const ROOT: &[u8] = b"halo test vectors: everybody knows this root.\n";

/// 16 bytes that look random and follow from `label`.
pub fn random(label: &str) -> [u8; 16] {
    let Hash(bytes) = Hash::of(label.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&bytes[..16]);
    half
}

/// The session that the vectors of frames, receipts and opening speak of, with its keys.
pub struct Session {
    pub id: SessionId,
    pub epoch: Epoch,
    pub tenant: TenantId,
    pub request: RequestId,
    pub key: SessionKey,
}

impl Session {
    pub fn new() -> Made<Self> {
        let (id, epoch, tenant) = (
            SessionId::from_random(random("session")),
            Epoch(1_767_225_599),
            "acme-west".parse::<TenantId>()?,
        );
        let root = RootSecret::new(ROOT.to_vec())?;
        let key = root
            .tenant_key(&tenant, KeyMonth::of(epoch))
            .session_key(&id, epoch);
        let request = RequestId::from_random(random("request"));
        Ok(Self {
            id,
            epoch,
            tenant,
            request,
            key,
        })
    }

    pub fn tier_key(&self, tier: Tier) -> TierKey {
        self.key.tier_key(tier)
    }

    /// A signed receipt of this session, `micros` after the epoch began.
    pub fn receipt(
        &self,
        label: &str,
        tier: Tier,
        receipt_kind: ReceiptKind,
        event_payload_hash: Hash,
        parent: Option<Parent>,
        micros: u64,
    ) -> Made<Receipt> {
        Ok(Unsigned {
            event_payload_hash,
            parent,
            receipt_id: halo_receipts::ids::ReceiptId::from_random(random(label)),
            receipt_kind,
            session_epoch: self.epoch,
            session_id: self.id,
            tenant_id: self.tenant.clone(),
            tier,
            timestamp_utc: self.time(micros)?,
        }
        .sign(&self.tier_key(tier)))
    }

    pub fn time(&self, micros: u64) -> Made<Timestamp> {
        let micros = u64::from(self.epoch.0) * 1_000_000 + micros;
        Timestamp::from_micros(micros).ok_or_else(|| "a time after the year 9999".into())
    }
}
