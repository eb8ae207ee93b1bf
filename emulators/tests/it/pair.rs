//! Whole conversations in memory.

use halo_emulators::tier0::machine::{Action, BATTERY_LOW, Capture, Event};
use halo_emulators::tier1::machine as tier1;
use halo_receipts::documents::{EndCode, EndStatus, Operation};
use halo_receipts::messages::Gesture;
use halo_receipts::payload::ContentPolicy;

use crate::world::{World, audio};

const QUESTION: &str = "What is sovereign inference, in one sentence?";

#[test]
fn a_question_is_answered_and_sealed() {
    for content in [ContentPolicy::Sealed, ContentPolicy::Omit] {
        let mut world = World::new(1);
        world.gateway.content = content;
        world.transcripts.push_back(QUESTION.to_owned());
        world.capture(audio(10_000));
        world.settle();
        assert_eq!(world.display, "Your model and keys stay yours.\n");
        assert_eq!(world.sound.len(), 3840);
        assert_eq!(
            world.gateway.requests[0],
            (Operation::Infer, QUESTION.to_owned())
        );
        let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
        assert_eq!(kinds, ["capture", "escalate", "sealed"]);
        assert!(sealed);
        assert_eq!(world.last("capture_verified")["frames"], 51);
        assert_eq!(world.last("capture_verified")["bytes"], 10_000);
        assert_eq!(
            world.last("routed")["parent"],
            world.last("capture_verified")["receipt_id"]
        );
        assert_eq!(
            world.last("answer")["text"],
            "Your model and keys stay yours."
        );
        assert_eq!(world.last("answer")["tokens"], 7);
        assert_eq!(world.last("sealed")["receipts"], 2 + 15);
        assert_eq!(world.count("token"), 7);
        assert_eq!(
            (
                world.phone.refused().total(),
                world.sensor.refused().total()
            ),
            (0, 0)
        );
    }
}

#[test]
fn several_questions_make_one_session() {
    let mut world = World::new(2);
    for question in [QUESTION, "How many pallets are in aisle nine?"] {
        world.transcripts.push_back(question.to_owned());
        world.capture(audio(500));
        world.settle();
    }
    world.phone(tier1::Event::Ask("and in aisle ten".to_owned()));
    world.settle();
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    let expected = [
        "capture", "escalate", "sealed", "capture", "escalate", "sealed", "escalate", "sealed",
    ];
    assert_eq!(kinds, expected);
    assert!(sealed);
    assert_eq!(world.gateway.held().substrate.len(), 45);
}

#[test]
fn a_local_answer_asks_nobody_but_is_on_record() {
    let mut world = World::new(3);
    world.transcripts.push_back("What time is it?".to_owned());
    world.capture(audio(500));
    world.settle();
    assert_eq!(world.display, "It is 09:00 UTC.\n");
    assert_eq!(world.gateway.requests, [(Operation::Record, String::new())]);
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!(kinds, ["capture", "local", "sealed"]);
    assert!(sealed);
    assert_eq!(world.last("routed")["classifier"], "rules/1");
}

#[test]
fn of_ambient_talk_nothing_leaves_the_phone() {
    let mut world = World::new(4);
    world.transcripts.extend(
        [
            "the coffee is cold again",
            "we should call Bo about the marlin deal",
            "Halo, how many trucks are due?",
        ]
        .map(str::to_owned),
    );
    for _ in 0..3 {
        world.capture(audio(700));
    }
    world.settle();
    assert_eq!(
        world.gateway.requests[0],
        (Operation::Infer, "how many trucks are due?".to_owned())
    );
    world
        .transcripts
        .push_back("They said the marlin deal is off.".to_owned());
    world.capture(audio(700));
    world.settle();
    assert_eq!(world.gateway.requests.len(), 3);
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!(
        kinds,
        [
            "capture", "capture", "capture", "escalate", "sealed", "capture", "local", "sealed"
        ]
    );
    assert!(sealed);
    let needle = b"marlin";
    assert!(
        !world
            .sent_to_gateway
            .windows(needle.len())
            .any(|found| found == needle)
    );
    // Not even sealed: the routing receipt of ambient talk has no private content.
    let ambient = world.gateway.held().device[6].payload.clone().unwrap();
    assert!(!String::from_utf8(ambient).unwrap().contains("sealed"));
}

