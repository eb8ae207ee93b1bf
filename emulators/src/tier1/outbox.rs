//! Receipts of tiers 0 and 1 on their way to the ledger.

use std::collections::VecDeque;

use halo_receipts::payload::{PayloadError, to_raw};
use halo_receipts::receipt::Receipt;
use serde_json::value::RawValue;

use crate::tier1::report::Report;

/// A receipt that the gateway has not confirmed yet.
pub(super) struct Entry {
    pub(super) receipt: Receipt,
    pub(super) payload: Option<Vec<u8>>,
    /// What to say once it is in the ledger.
    pub(super) report: Option<Report>,
}

/// The unconfirmed end of stream `d`, in order. Positions count from the first receipt of the session.
#[derive(Default)]
pub(super) struct Outbox {
    entries: VecDeque<Entry>,
    confirmed: u64,
}

/// What fits in one request.
pub(super) struct Bundle {
    pub(super) receipts: Vec<Receipt>,
    pub(super) payloads: Vec<Option<Box<RawValue>>>,
    /// The position after its last receipt.
    pub(super) upto: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// What to say once the last receipt is in the ledger.
    pub(super) fn report_last(&mut self, report: Report) {
        if let Some(last) = self.entries.back_mut() {
            last.report = Some(report);
        }
    }

    /// The position that the next receipt will have.
    pub(super) fn end(&self) -> u64 {
        self.confirmed + self.entries.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether something waits that is no capture: captures wait for the decision about them.
    pub(super) fn has_decisions(&self) -> bool {
        self.entries.iter().any(|entry| entry.payload.is_some())
    }

    /// The next receipts before position `upto`, as many as fit into `budget` bytes of JSON, and at least one.
    pub(super) fn bundle(&self, upto: u64, budget: usize) -> Result<Bundle, PayloadError> {
        let mut bundle = Bundle {
            receipts: Vec::new(),
            payloads: Vec::new(),
            upto: self.confirmed,
        };
        let mut bytes = 0;
        for entry in &self.entries {
            let payload = entry.payload.as_ref().map_or(4, Vec::len);
            bytes += entry.receipt.to_bytes().len() + payload + 2;
            if bundle.upto == upto || (bytes > budget && !bundle.receipts.is_empty()) {
                break;
            }
            bundle.receipts.push(entry.receipt.clone());
            let raw = entry.payload.as_deref().map(to_raw).transpose()?;
            bundle.payloads.push(raw);
            bundle.upto += 1;
        }
        Ok(bundle)
    }

    /// Everything before position `upto` is in the ledger; returns what to say of it.
    pub(super) fn confirm(&mut self, upto: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        while self.confirmed < upto {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.confirmed += 1;
            reports.extend(entry.report);
        }
        reports
    }
}
