//! Whatever happens in whatever order: the machine gives every session free, ends no answer before its receipts are
//! durable, and leaves nothing in the ledger that does not verify.

use halo_receipts::documents::EndCode;
use halo_receipts::evidence::Stream;
use halo_receipts::receipt::Receipt;
use halo_substrate::generate::FinishReason;
use halo_substrate::session::{Event, Unprepared};
use proptest::prelude::*;

use super::device::{Device, PROMPT};
use super::harness::Harness;
use super::verify::verify;

#[derive(Debug, Clone, Copy)]
enum Happening {
    Ask,
    AskAgain,
    Garbage,
    Prepared,
    Busy,
    Encoded,
    Queued,
    Rejected,
    Started,
    Step,
    LastStep,
    Failed,
    Appended,
    Tick,
    Drain,
    Interrupt,
    Closed,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        4 => Just(Ask),
        1 => Just(AskAgain),
        1 => Just(Garbage),
        4 => Just(Prepared),
        1 => Just(Busy),
        4 => Just(Encoded),
        1 => Just(Queued),
        1 => Just(Rejected),
        4 => Just(Started),
        12 => Just(Step),
        3 => Just(LastStep),
        1 => Just(Failed),
        8 => Just(Appended),
        4 => Just(Tick),
        1 => Just(Drain),
        1 => Just(Interrupt),
        1 => Just(Closed),
    ]
}

fn drive(happenings: &[Happening]) -> Harness {
    let mut harness = Harness::new(Device::new(70));
    let (mut step, mut last) = (0, None);
    for happening in happenings {
        match happening {
            Happening::Ask => {
                let ask = harness.device.ask(PROMPT, 20);
                harness.store.record(&ask.stored);
                let document = ask.document();
                harness.send(&document);
                last = Some(document);
            }
            Happening::AskAgain => {
                if let Some(document) = &last {
                    harness.send(document);
                }
            }
            Happening::Garbage => harness.event(Event::Message(vec![1; 80])),
            Happening::Prepared => harness.prepare(),
            Happening::Busy => harness.event(Event::Unprepared(Unprepared::Busy)),
            Happening::Encoded => harness.event(Event::Encoded(Some(vec![1, 2]))),
            Happening::Queued => harness.event(Event::Queued {
                position: 1,
                eta_ms: 0,
            }),
            Happening::Rejected => {
                let code = EndCode::RateLimited;
                harness.event(Event::Rejected {
                    code,
                    retry_after_ms: 1000,
                });
            }
            Happening::Started => {
                step = 0;
                harness.event(Event::Started);
            }
            Happening::Step | Happening::LastStep => {
                let stop = matches!(happening, Happening::LastStep);
                harness.step(step, stop.then_some(FinishReason::Stop));
                step += 1;
            }
            Happening::Failed => harness.event(Event::Failed),
            Happening::Appended => {
                if !harness.blocks.is_empty() {
                    harness.append();
                }
            }
            Happening::Tick => {
                harness.later(300_000);
                harness.event(Event::Tick);
            }
            Happening::Drain => harness.event(Event::Drain),
            Happening::Interrupt => harness.event(Event::Interrupt),
            Happening::Closed => harness.event(Event::Closed),
        }
        for receipt in harness.seen.ends.iter().flat_map(|end| &end.receipts) {
            assert!(
                is_durable(&harness, receipt),
                "an end before its seal is durable"
            );
        }
    }
    harness
}

fn is_durable(harness: &Harness, receipt: &Receipt) -> bool {
    let bytes = receipt.to_bytes();
    let mut stored = harness.store.evidence.receipts(Stream::Substrate);
    stored.any(|(_, stored)| stored.bytes == bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_session_is_given_free_and_every_answer_sealed(
        happenings in proptest::collection::vec(happening(), 0..80),
    ) {
        let mut harness = drive(&happenings);
        harness.event(Event::Closed);
        harness.append_all();
        prop_assert!(harness.machine.is_over());
        prop_assert_eq!(harness.seen.releases.len(), harness.seen.prepares);
        // Fails if a receipt does not verify or an answer has no seal.
        verify(&harness.device, &harness.store.evidence);
    }
}
