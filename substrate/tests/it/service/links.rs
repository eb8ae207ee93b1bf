//! The machine of one link, as tables.

use halo_receipts::documents::{EndCode, EndStatus, Progress};
use halo_receipts::ids::RequestId;
use halo_receipts::payload::{AnswerStatus, ContentPolicy};
use halo_substrate::generate::FinishReason;
use halo_substrate::session::{Event, Unprepared};

use super::device::{Device, PROMPT};
use super::forgeries::forgeries;
use super::harness::Harness;
use super::verify::verify;

pub const STOP: Option<FinishReason> = Some(FinishReason::Stop);

pub fn ends(harness: &Harness) -> Vec<(RequestId, EndStatus, EndCode)> {
    harness
        .seen
        .ends
        .iter()
        .map(|end| (end.request_id, end.status, end.code))
        .collect()
}

#[test]
fn a_question_is_answered_and_every_receipt_verifies() {
    for content in [ContentPolicy::Sealed, ContentPolicy::Omit] {
        let mut device = Device::new(1);
        device.content = content;
        let mut harness = Harness::new(device);
        for asked in 1..=2_u32 {
            let ask = harness.ask(PROMPT, 40);
            assert_eq!(harness.seen.jobs.len(), asked as usize);
            assert_eq!(harness.seen.jobs[0].tokens, [1, 2, 3]);
            harness.event(Event::Started);
            harness.seen.tokens.clear();
            for step in 0..40 {
                harness.step(
                    step,
                    if step == 39 {
                        Some(FinishReason::Length)
                    } else {
                        None
                    },
                );
                assert_eq!(
                    harness.seen.tokens.len(),
                    step as usize + 1,
                    "tokens are not held back"
                );
            }
            // A full block, the rest, and the seal: the end waits for all three.
            assert_eq!(
                harness
                    .blocks
                    .iter()
                    .map(|b| b.receipts.len())
                    .collect::<Vec<_>>(),
                [64, 16, 1]
            );
            while !harness.blocks.is_empty() {
                assert_eq!(harness.seen.ends.len(), asked as usize - 1);
                harness.append();
            }
            let end = harness.seen.ends.last().unwrap();
            assert_eq!(
                (end.request_id, end.status, end.code),
                (ask.request.request_id, EndStatus::Ok, EndCode::Ok)
            );
            let told = verify(&harness.device, &harness.store.evidence)
                .pop()
                .unwrap();
            told.assert_streamed(&harness.seen.tokens);
            assert_eq!(end.receipts, [told.response_receipt]);
            assert_eq!(told.response.status, AnswerStatus::Ok);
            assert_eq!(
                (told.response.prompt_tokens, told.response.completion_tokens),
                (3, 40)
            );
            assert_eq!(told.response.finish, "length");
            assert_eq!(
                told.loads[0].model,
                Some(super::harness::served().identity.clone())
            );
            assert!(told.loads[0].loaded.is_some() && told.loads[1].loaded.is_none());
            assert_eq!(harness.seen.releases.len(), asked as usize);
        }
        assert_eq!(verify(&harness.device, &harness.store.evidence).len(), 2);
        assert!(harness.seen.notices.is_empty() && harness.seen.refused.is_empty());
    }
}

#[test]
fn a_forged_request_reaches_neither_tokenizer_nor_engine_nor_ledger() {
    for (device, forgery) in forgeries(Device::new) {
        let mut harness = Harness::new(device);
        harness.store.record(&forgery.recorded);
        let before = harness.store.evidence.clone();
        harness.send(&forgery.document);
        if harness.seen.prepares > 0 {
            harness.prepare();
        }
        let codes: Vec<_> = harness
            .seen
            .ends
            .iter()
            .map(|end| (end.status, end.code))
            .collect();
        assert_eq!(
            codes,
            [(EndStatus::Refused, forgery.code)],
            "{}",
            forgery.name
        );
        assert_eq!(harness.seen.refused, ["bundle_invalid"], "{}", forgery.name);
        assert!(
            harness.seen.prompts.is_empty() && harness.seen.jobs.is_empty(),
            "{}",
            forgery.name
        );
        assert!(harness.blocks.is_empty(), "{}", forgery.name);
        assert_eq!(harness.store.evidence, before, "{}", forgery.name);
        assert_eq!(
            harness.seen.releases.len(),
            harness.seen.prepares,
            "{}",
            forgery.name
        );
        assert!(!harness.machine.is_busy(), "{}", forgery.name);
    }
}