#[test]
fn a_picture_goes_with_the_question_about_it() {
    let mut world = World::new(5);
    world.capture(Capture::Image(vec![0xd8; 40_000]));
    world.capture(audio(900));
    world
        .transcripts
        .push_back("Is this gauge in range?".to_owned());
    world.settle();
    assert_eq!(
        world.last("routed")["reason"],
        "question_with_picture: by_form, 1 of 1 segments"
    );
    world.capture(Capture::Gesture(Gesture::DoubleTap));
    world.settle();
    assert_eq!(world.last("capture_verified")["bytes"], 9);
    assert_eq!(world.last("routed")["reason"], "gesture_without_words");
    let (kinds, _) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!(
        kinds,
        [
            "capture", "capture", "escalate", "sealed", "capture", "local", "sealed"
        ]
    );
}

#[test]
fn many_captures_are_recorded_in_several_requests() {
    let mut world = World::new(6);
    for _ in 0..150 {
        world
            .transcripts
            .push_back("where is the wrench?".to_owned());
        world.capture(audio(20));
    }
    world.settle();
    let operations: Vec<Operation> = world.gateway.requests.iter().map(|(op, _)| *op).collect();
    assert_eq!(
        operations
            .iter()
            .filter(|op| **op == Operation::Infer)
            .count(),
        1
    );
    assert!(
        operations
            .iter()
            .filter(|op| **op == Operation::Record)
            .count()
            >= 2
    );
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!((kinds.len(), sealed), (152, true));
}

#[test]
fn a_low_battery_slows_the_display_down() {
    let mut world = World::new(7);
    world.sensor(Event::Battery(BATTERY_LOW - 1));
    world
        .transcripts
        .push_back("how is the battery?".to_owned());
    world.capture(audio(300));
    world.settle();
    assert!(
        world.display.ends_with("the glasses are low.\n"),
        "{}",
        world.display
    );
    let pleas = world
        .sensor_log
        .iter()
        .filter(|action| matches!(action, Action::Send(m) if m[1] == 0x50));
    assert_eq!(pleas.count(), 1);
}

#[test]
fn a_busy_substrate_is_asked_again_and_a_full_context_is_not() {
    let mut world = World::new(8);
    world.gateway.faults.refuse = vec![
        (EndStatus::Refused, EndCode::Busy, Some(200)),
        (EndStatus::Refused, EndCode::RateLimited, Some(3000)),
        (EndStatus::Failed, EndCode::LedgerUnavailable, None),
    ];
    world.transcripts.push_back(QUESTION.to_owned());
    world.capture(audio(300));
    world.settle();
    assert_eq!(world.display, "Your model and keys stay yours.\n");
    assert!(world.now.seconds() >= crate::world::start_time().seconds() + 3);

    let mut world = World::new(9);
    world.gateway.faults.refuse = vec![(EndStatus::Refused, EndCode::ContextExceeded, None)];
    world.transcripts.push_back(QUESTION.to_owned());
    world.capture(audio(300));
    world.settle();
    assert_eq!(
        world.display,
        "The substrate did not answer: context exceeded.\n"
    );
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!(
        (kinds, sealed),
        (
            vec!["capture".into(), "escalate".into(), "sealed".into()],
            true
        )
    );
}

#[test]
fn an_interrupted_answer_is_sealed_as_far_as_it_got() {
    let mut world = World::new(10);
    world.gateway.faults.interrupt_after = Some(3);
    world.transcripts.push_back(QUESTION.to_owned());
    world.capture(audio(300));
    world.settle();
    assert_eq!(world.last("answer")["status"], "interrupted");
    assert_eq!(world.last("answer")["text"], "Your model and");
    assert!(world.display.contains("The answer broke off here."));
    assert!(world.gateway.audit(&world.gateway.order[0]).1);
}

#[test]
fn a_refused_bundle_stops_the_phone() {
    let mut world = World::new(11);
    world.gateway.faults.refuse = vec![(EndStatus::Refused, EndCode::BundleInvalid, None)];
    world.transcripts.push_back(QUESTION.to_owned());
    world.capture(audio(300));
    world.settle();
    assert!(world.stopped);
    assert_eq!(world.last("error")["code"], "bundle_invalid");
}
