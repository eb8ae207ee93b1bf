//! How an answer ends when it does not simply end, and what is left of it.

use halo_receipts::documents::{EndCode, EndStatus};
use halo_receipts::payload::AnswerStatus;
use halo_substrate::session::Event;

use super::device::{Device, PROMPT};
use super::harness::Harness;
use super::links::{STOP, ends};
use super::verify::verify;

#[test]
fn an_answer_that_breaks_off_is_sealed() {
    type Break = fn(&mut Harness);
    let failed = EndStatus::Failed;
    // What happens, how the seal says it ended, and the end if the gateway still hears it.
    type Told = Option<(EndStatus, EndCode)>;
    let table: [(&str, Break, &str, Told); 5] = [
        (
            "the link is gone",
            |h| h.event(Event::Closed),
            "cancelled",
            None,
        ),
        (
            "the pod breaks off",
            |h| h.event(Event::Interrupt),
            "draining",
            Some((failed, EndCode::Draining)),
        ),
        (
            "the engine fails",
            |h| h.event(Event::Failed),
            "lost",
            Some((failed, EndCode::EngineFailed)),
        ),
        (
            "the engine skips a step",
            |h| h.step(9, None),
            "lost",
            Some((failed, EndCode::EngineFailed)),
        ),
        (
            "too many bad frames",
            |h| {
                for _ in 0..16 {
                    h.event(Event::Message(vec![0; 60]));
                }
            },
            "cancelled",
            None,
        ),
    ];
    for (name, happens, finish, end) in table {
        for steps in [0, 1, 33] {
            let mut harness = Harness::new(Device::new(14));
            harness.ask(PROMPT, 40);
            harness.event(Event::Started);
            (0..steps).for_each(|step| harness.step(step, None));
            happens(&mut harness);
            assert!(
                harness.seen.ends.is_empty(),
                "{name}: the end waits for the receipts"
            );
            harness.step(steps, None);
            assert_eq!(
                harness.seen.tokens.len(),
                steps as usize,
                "{name}: no token after the break"
            );
            harness.append_all();
            let told = verify(&harness.device, &harness.store.evidence)
                .pop()
                .unwrap();
            told.assert_streamed(&harness.seen.tokens);
            assert_eq!(told.response.status, AnswerStatus::Interrupted, "{name}");
            assert_eq!(told.response.finish, finish, "{name}");
            let seen = harness.seen.ends.first().map(|end| (end.status, end.code));
            assert_eq!(seen, end, "{name}");
            if let Some(end) = harness.seen.ends.first() {
                assert_eq!(end.receipts, [told.response_receipt], "{name}");
            }
            assert_eq!(harness.seen.releases.len(), 1, "{name}");
            assert!(
                harness.seen.cancels > 0 || name == "the engine fails",
                "{name}"
            );
            assert!(!harness.machine.is_busy(), "{name}");
        }
    }
}

#[test]
fn a_request_that_was_not_begun_leaves_no_trace_when_its_link_goes() {
    type Reach = fn(&mut Harness);
    let table: [(&str, Reach); 4] = [
        ("idle", |_| {}),
        ("while the ledger is read", |h| {
            let ask = h.device.ask(PROMPT, 8);
            h.send(&ask.document());
        }),
        ("while the prompt is encoded", |h| {
            let ask = h.device.ask(PROMPT, 8);
            h.send(&ask.document());
            h.prepare();
        }),
        ("in the queue", |h| {
            h.ask(PROMPT, 8);
        }),
    ];
    for (name, reach) in table {
        let mut harness = Harness::new(Device::new(15));
        reach(&mut harness);
        harness.event(Event::Closed);
        harness.prepare();
        harness.event(Event::Encoded(Some(vec![1])));
        harness.event(Event::Started);
        harness.step(0, None);
        assert!(harness.machine.is_over(), "{name}");
        assert!(
            harness.blocks.is_empty() && harness.seen.ends.is_empty(),
            "{name}"
        );
        assert_eq!(
            harness.seen.releases.len(),
            usize::from(name != "idle"),
            "{name}"
        );
    }
}

#[test]
fn without_its_ledger_an_answer_stops() {
    for sealed in [false, true] {
        let mut harness = Harness::new(Device::new(16));
        let ask = harness.ask(PROMPT, 60);
        harness.event(Event::Started);
        (0..32).for_each(|step| harness.step(step, None));
        assert_eq!(harness.blocks.len(), 1);
        if sealed {
            harness.step(32, STOP);
        }
        harness.event(Event::AppendFailed);
        let failed = (
            ask.request.request_id,
            EndStatus::Failed,
            EndCode::LedgerUnavailable,
        );
        assert_eq!(ends(&harness), [failed]);
        assert!(
            harness.seen.ends[0].receipts.is_empty()
                && harness.seen.ends[0].retry_after_ms.is_some()
        );
        assert_eq!(harness.seen.cancels, usize::from(!sealed));
        harness.step(33, None);
        assert!(!harness.machine.is_busy());
        assert_eq!(harness.seen.releases.len(), 1);
    }
}

#[test]
fn a_draining_link_closes_when_it_has_nothing_left() {
    let mut idle = Harness::new(Device::new(22));
    idle.event(Event::Drain);
    assert_eq!(idle.seen.closed_with, Some(1012));
    assert!(idle.machine.is_over());

    let mut running = Harness::new(Device::new(23));
    running.ask(PROMPT, 8);
    running.event(Event::Started);
    running.event(Event::Drain);
    running.step(0, STOP);
    assert_eq!((running.seen.closed_with, running.seen.cancels), (None, 0));
    running.append_all();
    assert_eq!(ends(&running)[0].1, EndStatus::Ok);
    assert_eq!(running.seen.closed_with, Some(1012));
    assert!(running.machine.is_over());
}

#[test]
fn a_gateway_that_goes_while_its_answer_is_sealed_loses_nothing() {
    let mut harness = Harness::new(Device::new(24));
    harness.ask(PROMPT, 8);
    harness.event(Event::Started);
    harness.step(0, STOP);
    harness.event(Event::Closed);
    assert!(!harness.machine.is_over());
    harness.append_all();
    assert!(harness.machine.is_over());
    let told = verify(&harness.device, &harness.store.evidence)
        .pop()
        .unwrap();
    assert_eq!(told.response.status, AnswerStatus::Ok);
}
