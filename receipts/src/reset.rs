//! SESSION_RESET (protocol section 3): how a sensor gets its first key, and each later one.

use crate::frame::{self, Frame, FrameError, FrameType};
use crate::ids::{Epoch, Hash, ReceiptId, SessionId, TenantId};
use crate::keys::{PairingKey, TierKey, aead_open, aead_seal};
use crate::messages::{MessageError, Reader};
use crate::receipt::Parent;

/// SESSION_RESET: gives a sensor the TIER_KEY\[0\] of a new session or epoch, under the pairing key.
pub struct SessionReset {
    /// The session.
    pub session_id: SessionId,
    /// The epoch, above every earlier one.
    pub session_epoch: Epoch,
    /// The key that the sensor signs with from now on.
    pub tier_key: TierKey,
}

impl SessionReset {
    /// The payload's length.
    pub const LEN: usize = 80;
    /// session_id and session_epoch, which are the associated data of the sealed key.
    const AAD_LEN: usize = 20;

    /// Writes the whole frame; `nonce` is random.
    pub fn frame(&self, pairing: &PairingKey, nonce: [u8; 12]) -> Result<Vec<u8>, FrameError> {
        self.write(pairing, nonce, &[])
    }

    /// Writes the whole frame with a [`SensorContext`] after the first 80 bytes of the payload.
    pub fn frame_with(
        &self,
        pairing: &PairingKey,
        nonce: [u8; 12],
        context: &SensorContext,
    ) -> Result<Vec<u8>, FrameError> {
        self.write(pairing, nonce, &context.encode())
    }

    fn write(
        &self,
        pairing: &PairingKey,
        nonce: [u8; 12],
        context: &[u8],
    ) -> Result<Vec<u8>, FrameError> {
        let key = pairing.reset_key(&self.session_id, self.session_epoch);
        let mut payload = Vec::with_capacity(Self::LEN + context.len());
        payload.extend_from_slice(self.session_id.as_bytes());
        payload.extend_from_slice(&self.session_epoch.0.to_be_bytes());
        let sealed = aead_seal(key.expose(), nonce, &payload, self.tier_key.expose());
        payload.extend_from_slice(&nonce);
        payload.extend_from_slice(&sealed);
        payload.extend_from_slice(context);
        frame::encode(&key, &self.session_id, FrameType::SessionReset, 0, &payload)
    }

    /// Reads and authenticates a frame without a context. `last_epoch` is the highest epoch that this sensor has seen.
    pub fn open(
        message: &[u8],
        pairing: &PairingKey,
        last_epoch: Option<Epoch>,
    ) -> Result<Self, MessageError> {
        match Self::open_with(message, pairing, last_epoch)? {
            (reset, None) => Ok(reset),
            (_, Some(_)) => Err(MessageError::Length),
        }
    }

    /// Reads and authenticates a frame, and the [`SensorContext`] if it carries one.
    pub fn open_with(
        message: &[u8],
        pairing: &PairingKey,
        last_epoch: Option<Epoch>,
    ) -> Result<(Self, Option<SensorContext>), MessageError> {
        let frame = Frame::parse(message).map_err(|_| MessageError::NotAuthentic)?;
        if frame.typ != FrameType::SessionReset || frame.sequence != 0 {
            return Err(MessageError::NotAuthentic);
        }
        let mut reader = Reader(frame.payload);
        let session_id =
            SessionId::from_bytes(reader.take()?).map_err(|_| MessageError::NotAuthentic)?;
        let session_epoch = Epoch(reader.u32()?);
        let nonce = reader.take::<12>()?;
        let sealed = reader.take::<48>()?;
        let Reader(context) = reader;
        let key = pairing.reset_key(&session_id, session_epoch);
        if frame.tag != session_id.tag() || !frame.verify(&key) {
            return Err(MessageError::NotAuthentic);
        }
        let opened = aead_open(
            key.expose(),
            nonce,
            &frame.payload[..Self::AAD_LEN],
            &sealed,
        )
        .map_err(|_| MessageError::NotAuthentic)?;
        let tier_key = opened
            .as_slice()
            .try_into()
            .map(TierKey::from_bytes)
            .map_err(|_| MessageError::NotAuthentic)?;
        if last_epoch.is_some_and(|last| session_epoch <= last) {
            return Err(MessageError::Replay);
        }
        let context = match context {
            [] => None,
            bytes => Some(SensorContext::decode(bytes)?),
        };
        let reset = Self {
            session_id,
            session_epoch,
            tier_key,
        };
        Ok((reset, context))
    }
}