#[test]
fn the_same_device_is_answered_after_its_forgery_was_refused() {
    let mut harness = Harness::new(Device::new(3));
    let mut ask = harness.device.ask(PROMPT, 8);
    harness.store.record(&ask.stored);
    ask.request.receipts[1].hmac_signature[0] ^= 1;
    harness.send(&ask.document());
    ask.request.receipts[1].hmac_signature[0] ^= 1;
    harness.send(&ask.document());
    harness.prepare();
    assert_eq!(harness.seen.prompts, [PROMPT]);
}

/// What was acknowledged may wait in a gateway's spill.
#[test]
fn what_builds_on_receipts_that_the_ledger_does_not_show_is_put_off() {
    let mut harness = Harness::new(Device::new(27));
    let earlier = harness.device.ask(PROMPT, 8);
    let mut ask = harness.device.ask(PROMPT, 8);
    // One whose capture builds on the earlier one, and one without its capture.
    let whole = ask.document();
    ask.request.receipts.remove(0);
    ask.request.payloads.remove(0);
    for (number, document) in [whole.clone(), ask.document()].iter().enumerate() {
        harness.send(document);
        harness.prepare();
        let end = &harness.seen.ends[number];
        assert_eq!(
            (end.status, end.code, end.retry_after_ms),
            (EndStatus::Refused, EndCode::LedgerUnavailable, Some(2000))
        );
        assert!(harness.seen.prompts.is_empty() && harness.blocks.is_empty());
    }
    harness.store.record(&earlier.stored);
    harness.send(&whole);
    harness.prepare();
    assert_eq!(harness.seen.prompts, [PROMPT]);
}

#[test]
fn a_request_is_answered_once() {
    let mut harness = Harness::new(Device::new(4));
    let ask = harness.ask(PROMPT, 8);
    harness.event(Event::Started);
    harness.step(0, STOP);
    harness.append_all();
    harness.send(&ask.document());
    harness.prepare();
    assert_eq!(
        ends(&harness)[1],
        (ask.request.request_id, EndStatus::Refused, EndCode::Busy)
    );
    assert_eq!(harness.seen.jobs.len(), 1);

    // An answer that was begun elsewhere and never closed counts too.
    let mut harness = Harness::new(Device::new(5));
    let ask = harness.ask(PROMPT, 8);
    harness.event(Event::Started);
    harness.step(0, None);
    harness.later(300_000);
    harness.event(Event::Tick);
    let block = harness.blocks.remove(0);
    let mut second = Harness::new(Device::new(5));
    second.store.record(&ask.stored);
    second.store.append(block);
    second.send(&ask.document());
    second.prepare();
    assert_eq!(
        ends(&second),
        [(ask.request.request_id, EndStatus::Refused, EndCode::Busy)]
    );
}

#[test]
fn a_sealed_session_goes_on() {
    let mut harness = Harness::new(Device::new(26));
    for answers in 1..=3 {
        harness.ask(PROMPT, 8);
        harness.event(Event::Started);
        harness.step(0, None);
        harness.step(1, STOP);
        harness.append_all();
        let sealed = harness.device.seal(&harness.store.evidence);
        harness.store.record(&[sealed]);
        assert_eq!(
            verify(&harness.device, &harness.store.evidence).len(),
            answers
        );
    }
}

#[test]
fn a_bundle_that_is_not_recorded_is_taken_if_the_chain_takes_it() {
    let mut harness = Harness::new(Device::new(6));
    let ask = harness.device.ask(PROMPT, 8);
    harness.send(&ask.document());
    harness.prepare();
    assert_eq!(harness.seen.prompts, [PROMPT]);
}

#[test]
fn only_the_routing_receipt_need_be_in_the_bundle_if_the_rest_is_recorded() {
    let mut harness = Harness::new(Device::new(7));
    let mut ask = harness.device.ask(PROMPT, 8);
    harness.store.record(&ask.stored);
    ask.request.receipts.remove(0);
    ask.request.payloads.remove(0);
    harness.send(&ask.document());
    harness.prepare();
    assert_eq!(harness.seen.prompts, [PROMPT]);
}

#[test]
fn a_receipt_of_an_earlier_epoch_is_verified_with_its_own_key() {
    let mut device = Device::new(8);
    let ask = device.ask(PROMPT, 8);
    let opened = device.header();
    let first_claim = device.epoch_claim();
    device.epoch.0 += 60;
    let mut harness = Harness::new(device);
    harness.store.evidence.header = Some(opened);
    harness.store.evidence.claims.insert(0, first_claim);
    harness.store.record(&ask.stored);
    harness.send(&ask.document());
    harness.prepare();
    harness.event(Event::Encoded(Some(vec![1])));
    harness.event(Event::Started);
    harness.step(0, STOP);
    harness.append_all();
    assert_eq!(ends(&harness)[0].1, EndStatus::Ok);
    verify(&harness.device, &harness.store.evidence);
}

