//! One end of a link: what it may send, what it accepts, and the sequence numbers of both directions.

use std::sync::Arc;

use crate::frame::{self, Frame, FrameError, FrameType};
use crate::ids::SessionId;
use crate::keys::TierKey;

/// Which end of which link this is. No type travels in both directions, but BACKPRESSURE, whose payload names its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The sensor's end of the link to the orchestrator, under TIER_KEY\[0\].
    Sensor,
    /// The orchestrator's end of the link to the sensor, under TIER_KEY\[0\].
    OrchestratorToSensor,
    /// The orchestrator's end of the link to the gateway, under TIER_KEY\[1\].
    OrchestratorToGateway,
    /// The gateway's end of the link to the orchestrator, under TIER_KEY\[1\].
    GatewayToOrchestrator,
    /// The gateway's end of the link to a substrate pod, under TIER_KEY\[2\].
    GatewayToSubstrate,
    /// The pod's end of the link to the gateway, under TIER_KEY\[2\].
    Substrate,
}

impl End {
    /// The other end of the same link.
    pub const fn peer(self) -> End {
        match self {
            End::Sensor => End::OrchestratorToSensor,
            End::OrchestratorToSensor => End::Sensor,
            End::OrchestratorToGateway => End::GatewayToOrchestrator,
            End::GatewayToOrchestrator => End::OrchestratorToGateway,
            End::GatewayToSubstrate => End::Substrate,
            End::Substrate => End::GatewayToSubstrate,
        }
    }

    /// Whether this end may send frames of this type.
    pub const fn sends(self, typ: FrameType) -> bool {
        use FrameType::*;
        match self {
            End::Sensor => matches!(
                typ,
                AudioChunk | ImageChunk | GestureEvent | SensorEnd | Backpressure
            ),
            End::OrchestratorToSensor => matches!(
                typ,
                Ack | Backpressure | DisplayRender | AudioRender | VerificationFailed
            ),
            End::OrchestratorToGateway | End::GatewayToSubstrate => matches!(typ, EscalateRequest),
            End::GatewayToOrchestrator => {
                matches!(typ, Backpressure | EscalateToken | EscalateEnd)
            }
            End::Substrate => matches!(typ, EscalateToken | EscalateEnd),
        }
    }
}

/// One end of a link during one epoch. A refused frame changes nothing here; the caller counts it.
pub struct Link {
    end: End,
    session: SessionId,
    key: Arc<TierKey>,
    next_sent: u32,
    next_received: u32,
}

impl Link {
    /// A fresh link: both sequence numbers begin at 0.
    pub fn new(end: End, session: SessionId, key: Arc<TierKey>) -> Self {
        Self {
            end,
            session,
            key,
            next_sent: 0,
            next_received: 0,
        }
    }

    /// A link that goes on where another one stood: for an owner that keeps the key in memory of its own.
    pub fn resume(
        end: End,
        session: SessionId,
        key: Arc<TierKey>,
        next_sent: u32,
        next_received: u32,
    ) -> Self {
        Self {
            end,
            session,
            key,
            next_sent,
            next_received,
        }
    }

    /// Writes the next frame of this end's direction. Errors: a type that this end does not send, a payload over 198
    /// bytes, and the end of the sequence numbers, after which a new epoch is needed.
    pub fn send(&mut self, typ: FrameType, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
        if !self.end.sends(typ) {
            return Err(FrameError::Direction);
        }
        let following = self.next_sent.checked_add(1).ok_or(FrameError::Sequence)?;
        let frame = frame::encode(&self.key, &self.session, typ, self.next_sent, payload)?;
        self.next_sent = following;
        Ok(frame)
    }

