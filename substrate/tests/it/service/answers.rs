//! One answer's receipts where the machine of a link does not reach: odd clocks, long answers, the last numbers.

use std::sync::Arc;

use halo_receipts::fragment::END_MAX;
use halo_receipts::ids::{Hash, Tier};
use halo_receipts::payload::{SubstrateResponse, from_canonical};
use halo_receipts::receipt::Receipt;
use halo_receipts::time::Timestamp;
use halo_substrate::answer::{Answer, AnswerError, BLOCK_WAIT, Binding, Ending};
use halo_substrate::generate::FinishReason;

use super::device::{Device, EPOCH, PROMPT};
use super::harness::{output, served};

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(u64::from(EPOCH.0) * 1_000_000 + micros).unwrap()
}

fn answer(first: u32) -> (Answer, impl FnMut() -> [u8; 16]) {
    let mut device = Device::new(30);
    let ask = device.ask(PROMPT, 8);
    let binding = Binding {
        tenant_id: device.tenant.clone(),
        session_id: device.session,
        session_epoch: device.epoch,
        request_id: ask.request.request_id,
        routing: ask.request.receipts[1].as_parent(),
        first,
        content: device.content,
        model: served().identity.clone(),
        prompt_tokens: 3,
    };
    let key = Arc::new(device.key(Tier::Substrate));
    let mut made = 0_u64;
    let random = move || {
        made += 1;
        Hash::of(&made.to_be_bytes()).0[..16].try_into().unwrap()
    };
    (
        Answer::new(binding, key, device.chain.clone(), at(0)),
        random,
    )
}

#[test]
fn times_never_run_backwards() {
    let (mut answer, mut random) = answer(0);
    let clock = [5_000_000, 1_000_000, 9_000_000, 0];
    for (step, micros) in (0..).zip(clock) {
        answer
            .step(&output(step, None), at(micros), &mut random)
            .unwrap();
    }
    let sealed = answer
        .finish(Ending::Cancelled, at(1), &mut random)
        .unwrap();
    let times: Vec<u64> = sealed
        .blocks
        .iter()
        .flat_map(|block| &block.receipts)
        .map(|stored| {
            Receipt::parse(&stored.bytes)
                .unwrap()
                .body
                .timestamp_utc
                .micros()
        })
        .map(|micros| micros - at(0).micros())
        .collect();
    let expected = [5, 5, 5, 5, 9, 9, 9, 9, 9].map(|seconds| seconds * 1_000_000);
    assert_eq!(times, expected);
}

#[test]
fn the_seal_of_a_long_and_slow_answer_fits_its_message() {
    let (mut answer, mut random) = answer(0);
    let steps = 10_000;
    let (mut clock, mut blocks) = (0, 0);
    for step in 0..steps {
        clock += BLOCK_WAIT;
        let stepped = answer
            .step(&output(step, None), at(clock), &mut random)
            .unwrap();
        blocks += usize::from(stepped.block.is_some());
        blocks += usize::from(answer.tick(at(clock + BLOCK_WAIT - 1)).is_some());
    }
    let ending = Ending::Finished(FinishReason::Length);
    let sealed = answer.finish(ending, at(clock), &mut random).unwrap();
    let response: SubstrateResponse = from_canonical(&sealed.payload).unwrap();
    assert_eq!(response.receipts, 2 * steps);
    let counted: u32 = response.blocks.iter().map(|block| block.count).sum();
    assert_eq!(counted, 2 * steps);
    assert_eq!(response.blocks.len(), blocks + sealed.blocks.len() - 1);
    assert!(
        sealed.payload.len() < END_MAX - 2_000,
        "{}",
        sealed.payload.len()
    );
}

#[test]
fn what_cannot_be_written_is_refused_whole() {
    let (mut answer, mut random) = answer(0);
    let long = || {
        let mut output = output(0, None);
        output.text = "x".repeat(123);
        output
    };
    let refused = answer.step(&long(), at(1), &mut random);
    assert!(matches!(
        refused,
        Err(AnswerError::Text {
            step: 0,
            length: 123
        })
    ));
    let refused = answer.step(&output(1, None), at(1), &mut random);
    assert!(matches!(
        refused,
        Err(AnswerError::Step {
            expected: 0,
            found: 1
        })
    ));
    assert_eq!((answer.steps(), answer.deadline()), (0, None));
    answer.step(&output(0, None), at(1), &mut random).unwrap();
    assert!(answer.step(&output(0, None), at(1), &mut random).is_err());
}

#[test]
fn the_seal_keeps_a_number_for_itself() {
    let (mut answer, mut random) = answer(u32::MAX - 5);
    answer.step(&output(0, None), at(1), &mut random).unwrap();
    let refused = answer.step(&output(1, None), at(1), &mut random);
    assert!(matches!(refused, Err(AnswerError::Numbers)));
    let sealed = answer.finish(Ending::Lost, at(1), &mut random).unwrap();
    let firsts: Vec<u32> = sealed.blocks.iter().map(|block| block.first).collect();
    assert_eq!(firsts, [u32::MAX - 5, u32::MAX - 3]);
}
