//! The ledger in a DynamoDB table: many gateways and pods write it at once, and no machine's disk has to outlive them.
//!
//! # Layout
//! All of a session stands under the partition key `pk` = `S#<session id>`:
//!
//! | `sk` | attributes |
//! | --- | --- |
//! | `H` | the header: `body`, `mac`; the claim of the first epoch: `claim_body`, `claim_mac`; copies, see below |
//! | `E#<place>` | the claim of a later epoch: `body`, `mac`, `epoch` |
//! | `C#<epoch>#connection#<link>`, `C#<epoch>#substrate_link#<link>` | the other claims: `body`, `mac`, `epoch` |
//! | `B#<d or s>#<first number>` | a block: `content` and `ids` (16 bytes each), as [`crate::block`] says; copies, see below |
//!
//! Copies for searching: in a header `org_id` (the tenant), `device_id`, `opened` (time, `#`, session), `epoch` and `listing`; beside
//! a block `org_id`, `receipt_count`, and in `receipts` the eleven fields of the receipts of tiers 0 and 1 and of every answer.
//!
//! Numbers in keys have ten decimal digits. Two indexes hold the headers: `sessions_by_tenant` (`org_id`, `opened`) and
//! `sessions_by_time` (`listing`, which is `sessions` in every header, and `opened`): a tenant's sessions, or all of them, are one
//! query, newest first. One index partition takes 1,000 openings a second.
//!
//! `write` holds 16 random bytes of the writer. A put whose answer was lost finds its own item when it is tried again, and knows
//! it; another writer's item with the same content is another writer's.
//!
//! Each write is one `PutItem` on the condition that nothing stands under its key. Nothing is ever updated or deleted, and a
//! program needs no right but `PutItem`, `GetItem` and `Query`. That is what honest programs do; IAM cannot demand the condition,
//! so whoever may put can write over. What such a person changes is found by the verifier, not here.

mod backoff;
mod client;
mod item;
mod keys;
mod known;
mod reader;
mod spill;
mod table;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use halo_receipts::evidence::{Block, Evidence, SignedRecord};
use halo_receipts::ids::SessionId;

use crate::{
    Appended, Ledger, LedgerError, LedgerMetrics, SessionQuery, SessionState, SessionSummary,
    record,
};
use client::Client;
use known::Known;
use spill::Spill;
pub use table::{TableReport, create_table, create_table_on};

/// What can be chosen when a ledger is opened.
#[derive(Clone)]
pub struct Options {
    /// Where blocks wait while DynamoDB is away: a file, or a folder in which it is called `spill.db`.
    pub spill: Option<PathBuf>,
    /// The most bytes of blocks in the spill; at the limit nothing more is acknowledged. 256 MiB unless told: half a million
    /// tokens of a model with 48 layers of 128 experts, more of smaller ones.
    pub spill_max_bytes: u64,
    /// Where the ledger counts.
    pub metrics: Option<LedgerMetrics>,
    /// How long an operation is tried before [`LedgerError::Unavailable`]. 8 s unless told.
    pub patience: Duration,
    /// How long an append is tried before it goes into the spill, if there is one. 1 s unless told.
    pub spill_after: Duration,
    /// How long one attempt may take. 2 s unless told.
    pub attempt: Duration,
    /// How many requests may be under way at once; who comes then waits. 64 unless told.
    pub requests: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spill: None,
            spill_max_bytes: 256 << 20,
            metrics: None,
            patience: Duration::from_secs(8),
            spill_after: Duration::from_secs(1),
            attempt: Duration::from_secs(2),
            requests: 64,
        }
    }
}

/// For connecting, within an attempt.
const CONNECT: Duration = Duration::from_secs(1);

/// How long [`Ledger::check`] asks: whoever looks after a program's health waits for it.
const CHECKED: Duration = Duration::from_millis(1500);

/// What operations share.
struct Shared {
    client: Arc<Client>,
    known: Known,
    patience: Duration,
}

/// A ledger in a DynamoDB table. Its methods must be called within a tokio runtime.
pub struct DynamoLedger {
    shared: Arc<Shared>,
    spill: Option<Spill>,
    writes: bool,
    /// For appends in the table while there is a spill.
    spill_after: Duration,
}

impl DynamoLedger {
    /// Opens a table for reading and writing; it is not looked at yet. Endpoint and credentials are those that AWS programs find.
    pub async fn open(table: &str, region: &str, options: Options) -> Result<Self, LedgerError> {
        Self::open_on(&client::environment(region).await, table, options).await
    }