    /// Checks a received message and takes the frame out of it. Only an accepted frame moves the sequence number.
    pub fn receive<'a>(&mut self, message: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let frame = Frame::parse(message)?;
        if !self.end.peer().sends(frame.typ) {
            return Err(FrameError::Direction);
        }
        if frame.tag != self.session.tag() {
            return Err(FrameError::Tag);
        }
        let following = self
            .next_received
            .checked_add(1)
            .ok_or(FrameError::Sequence)?;
        if frame.sequence != self.next_received {
            return Err(FrameError::Sequence);
        }
        if !frame.verify(&self.key) {
            return Err(FrameError::Hmac);
        }
        self.next_received = following;
        Ok(frame)
    }

    /// The sequence number that the next accepted frame will have.
    pub fn next_received(&self) -> u32 {
        self.next_received
    }

    /// The sequence number that the next frame sent will have.
    pub fn next_sent(&self) -> u32 {
        self.next_sent
    }

    /// The session of the link.
    pub fn session(&self) -> &SessionId {
        &self.session
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    const ENDS: [End; 6] = [
        End::Sensor,
        End::OrchestratorToSensor,
        End::OrchestratorToGateway,
        End::GatewayToOrchestrator,
        End::GatewayToSubstrate,
        End::Substrate,
    ];

    fn pair(end: End) -> (Link, Link) {
        let session = SessionId::from_random([9; 16]);
        let link = |end| Link::new(end, session, Arc::new(TierKey::from_bytes([5; 32])));
        (link(end), link(end.peer()))
    }

    #[test]
    fn each_type_travels_one_way() {
        for end in ENDS {
            for typ in FrameType::ALL {
                let (mut sender, mut receiver) = pair(end);
                match sender.send(typ, b"x") {
                    Ok(frame) => {
                        assert!(end.sends(typ));
                        assert_eq!(receiver.receive(&frame).unwrap().payload, b"x");
                        if typ != FrameType::Backpressure {
                            assert_eq!(sender.receive(&frame), Err(FrameError::Direction));
                        }
                    }
                    Err(error) => {
                        assert!(!end.sends(typ));
                        assert_eq!(error, FrameError::Direction);
                    }
                }
            }
        }
    }

    #[test]
    fn every_refusal_leaves_the_link_as_it_was() {
        let (mut sender, mut receiver) = pair(End::Sensor);
        let first = sender.send(FrameType::AudioChunk, b"one").unwrap();
        let second = sender.send(FrameType::AudioChunk, b"two").unwrap();
        let changed = |at: usize, to: u8| {
            let mut frame = first.clone();
            frame[at] = to;
            frame
        };
        let last = first.len() - 1;
        let table = [
            (vec![], FrameError::Length),
            (vec![1; 41], FrameError::Length),
            (vec![1; 241], FrameError::Length),
            (changed(0, 2), FrameError::Version),
            (changed(0, b'{'), FrameError::Version),
            (changed(1, 0x30), FrameError::Type),
            (changed(1, 0x62), FrameError::Direction),
            (changed(2, !first[2]), FrameError::Tag),
            (changed(9, 1), FrameError::Sequence),
            (second.clone(), FrameError::Sequence),
            (changed(10, b'O'), FrameError::Hmac),
            (changed(last, !first[last]), FrameError::Hmac),
        ];
        for (message, error) in table {
            assert_eq!(receiver.receive(&message).err(), Some(error));
            assert_eq!(receiver.next_received(), 0);
        }
        assert_eq!(receiver.receive(&first).unwrap().payload, b"one");
        assert_eq!(receiver.receive(&first).err(), Some(FrameError::Sequence));
        assert_eq!(receiver.receive(&second).unwrap().payload, b"two");
    }

    #[test]
    fn sequence_numbers_do_not_wrap() {
        let (mut sender, mut receiver) = pair(End::Sensor);
        sender.next_sent = u32::MAX;
        receiver.next_received = u32::MAX;
        assert_eq!(
            sender.send(FrameType::AudioChunk, b""),
            Err(FrameError::Sequence)
        );
        let session = *receiver.session();
        let key = TierKey::from_bytes([5; 32]);
        let frame = frame::encode(&key, &session, FrameType::AudioChunk, u32::MAX, b"").unwrap();
        assert_eq!(receiver.receive(&frame).err(), Some(FrameError::Sequence));
    }

    #[test]
    fn a_payload_over_the_limit_has_no_frame() {
        let (mut sender, _) = pair(End::Sensor);
        assert!(sender.send(FrameType::AudioChunk, &[0; 198]).is_ok());
        assert_eq!(
            sender.send(FrameType::AudioChunk, &[0; 199]),
            Err(FrameError::Length)
        );
    }
}
