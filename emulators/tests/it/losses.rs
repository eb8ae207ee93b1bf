//! Connections that break at every moment.

use halo_receipts::documents::Operation;

use crate::world::{Fate, Hook, World, audio};

const QUESTION: &str = "What is sovereign inference?";

/// Cuts the connection instead of delivering the `nth` message.
fn cut(nth: usize) -> Option<Hook> {
    let mut seen = 0;
    Some(Box::new(move |_| {
        seen += 1;
        if seen == nth + 1 {
            Fate::Cut
        } else {
            Fate::Deliver
        }
    }))
}

/// On each of the four ways, at each message of a conversation.
#[test]
fn every_message_is_the_last_one_once() {
    for way in 0..4 {
        for nth in 0..40 {
            let mut world = World::new(nth as u64);
            world
                .transcripts
                .extend([QUESTION.to_owned(), QUESTION.to_owned()]);
            world.hooks[way] = cut(nth);
            world.capture(audio(900));
            world.capture(audio(900));
            world.settle();
            let note = format!("way {way}, message {nth}");
            assert!(world.gateway.audit(&world.gateway.order[0]).1, "{note}");
            assert_eq!(world.count("chain_broken"), 0, "{note}");
            assert_eq!(world.gateway.order.len(), 1, "{note}");
            // Text that was on its way to the sensor may be lost with its connection, but not with the gateway's.
            if way >= 2 {
                let answers = world
                    .display
                    .matches("Your model and keys stay yours.")
                    .count();
                assert_eq!(answers, world.count("answer"), "{note}");
                assert!(answers >= 1, "{note}");
            }
        }
    }
}

#[test]
fn an_answer_is_resumed_where_it_broke() {
    for count in 0..7 {
        let mut world = World::new(count as u64);
        world.gateway.faults.cut_after = Some(count);
        world.transcripts.push_back(QUESTION.to_owned());
        world.capture(audio(900));
        world.settle_until(|world| {
            world.count("token") == count && world.gateway.requests.len() == 1
        });
        world.cut_gateway();
        world.settle();
        assert_eq!(world.display, "Your model and keys stay yours.\n");
        let operations: Vec<Operation> = world.gateway.requests.iter().map(|(op, _)| *op).collect();
        assert_eq!(
            operations,
            [Operation::Infer, Operation::Resume, Operation::Record]
        );
        assert_eq!(world.count("token"), 7);
    }
}

/// A request that never arrived is unknown when it is resumed, and is then asked again.
#[test]
fn a_lost_request_is_asked_again() {
    let mut world = World::new(1);
    world.gateway.faults.swallow = true;
    world.transcripts.push_back(QUESTION.to_owned());
    world.capture(audio(900));
    world.settle_until(|world| world.gateway.requests.len() == 1);
    world.cut_gateway();
    world.settle();
    let operations: Vec<Operation> = world.gateway.requests.iter().map(|(op, _)| *op).collect();
    let expected = [
        Operation::Infer,
        Operation::Resume,
        Operation::Infer,
        Operation::Record,
    ];
    assert_eq!(operations, expected);
    assert_eq!(world.display, "Your model and keys stay yours.\n");
}

/// The ACK of a whole capture is lost: the reset says that it arrived, and it is not sent again.
#[test]
fn an_accepted_capture_is_not_sent_twice() {
    let mut world = World::new(2);
    world.transcripts.push_back(QUESTION.to_owned());
    // SESSION_RESET, then the ACK of the capture's end: 900 bytes are five frames and the SENSOR_END.
    world.hooks[1] = cut(1);
    world.capture(audio(900));
    world.settle();
    let captures = world.gateway.audit(&world.gateway.order[0]).0;
    assert_eq!(captures.iter().filter(|kind| *kind == "capture").count(), 1);
    assert!(world.count("epoch_opened") >= 1);
}

/// The phone goes on by itself while the gateway is away, and puts everything on record later.
#[test]
fn local_answers_need_no_gateway() {
    let mut world = World::new(3);
    world.transcripts.push_back("What time is it?".to_owned());
    world.capture(audio(900));
    world.settle();
    world.gateway_reachable = false;
    world.cut_gateway();
    world
        .transcripts
        .push_back("Note that the dock is blocked".to_owned());
    world.capture(audio(900));
    world.settle_until(|world| world.display.contains("Noted."));
    assert_eq!(world.gateway.held().device.len(), 3);
    world.gateway_reachable = true;
    world.settle();
    let (kinds, sealed) = world.gateway.audit(&world.gateway.order[0]);
    assert_eq!(
        kinds,
        ["capture", "local", "sealed", "capture", "local", "sealed"]
    );
    assert!(sealed);
}

/// A session whose root is out of use cannot go on: the phone says what is lost, and begins another one.
#[test]
fn a_session_that_may_not_go_on_is_followed_by_another() {
    for asked in [false, true] {
        let mut world = World::new(5);
        world.transcripts.push_back(QUESTION.to_owned());
        world.capture(audio(900));
        world.settle();
        if asked {
            // A question is under way when the session ends.
            world.gateway.faults.cut_after = Some(3);
            world.transcripts.push_back(QUESTION.to_owned());
            world.capture(audio(900));
            world.settle_until(|world| world.count("token") == 7 + 3);
        }
        world.gateway.forget_sessions();
        world.cut_gateway();
        world.settle_until(|world| world.count("session_opened") == 2);
        assert_eq!(world.last("error")["code"], "session_lost");
        assert_eq!(world.count("unanswered"), usize::from(asked));
        if asked {
            assert_eq!(world.last("unanswered")["tokens"], 3);
        }
        world.transcripts.push_back(QUESTION.to_owned());
        world.capture(audio(900));
        world.settle_until(|world| world.count("sealed") == 2 && world.phone.is_settled());
        assert!(world.gateway.audit(world.gateway.order.last().unwrap()).1);
        assert!(!world.stopped);
    }
}