#[test]
fn what_the_ledger_lacks_or_cannot_read_is_no_ground_to_compute() {
    type Damage = fn(&mut Harness);
    let table: [(&str, Damage); 5] = [
        ("no header", |h| h.store.evidence.header = None),
        ("a header with a changed byte", |h| {
            let header = h.store.evidence.header.as_mut().unwrap();
            header.mac[0] ^= 1;
        }),
        ("another session's header", |h| {
            h.store.evidence.header = Some(Device::new(99).header())
        }),
        ("a damaged block", |h| {
            h.store.evidence.blocks[0].content = Err("damaged".into())
        }),
        ("a damaged receipt", |h| {
            let content = h.store.evidence.blocks[0].content.as_mut().unwrap();
            content[0].bytes.truncate(100);
        }),
    ];
    for (name, damage) in table {
        let mut harness = Harness::new(Device::new(9));
        let ask = harness.device.ask(PROMPT, 8);
        harness.store.record(&ask.stored);
        damage(&mut harness);
        harness.send(&ask.document());
        harness.prepare();
        let expected = (
            ask.request.request_id,
            EndStatus::Refused,
            EndCode::LedgerUnavailable,
        );
        assert_eq!(ends(&harness), [expected], "{name}");
        assert!(harness.seen.prompts.is_empty(), "{name}");
    }
}

#[test]
fn refusals_before_anything_is_computed() {
    type Refuse = fn(&mut Harness);
    let queue_full = |h: &mut Harness| {
        h.ask(PROMPT, 8);
        h.event(Event::Rejected {
            code: EndCode::RateLimited,
            retry_after_ms: 1500,
        });
    };
    let table: [(&str, Refuse, EndCode, bool); 8] = [
        (
            "the prompt and the answer do not fit",
            |h| {
                h.ask(PROMPT, 62);
            },
            EndCode::ContextExceeded,
            false,
        ),
        (
            "the prompt has no tokens",
            |h| refused_prompt(h, Some(vec![])),
            EndCode::BundleInvalid,
            false,
        ),
        (
            "the template refuses the prompt",
            |h| refused_prompt(h, None),
            EndCode::BundleInvalid,
            false,
        ),
        (
            "the session is busy elsewhere",
            |h| unprepared(h, Unprepared::Busy),
            EndCode::Busy,
            true,
        ),
        (
            "the ledger does not answer",
            |h| unprepared(h, Unprepared::Ledger),
            EndCode::LedgerUnavailable,
            true,
        ),
        ("the queue is full", queue_full, EndCode::RateLimited, true),
        (
            "the pod drains",
            |h| {
                h.ask(PROMPT, 8);
                h.event(Event::Drain);
            },
            EndCode::Draining,
            true,
        ),
        (
            "the pod drains while it reads",
            |h| {
                let ask = h.device.ask(PROMPT, 8);
                h.send(&ask.document());
                h.event(Event::Drain);
                h.prepare();
            },
            EndCode::Draining,
            true,
        ),
    ];
    for (name, refuse, code, again) in table {
        let mut harness = Harness::new(Device::new(10));
        refuse(&mut harness);
        let end = &harness.seen.ends[0];
        assert_eq!((end.status, end.code), (EndStatus::Refused, code), "{name}");
        assert_eq!(end.retry_after_ms.is_some(), again, "{name}");
        assert_eq!(harness.seen.refused, [code.name()], "{name}");
        assert_eq!(
            harness.seen.releases,
            [(EndStatus::Refused, code)],
            "{name}"
        );
        assert!(
            harness.blocks.is_empty() && !harness.machine.is_busy(),
            "{name}"
        );
    }
}

fn refused_prompt(harness: &mut Harness, tokens: Option<Vec<u32>>) {
    let ask = harness.device.ask(PROMPT, 8);
    harness.send(&ask.document());
    harness.prepare();
    harness.event(Event::Encoded(tokens));
}

fn unprepared(harness: &mut Harness, why: Unprepared) {
    let ask = harness.device.ask(PROMPT, 8);
    harness.send(&ask.document());
    harness.event(Event::Unprepared(why));
}

#[test]
fn the_whole_context_may_be_used() {
    let mut harness = Harness::new(Device::new(11));
    harness.ask(PROMPT, 61);
    assert_eq!(harness.seen.jobs.len(), 1);
}

