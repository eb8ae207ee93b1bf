//! The ledgers against real files, other processes, damage, and a database that goes away.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod block;
mod conformance;
mod crash;
mod damage;
mod dynamodb;
mod files;
mod limits;

use halo_ledger::conformance::Sample;
use halo_ledger::{Ledger, SqliteLedger};
use halo_receipts::evidence::Stream;

/// Writes a session, whole and sealed, in blocks of 64.
async fn write(ledger: &SqliteLedger, sample: &Sample) {
    let (header, epoch) = (sample.header().unwrap(), sample.first_claim().unwrap());
    ledger.open_session(&header, &epoch).await.unwrap();
    for stream in Stream::ALL {
        for block in sample.blocks(stream, 64) {
            ledger.append(&sample.session, &block).await.unwrap();
        }
    }
}