    /// The same with an endpoint and credentials of the caller's.
    pub async fn open_on(
        environment: &SdkConfig,
        table: &str,
        options: Options,
    ) -> Result<Self, LedgerError> {
        let mut ledger = Self::new(environment, table, &options);
        if let Some(path) = &options.spill {
            ledger.spill = Some(Spill::open(path, &options, Arc::clone(&ledger.shared)).await?);
        }
        Ok(ledger)
    }

    /// Opens a table that exists, for reading; other programs may go on writing it.
    pub async fn open_read_only(
        table: &str,
        region: &str,
        options: Options,
    ) -> Result<Self, LedgerError> {
        let environment = client::environment(region).await;
        Self::open_read_only_on(&environment, table, options).await
    }

    /// The same with an endpoint and credentials of the caller's.
    pub async fn open_read_only_on(
        environment: &SdkConfig,
        table: &str,
        options: Options,
    ) -> Result<Self, LedgerError> {
        let mut ledger = Self::new(environment, table, &options);
        ledger.writes = false;
        // A wrong name is to be told now, not when the first session is asked for.
        let shared = &ledger.shared;
        let (pk, sk) = CHECK_KEY;
        shared.client.get(pk, sk, None, shared.patience).await?;
        Ok(ledger)
    }

    fn new(environment: &SdkConfig, table: &str, options: &Options) -> Self {
        let region = environment.region().map_or("", |region| region.as_ref());
        let name = format!("dynamodb:{table}@{region}");
        let sdk = client::sdk(environment, CONNECT);
        let shared = Shared {
            client: Client::new(sdk, table, name, options),
            known: Known::default(),
            patience: options.patience,
        };
        Self {
            shared: Arc::new(shared),
            spill: None,
            writes: true,
            spill_after: options.spill_after,
        }
    }

    fn writable(&self) -> Result<(), LedgerError> {
        match self.writes {
            true => Ok(()),
            false => Err(LedgerError::ReadOnly(self.shared.client.name.clone())),
        }
    }
}

/// A key under which nothing ever stands.
const CHECK_KEY: (&str, &str) = ("CHECK", "CHECK");

#[async_trait]
impl Ledger for DynamoLedger {
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError> {
        let (content, _) = record::opening(header, epoch)?;
        self.writable()?;
        writer::open(&self.shared, &content, header, epoch).await
    }

    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError> {
        let content = record::claim(claim)?;
        self.writable()?;
        writer::claim(&self.shared, &content, claim).await
    }

    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError> {
        let block = record::prepare(session, block)?;
        self.writable()?;
        let write = writer::write_id()?;
        writer::fits(session, &block, &write)?;
        let Some(spill) = &self.spill else {
            let patience = self.shared.patience;
            return writer::append(&self.shared, session, &block, &write, patience).await;
        };
        if spill.goes_first(session, &block)? {
            return spill.append(session, &block, &write).await;
        }
        match writer::append(&self.shared, session, &block, &write, self.spill_after).await {
            Err(LedgerError::Unavailable(cause)) => {
                tracing::warn!(%session, cause, "a block goes into the local spill");
                spill.append(session, &block, &write).await
            }
            outcome => outcome,
        }
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        // Before the table is read: what leaves the spill meanwhile stands in the table then.
        let waiting = self.spill.as_ref().map(|spill| spill.ends(session));
        let mut state = reader::state(&self.shared, session).await?;
        if let Some((state, [device, substrate])) = state.as_mut().zip(waiting) {
            state.next_device = state.next_device.max(device);
            state.next_substrate = state.next_substrate.max(substrate);
        }
        Ok(state)
    }

    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        let waiting = match &self.spill {
            Some(spill) => spill.blocks(session).await?,
            None => Vec::new(),
        };
        let evidence = reader::snapshot(&self.shared, session).await?;
        Ok(evidence.map(|evidence| spill::with(evidence, session, &waiting)))
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        reader::sessions(&self.shared, self.spill.as_ref(), query).await
    }

    /// Puts an item on a condition that cannot hold: it needs everything that a write needs, and writes nothing.
    async fn check(&self) -> Result<(), LedgerError> {
        self.writable()?;
        let client = &self.shared.client;
        let (pk, sk) = CHECK_KEY;
        let checked = client
            .put_if(item::key(pk, sk), "attribute_exists(pk)", CHECKED)
            .await;
        match (checked, &self.spill) {
            (Ok(_), _) => Ok(()),
            (Err(LedgerError::Unavailable(_)), Some(spill)) => spill.check().await,
            (Err(error), _) => Err(error),
        }
    }

    async fn settle(&self) -> Result<(), LedgerError> {
        match &self.spill {
            Some(spill) => spill.settle().await,
            None => Ok(()),
        }
    }
}
