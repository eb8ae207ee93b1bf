//! A ledger in memory with the rules of the real one, and a switch that makes it refuse to write.

use std::collections::BTreeMap;

use halo_receipts::evidence::{
    Block, Claim, ClaimKind, Evidence, Header, SignedRecord, StoredBlock, Stream,
};
use halo_receipts::ids::{Epoch, ReceiptId, SessionId};
use halo_receipts::receipt::Receipt;

/// Why something was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else was first.
    Taken,
    /// The block does not begin at the next number of its stream, or other bytes stand there.
    Conflict,
    /// The ledger is down.
    Down,
}

struct Session {
    header: SignedRecord,
    claims: BTreeMap<(Epoch, ClaimKind, u32), SignedRecord>,
    blocks: BTreeMap<(Stream, u32), Block>,
}

/// The ledger of the simulation.
#[derive(Default)]
pub struct MemoryLedger {
    sessions: BTreeMap<SessionId, Session>,
    /// Whether it refuses to write.
    pub down: bool,
}

impl MemoryLedger {
    /// Writes a header and the claim of its first epoch.
    pub fn open_session(
        &mut self,
        header: SignedRecord,
        claim: SignedRecord,
    ) -> Result<(), Refused> {
        self.up()?;
        let id = header.parse::<Header>().unwrap().session_id;
        assert!(
            !self.sessions.contains_key(&id),
            "a session id was drawn twice"
        );
        let session = Session {
            header,
            claims: BTreeMap::new(),
            blocks: BTreeMap::new(),
        };
        self.sessions.insert(id, session);
        self.claim(claim)
    }

    /// Writes a claim if nobody holds it; an epoch must be above every earlier one.
    pub fn claim(&mut self, record: SignedRecord) -> Result<(), Refused> {
        self.up()?;
        let claim: Claim = record.parse().unwrap();
        let session = self.sessions.get_mut(&claim.session_id).unwrap();
        let last = session.last_epoch();
        let key = (claim.session_epoch, claim.kind, claim.link);
        let stale = claim.kind == ClaimKind::Epoch && last >= Some(claim.session_epoch);
        if stale || session.claims.contains_key(&key) {
            return Err(Refused::Taken);
        }
        session.claims.insert(key, record);
        Ok(())
    }

    /// The highest epoch of a session.
    pub fn last_epoch(&self, id: &SessionId) -> Option<Epoch> {
        self.sessions.get(id)?.last_epoch()
    }

    /// Appends a block at the next number of its stream; the same bytes again are a retry.
    pub fn append(&mut self, id: &SessionId, block: &Block) -> Result<(), Refused> {
        self.up()?;
        let session = self.sessions.get_mut(id).unwrap();
        let key = (block.stream, block.first);
        if session.blocks.get(&key) == Some(block) {
            return Ok(());
        }
        if session.next(block.stream) != block.first {
            return Err(Refused::Conflict);
        }
        session.blocks.insert(key, block.clone());
        Ok(())
    }

    /// All of a session.
    pub fn snapshot(&self, id: &SessionId) -> Option<Evidence> {
        let session = self.sessions.get(id)?;
        let blocks = session.blocks.values().map(|block| StoredBlock {
            stream: block.stream,
            first: block.first,
            ids: block
                .receipts
                .iter()
                .map(|stored| id_of(&stored.bytes))
                .collect(),
            content: Ok(block.receipts.clone()),
        });
        Some(Evidence {
            header: Some(session.header.clone()),
            claims: session.claims.values().cloned().collect(),
            blocks: blocks.collect(),
            attributes: Vec::new(),
        })
    }

    fn up(&self) -> Result<(), Refused> {
        if self.down {
            Err(Refused::Down)
        } else {
            Ok(())
        }
    }
}

impl Session {
    fn last_epoch(&self) -> Option<Epoch> {
        let epochs = self
            .claims
            .keys()
            .filter(|(_, kind, _)| *kind == ClaimKind::Epoch);
        epochs.map(|(epoch, ..)| *epoch).max()
    }

    fn next(&self, stream: Stream) -> u32 {
        let ends = self.blocks.values().filter(|block| block.stream == stream);
        ends.map(|block| block.first + block.receipts.len() as u32)
            .max()
            .unwrap_or(0)
    }
}

fn id_of(bytes: &[u8]) -> ReceiptId {
    Receipt::parse(bytes).unwrap().body.receipt_id
}
