//! What the phone holds of one session: keys, chain, and the hashes that its seal covers.

use std::sync::Arc;

use halo_receipts::chain::{Chain, ChainError, Event as Payload};
use halo_receipts::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId, Tier};
use halo_receipts::keys::{KeyError, TierKey};
use halo_receipts::merkle::MerkleTree;
use halo_receipts::opening::OpenAnswer;
use halo_receipts::payload::{
    AnswerContent, AnswerStatus, Answerer, ContentPolicy, OrchestratorResponse, PayloadError,
    Private, Routing, RoutingContent, to_canonical,
};
use halo_receipts::receipt::{Parent, Receipt, ReceiptKind, Unsigned};
use halo_receipts::time::Timestamp;

use crate::tier1::outbox::{Entry, Outbox};
use crate::tier1::report::Report;

/// The longest answer, in bytes of JSON, whose text the phone keeps in its own receipt; a longer one stands in the
/// tokens' receipts only. Sealed and in base64 it must fit into one request.
const OUTPUT_MAX: usize = 32 * 1024;

/// Why a receipt could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// One session under its current epoch.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) epoch: Epoch,
    pub(super) tenant: TenantId,
    pub(super) content: ContentPolicy,
    pub(super) sensor_key: Arc<TierKey>,
    pub(super) own_key: Arc<TierKey>,
    pub(super) chain: Chain,
    pub(super) outbox: Outbox,
    /// The hashes of all receipts of stream `d`, and of stream `s`, in order.
    device: Vec<Hash>,
    pub(super) substrate: Vec<Hash>,
}

impl Session {
    pub(super) fn new(answer: &OpenAnswer, tenant: TenantId) -> Result<Self, KeyError> {
        let (sensor_key, own_key) = keys(answer)?;
        Ok(Self {
            id: answer.session_id,
            epoch: answer.session_epoch,
            chain: Chain::new(answer.session_id, tenant.clone()),
            tenant,
            content: answer.content,
            sensor_key,
            own_key,
            outbox: Outbox::default(),
            device: Vec::new(),
            substrate: Vec::new(),
        })
    }

    /// Goes on under the keys of a new epoch.
    pub(super) fn rekey(&mut self, answer: &OpenAnswer) -> Result<(), KeyError> {
        (self.sensor_key, self.own_key) = keys(answer)?;
        self.epoch = answer.session_epoch;
        self.content = answer.content;
        Ok(())
    }

    /// Takes a sensor's receipt into the chain.
    pub(super) fn capture(&mut self, receipt: Receipt) -> Result<(), ChainError> {
        self.chain.accept(&receipt, &Payload::Capture)?;
        self.device.push(receipt.hash());
        self.outbox.push(Entry {
            receipt,
            payload: None,
            report: None,
        });
        Ok(())
    }

    /// Writes a decision; `prompt` is its private content.
    pub(super) fn route(
        &mut self,
        id: ReceiptId,
        parent: Option<Parent>,
        mut routing: Routing,
        prompt: Option<&str>,
        now: Timestamp,
    ) -> Result<Receipt, WriteError> {
        if let Some(prompt) = prompt {
            routing = routing.with_private(self.private(&RoutingContent::new(prompt), &id)?);
        }
        let payload = to_canonical(&routing)?;
        self.write(id, ReceiptKind::TierRouting, parent, payload, now)
    }

    /// Writes the seal over everything before it.
    pub(super) fn seal(
        &mut self,
        id: ReceiptId,
        parent: Parent,
        status: AnswerStatus,
        answered_by: Answerer,
        text: &str,
        now: Timestamp,
    ) -> Result<Receipt, WriteError> {
        let mut tree = MerkleTree::new();
        self.device
            .iter()
            .chain(&self.substrate)
            .for_each(|leaf| tree.push(leaf));
        let root = tree.root();
        let content = AnswerContent {
            output_sha256: Hash::of(text.as_bytes()),
            output: serde_json::to_string(text)
                .is_ok_and(|json| json.len() <= OUTPUT_MAX)
                .then(|| text.to_owned()),
        };
        let count = |leaves: &[Hash]| u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        let response = OrchestratorResponse::new(
            status,
            answered_by,
            count(&self.device),
            count(&self.substrate),
            root,
            self.private(&content, &id)?,
        );
        let payload = to_canonical(&response)?;
        let receipt = self.write(id, ReceiptKind::TierResponse, Some(parent), payload, now)?;
        self.outbox.report_last(Report::Sealed {
            session_id: self.id,
            receipt_id: id,
            answered_by,
            receipts: response.receipts,
            root,
        });
        Ok(receipt)
    }

    /// Takes the substrate's checked response, and the hashes that it seals, as the parent of the phone's own.
    pub(super) fn substrate_response(
        &mut self,
        leaves: Vec<Hash>,
        receipt: &Receipt,
        event: &Payload,
    ) {
        self.substrate.extend(leaves);
        self.substrate.push(receipt.hash());
        // The receipts between are not here to be checked one by one; the seal stands for them.
        self.chain.insert(receipt, event);
    }

    fn private(
        &self,
        content: &impl serde::Serialize,
        id: &ReceiptId,
    ) -> Result<Private, PayloadError> {
        Private::new(content, self.content, &self.own_key.payload_key(), id)
    }

    fn write(
        &mut self,
        id: ReceiptId,
        kind: ReceiptKind,
        parent: Option<Parent>,
        payload: Vec<u8>,
        now: Timestamp,
    ) -> Result<Receipt, WriteError> {
        let receipt = Unsigned {
            event_payload_hash: Hash::of(&payload),
            parent,
            receipt_id: id,
            receipt_kind: kind,
            session_epoch: self.epoch,
            session_id: self.id,
            tenant_id: self.tenant.clone(),
            tier: Tier::Orchestrator,
            timestamp_utc: now,
        }
        .sign(&self.own_key);
        let event = Payload::read(&receipt.body, Some(&payload))?;
        self.chain.accept(&receipt, &event)?;
        self.device.push(receipt.hash());
        self.outbox.push(Entry {
            receipt: receipt.clone(),
            payload: Some(payload),
            report: None,
        });
        Ok(receipt)
    }
}

fn keys(answer: &OpenAnswer) -> Result<(Arc<TierKey>, Arc<TierKey>), KeyError> {
    let sensor = TierKey::from_hex(&answer.tier_keys.sensor)?;
    let own = TierKey::from_hex(&answer.tier_keys.orchestrator)?;
    Ok((Arc::new(sensor), Arc::new(own)))
}
