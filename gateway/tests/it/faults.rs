//! A ledger that stops serving: what a gateway says, and that it goes on when the ledger does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use halo_ledger::{
    Appended, Ledger, LedgerError, SessionQuery, SessionState, SessionSummary, SqliteLedger,
};
use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::evidence::{Block, Evidence, SignedRecord, Stream};
use halo_receipts::ids::SessionId;
use halo_receipts::opening::SESSIONS_PATH;
use halo_receipts::payload::ContentPolicy;

use crate::author::{record, request_id};
use crate::device::{Device, open, open_request};
use crate::pod::{Manner, Pod};
use crate::world::{World, listener, quick};

/// A ledger that fails when it is told to.
struct Faulty {
    inner: SqliteLedger,
    full: AtomicBool,
    /// Another writer appends to stream `s` just before the gateway does, once.
    rival: tokio::sync::Mutex<Option<Block>>,
}

impl Faulty {
    fn check_full(&self) -> Result<(), LedgerError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(LedgerError::Full("the test".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Ledger for Faulty {
    async fn open_session(
        &self,
        header: &SignedRecord,
        epoch: &SignedRecord,
    ) -> Result<(), LedgerError> {
        self.check_full()?;
        self.inner.open_session(header, epoch).await
    }

    async fn claim(&self, claim: &SignedRecord) -> Result<(), LedgerError> {
        self.check_full()?;
        self.inner.claim(claim).await
    }

    async fn append(&self, session: &SessionId, block: &Block) -> Result<Appended, LedgerError> {
        self.check_full()?;
        if block.stream == Stream::Substrate
            && let Some(rival) = self.rival.lock().await.take()
        {
            self.inner.append(session, &rival).await?;
        }
        self.inner.append(session, block).await
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionState>, LedgerError> {
        self.inner.session(session).await
    }

    async fn snapshot(&self, session: &SessionId) -> Result<Option<Evidence>, LedgerError> {
        self.inner.snapshot(session).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<SessionSummary>, LedgerError> {
        self.inner.sessions(query).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.check_full()?;
        self.inner.check().await
    }
}

fn faulty() -> (Arc<Faulty>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Faulty {
        inner: SqliteLedger::open(folder.path().join("ledger.db")).unwrap(),
        full: AtomicBool::new(false),
        rival: tokio::sync::Mutex::new(None),
    };
    (Arc::new(ledger), folder)
}

#[tokio::test]
async fn a_full_ledger_opens_nothing_and_loses_nothing() {
    let (ledger, folder) = faulty();
    let shared: Arc<dyn Ledger> = ledger.clone();
    let world = World::on(shared, folder, None, quick(), ContentPolicy::Sealed).await;
    let mut device = Device::new(&world).await;
    let capture = device.author.capture();
    let request = record(request_id(1), &[&capture]);
    ledger.full.store(true, Ordering::SeqCst);
    let answer = open(&world, SESSIONS_PATH, &open_request(), "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    device.send(&request).await;
    let (_, end) = device.answer().await;
    assert_eq!(
        (end.status, end.code),
        (EndStatus::Failed, EndCode::LedgerUnavailable)
    );
    assert!(end.retry_after_ms.is_some());
    let ready = crate::shutdown::admin(&world, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("full"),
        "{ready}"
    );
    ledger.full.store(false, Ordering::SeqCst);
    device.send(&request).await;
    let (_, end) = device.answer().await;
    assert_eq!(end.status, EndStatus::Recorded);
    assert!(
        crate::shutdown::admin(&world, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn a_pod_that_writes_at_the_last_moment_wins_and_the_end_covers_it() {
    let (ledger, folder) = faulty();
    let shared: Arc<dyn Ledger> = ledger.clone();
    let port = listener().await;
    let address = port.local_addr().unwrap();
    let content = ContentPolicy::Sealed;
    let world = World::on(shared, folder, Some(address), quick(), content).await;
    let mut device = Device::new(&world).await;
    let question = device.question(1);
    let routing = question.receipts[1].as_parent();
    let mut pod = crate::author::Author::new(device.session(), device.author.epoch);
    pod.counter = 1_000_000;
    let (step, token) = pod.step(0, routing, "Late.");
    *ledger.rival.lock().await = Some(Block {
        stream: Stream::Substrate,
        first: 0,
        receipts: step.iter().map(|written| written.stored()).collect(),
    });
    let _pod = Pod::start(port, Manner::Dies(0), Arc::clone(&world.ledger), content, 0);
    device.send(&question).await;
    let (tokens, end) = device.answer().await;
    assert!(tokens.is_empty());
    assert_eq!((end.status, end.code), (EndStatus::Failed, EndCode::Lost));
    // The token that the device did not hear of is sealed too, and can be had.
    device
        .send(&crate::author::resume(request_id(1), None))
        .await;
    let (tokens, end) = device.answer().await;
    assert_eq!(tokens, [token]);
    device.seals(&tokens, &end).await;
}