#[test]
fn a_second_request_is_refused_while_one_runs() {
    let mut harness = Harness::new(Device::new(12));
    let first = harness.ask(PROMPT, 8);
    harness.event(Event::Started);
    harness.step(0, None);
    let second = harness.device.ask(PROMPT, 8);
    harness.send(&second.document());
    let busy = (second.request.request_id, EndStatus::Refused, EndCode::Busy);
    assert_eq!(ends(&harness), [busy]);
    assert!(harness.seen.ends[0].retry_after_ms.is_some());
    harness.step(1, STOP);
    harness.append_all();
    assert_eq!(
        ends(&harness)[1],
        (first.request.request_id, EndStatus::Ok, EndCode::Ok)
    );
}

#[test]
fn a_waiting_request_hears_where_it_stands() {
    let mut harness = Harness::new(Device::new(13));
    harness.ask(PROMPT, 8);
    for position in [3, 1] {
        harness.event(Event::Queued {
            position,
            eta_ms: position * 100,
        });
    }
    harness.event(Event::Started);
    let notices: Vec<_> = harness
        .seen
        .notices
        .iter()
        .map(|n| (n.state, n.position, n.eta_ms))
        .collect();
    assert_eq!(
        notices,
        [
            (Progress::Queued, 3, 300),
            (Progress::Queued, 1, 100),
            (Progress::Ready, 0, 0)
        ]
    );
}

#[test]
fn a_slow_ledger_slows_the_tokens() {
    let mut harness = Harness::new(Device::new(17));
    harness.ask(PROMPT, 60);
    harness.event(Event::Started);
    let mut step = 0;
    while harness.machine.wants_step() {
        harness.step(step, None);
        harness.later(300_000);
        harness.event(Event::Tick);
        step += 1;
    }
    assert_eq!((step, harness.blocks.len()), (4, 4));
    harness.append();
    assert!(harness.machine.wants_step());
}

#[test]
fn receipts_wait_a_quarter_second_for_their_block() {
    let mut harness = Harness::new(Device::new(18));
    harness.ask(PROMPT, 8);
    assert_eq!(harness.machine.deadline(), None);
    harness.event(Event::Started);
    harness.step(0, None);
    let deadline = harness.machine.deadline().unwrap();
    assert_eq!(deadline.micros(), harness.device.clock + 250_000);
    harness.event(Event::Tick);
    assert!(harness.blocks.is_empty());
    harness.step(1, None);
    assert_eq!(harness.machine.deadline(), Some(deadline));
    harness.device.clock = deadline.micros();
    harness.event(Event::Tick);
    assert_eq!(harness.blocks[0].receipts.len(), 4);
    assert_eq!(harness.machine.deadline(), None);
}

#[test]
fn refused_messages_are_counted_and_change_nothing() {
    let mut harness = Harness::new(Device::new(19));
    let ask = harness.device.ask(PROMPT, 8);
    harness.store.record(&ask.stored);
    let frames = harness.frames(&ask.document());
    let mut bad = frames[0].clone();
    bad[20] ^= 1;
    for message in [
        vec![],
        vec![1; 300],
        bad,
        frames[1].clone(),
        b"{\"v\":1}".repeat(8),
    ] {
        harness.event(Event::Message(message));
    }
    assert_eq!(
        harness.seen.refused,
        ["length", "length", "hmac", "sequence", "version"]
    );
    for frame in frames {
        harness.event(Event::Message(frame));
    }
    assert_eq!(harness.seen.prepares, 1);

    // A document without an id that could be answered is refused like a bad frame.
    let mut harness = Harness::new(Device::new(20));
    for count in 1..=16 {
        harness.send(if count % 2 == 0 { b"[]" } else { b"not JSON" });
        assert_eq!(harness.seen.closed_with, (count == 16).then_some(1008));
    }
    assert_eq!(harness.seen.refused, ["document"; 16]);
    assert!(harness.machine.is_over() && harness.seen.ends.is_empty());
}

#[test]
fn a_fragment_out_of_order_loses_its_message_and_not_the_link() {
    let mut harness = Harness::new(Device::new(21));
    let ask = harness.device.ask(PROMPT, 8);
    harness.store.record(&ask.stored);
    let document = ask.document();
    let pieces = halo_receipts::fragment::split(&document, 65_536).unwrap();
    assert!(pieces.len() > 2);
    // The second fragment first.
    harness.send_pieces(&[&pieces[1]]);
    assert_eq!(harness.seen.refused, ["fragment"]);
    harness.send(&document);
    assert_eq!(harness.seen.prepares, 1);
}
