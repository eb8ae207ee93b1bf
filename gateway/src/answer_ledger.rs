//! What an answer's task reads from the ledger and writes to it: an answer that somebody else computes, and the end of one that broke
//! off.

use std::time::Duration;

use halo_ledger::LedgerError;
use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd};
use halo_receipts::ids::{ReceiptId, RequestId};
use tokio::time::{Instant, sleep, timeout};

use crate::answer_task::Task;
use crate::gateway::Gateway;
use crate::keyring::Keyring;
use crate::stored_answer::{Closing, StoredAnswer, StoredAnswerError};
use crate::system;

/// Between two looks at a ledger that somebody else writes.
const LOOK: Duration = Duration::from_millis(100);
/// How often an end is tried to be written against another writer.
const CLOSE_TRIES: u32 = 20;
/// How long a pod whose link broke may take to write what it still does. A pod that lives writes its end within milliseconds of the
/// break.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Tokens of a stored answer that are prepared at once.
const BATCH: usize = 64;

impl Task {
    /// Whether a pod that was lost before the first token has written nothing of the answer: then another one may begin it anew.
    /// If it still writes later, only one of both can append, and what the other one computed is never sealed.
    pub(crate) async fn is_untouched(&mut self) -> bool {
        sleep(LAST_WORDS).await;
        match self.stored().await {
            Ok(Some(stored)) => stored.is_untouched(),
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(session = %self.ring.session(), error, "what a lost pod wrote cannot be read");
                false
            }
        }
    }

    /// Whether the ledger holds receipts of the answer already.
    pub(crate) async fn is_begun(&mut self) -> bool {
        match self.stored().await {
            Ok(stored) => stored.is_some_and(|stored| !stored.is_untouched()),
            Err(error) => {
                tracing::warn!(session = %self.ring.session(), error, "whether an answer has begun cannot be read");
                false
            }
        }
    }

    /// Ends an answer whose pod is gone. A pod that lives closes it by itself; otherwise this gateway does.
    pub(crate) async fn close(&mut self, finish: &'static str, heard: &[String]) -> EscalateEnd {
        let deadline = Instant::now() + Duration::from_millis(self.gateway.limits.pod_close_ms);
        let mut tries = 0;
        loop {
            let stored = match self.stored().await {
                Ok(Some(stored)) => stored,
                Ok(None) => return self.failed(EndCode::Lost),
                Err(error) => {
                    tracing::warn!(session = %self.ring.session(), error, "an answer cannot be closed yet");
                    tries += 1;
                    if tries >= CLOSE_TRIES {
                        return self.failed(EndCode::LedgerUnavailable);
                    }
                    sleep(LOOK).await;
                    continue;
                }
            };
            match stored.end() {
                Ok(Some(end)) => return end,
                Ok(None) if Instant::now() < deadline => sleep(LOOK).await,
                Ok(None) => {
                    tries += 1;
                    if tries >= CLOSE_TRIES {
                        return self.failed(EndCode::LedgerUnavailable);
                    }
                    self.write_end(&stored, finish, heard).await;
                }
                Err(error) => {
                    tracing::error!(session = %self.ring.session(), %error, "an answer cannot be closed");
                    return self.failed(EndCode::LedgerUnavailable);
                }
            }
        }
    }

    /// Writes the response of a broken answer. Whether it stands, or another writer's, is read from the ledger afterwards.
    async fn write_end(&mut self, stored: &StoredAnswer, finish: &str, heard: &[String]) {
        let block = system::random()
            .and_then(|random| Ok((ReceiptId::from_random(random), system::now()?)))
            .map_err(|error| error.to_string())
            .and_then(|(id, now)| {
                let closing = Closing {
                    epoch: self.terms.epoch,
                    content: self.terms.content,
                    id,
                    now,
                };
                let block = stored.interrupted(finish, &closing, heard, &mut self.ring);
                block.map_err(|error| error.to_string())
            });
        let session = self.ring.session();
        let written = match block {
            Err(error) => Err(error),
            Ok(block) => {
                let append = self.gateway.ledger.append(&session, &block);
                match timeout(self.ledger_time(), append).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the ledger did not answer in time".to_owned()),
                }
            }
        };
        match written {
            Ok(()) => self.gateway.metrics.closed_for_pod.inc(),
            Err(error) => {
                tracing::warn!(%session, error, "an answer was not closed");
                sleep(LOOK).await;
            }
        }
    }

    pub(crate) async fn follow_ledger(&mut self) -> EscalateEnd {
        let patience = Duration::from_millis(self.gateway.limits.pod_close_ms);
        let mut grown = Instant::now();
        let interrupt = self.gateway.interrupt.clone();
        loop {
            let stored = match self.stored().await {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    return EscalateEnd::bare(
                        self.answer.request_id,
                        EndStatus::Refused,
                        EndCode::UnknownRequest,
                    );
                }
                Err(error) => {
                    tracing::warn!(session = %self.ring.session(), error, "an answer cannot be read");
                    return self.failed(EndCode::LedgerUnavailable);
                }
            };
            if stored.token_count() > self.answer.token_count() {
                grown = Instant::now();
            }
            if let Err(error) = self.push_stored(&stored).await {
                tracing::error!(session = %self.ring.session(), %error, "an answer cannot be read");
                return self.failed(EndCode::LedgerUnavailable);
            }
            match stored.end() {
                Ok(Some(end)) => return end,
                Ok(None) => {}
                Err(_) => return self.failed(EndCode::LedgerUnavailable),
            }
            if grown.elapsed() >= patience {
                return self.close("lost", &[]).await;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.abandoned(false) => {
                    let request = self.answer.request_id;
                    return EscalateEnd::bare(request, EndStatus::Cancelled, EndCode::Cancelled);
                }
                () = interrupt.cancelled() => return self.failed(EndCode::Draining),
            }
        }
    }

    /// Adds the stored tokens that the log does not have yet, as fast as the device takes them. Stops when it asks no longer.
    async fn push_stored(&self, stored: &StoredAnswer) -> Result<(), StoredAnswerError> {
        while self.answer.token_count() < stored.token_count() {
            let from = self.answer.token_count();
            for token in stored.token_payloads(from..from + BATCH)? {
                tokio::select! {
                    () = self.answer.room() => self.answer.push_token(&token),
                    () = self.abandoned(false) => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// The answer as the ledger holds it now.
    async fn stored(&mut self) -> Result<Option<StoredAnswer>, String> {
        read(&self.gateway, &mut self.ring, self.answer.request_id).await
    }

    fn ledger_time(&self) -> Duration {
        Duration::from_millis(self.gateway.limits.ledger_ms)
    }

    fn failed(&self, code: EndCode) -> EscalateEnd {
        EscalateEnd {
            retry_after_ms: Some(1000),
            ..EscalateEnd::bare(self.answer.request_id, EndStatus::Failed, code)
        }
    }
}

/// An answer as the ledger holds it now.
pub(crate) async fn read(
    gateway: &Gateway,
    ring: &mut Keyring,
    request: RequestId,
) -> Result<Option<StoredAnswer>, String> {
    let limit = Duration::from_millis(gateway.limits.ledger_ms);
    let session = ring.session();
    let snapshot = timeout(limit, gateway.ledger.snapshot(&session)).await;
    let evidence = snapshot
        .map_err(|_| "the ledger did not answer in time".to_owned())?
        .map_err(|error: LedgerError| error.to_string())?
        .ok_or_else(|| "the session is not in the ledger".to_owned())?;
    StoredAnswer::find(&evidence, ring, request).map_err(|error| {
        if matches!(error, StoredAnswerError::Damaged { .. }) {
            gateway.metrics.integrity_failed("ledger");
            tracing::error!(%session, %error, "what the ledger holds does not verify");
        }
        error.to_string()
    })
}
