//! Lists of sessions of which blocks wait in the local spill.

use halo_ledger::conformance::Sample;
use halo_ledger::dynamodb::{DynamoLedger, Options};
use halo_ledger::{Appended, Ledger as _};
use halo_receipts::evidence::Stream::Substrate;

use super::proxy::Mode;
use super::spill::{Spilling, spilling};
use super::{ask, hasty, open};

/// A list counts what waits, as the session itself does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_with_what_waits() {
    let Spilling {
        proxy,
        table,
        ledger,
        folder: _folder,
        ..
    } = spilling(hasty()).await;
    let (waits, written) = (Sample::new(1, 40).unwrap(), Sample::new(2, 40).unwrap());
    for sample in [&waits, &written] {
        ask(&ledger, sample).await;
    }
    let block = written.block(Substrate, 0, 8);
    let appended = ledger.append(&written.session, &block).await;
    assert_eq!(appended, Ok(Appended::Written));
    proxy.set(Mode::CutPuts);
    for first in [0, 8] {
        let block = waits.block(Substrate, first, 8);
        let appended = ledger.append(&waits.session, &block).await;
        assert_eq!(appended, Ok(Appended::Spilled));
    }
    let beside = open(&table, Options::default()).await;
    let counts = async |ledger: &DynamoLedger| {
        let sessions = ledger.sessions(&Default::default()).await.unwrap();
        let counts = sessions
            .iter()
            .map(|listed| (listed.session_id, listed.receipts));
        counts.collect::<Vec<_>>()
    };
    let of_all = [(written.session, 10), (waits.session, 18)];
    assert_eq!(counts(&ledger).await, of_all);
    let of_table = [(written.session, 10), (waits.session, 2)];
    assert_eq!(counts(&beside).await, of_table);
    proxy.set(Mode::Pass);
    ledger.settle().await.unwrap();
    for reader in [&ledger, &beside] {
        assert_eq!(counts(reader).await, of_all);
    }
}