/// What a sensor must know beside its key to write its next receipt, at the end of a SESSION_RESET: 48 bytes of parent
/// (zeros: none) and the 1 to 63 characters of the tenant. The frame's HMAC covers it. Without it a sensor could not
/// follow a break: the receipt that records one is Tier 1's, and no other message shows it to Tier 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorContext {
    /// The tenant that stands in every receipt.
    pub tenant_id: TenantId,
    /// The parent of the next capture; none if it is the first receipt of its session.
    pub parent: Option<Parent>,
}

impl SensorContext {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 48];
        if let Some(parent) = &self.parent {
            bytes[..16].copy_from_slice(parent.id.as_bytes());
            bytes[16..].copy_from_slice(&parent.hash.0);
        }
        bytes.extend_from_slice(self.tenant_id.as_str().as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(bytes);
        let parent = match (reader.take::<16>()?, reader.take::<32>()?) {
            (id, hash) if id == [0; 16] && hash == [0; 32] => None,
            (id, hash) => Some(Parent {
                id: ReceiptId::from_bytes(id).map_err(|_| MessageError::Value)?,
                hash: Hash(hash),
            }),
        };
        let tenant = std::str::from_utf8(reader.0).map_err(|_| MessageError::Value)?;
        let tenant_id = tenant.parse().map_err(|_| MessageError::Value)?;
        Ok(Self { tenant_id, parent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> (SessionReset, PairingKey) {
        let reset = SessionReset {
            session_id: SessionId::from_random([3; 16]),
            session_epoch: Epoch(1_800_000_000),
            tier_key: TierKey::from_bytes([7; 32]),
        };
        (reset, PairingKey::from_bytes([9; 32]))
    }

    #[test]
    fn a_reset_carries_what_the_next_capture_needs() {
        let (reset, pairing) = reset();
        let parent = Parent {
            id: ReceiptId::from_random([4; 16]),
            hash: Hash([5; 32]),
        };
        for (tenant, parent) in [
            ("a", None),
            ("acme", Some(parent)),
            (&"t".repeat(63), Some(parent)),
        ] {
            let context = SensorContext {
                tenant_id: tenant.parse().unwrap(),
                parent,
            };
            let frame = reset.frame_with(&pairing, [1; 12], &context).unwrap();
            assert!(frame.len() <= frame::FRAME_MAX);
            let (read, found) = SessionReset::open_with(&frame, &pairing, None).unwrap();
            assert_eq!(read.tier_key.expose(), &[7; 32]);
            assert_eq!(found, Some(context));
            assert_eq!(
                SessionReset::open(&frame, &pairing, None).err(),
                Some(MessageError::Length)
            );
        }
    }

    #[test]
    fn every_byte_of_a_reset_counts() {
        let (reset, pairing) = reset();
        let context = SensorContext {
            tenant_id: "acme".parse().unwrap(),
            parent: None,
        };
        let good = reset.frame_with(&pairing, [1; 12], &context).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(
                SessionReset::open_with(&bad, &pairing, None).is_err(),
                "byte {at}"
            );
        }
        let bare = reset.frame(&pairing, [1; 12]).unwrap();
        assert!(matches!(
            SessionReset::open_with(&bare, &pairing, None),
            Ok((_, None))
        ));
        assert_eq!(
            SessionReset::open_with(&good, &pairing, Some(Epoch(1_800_000_000))).err(),
            Some(MessageError::Replay)
        );
    }
}
