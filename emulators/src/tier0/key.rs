//! The one place where a sensor keeps TIER_KEY\[0\].

use std::sync::Arc;

use halo_receipts::keys::TierKey;
use zeroize::Zeroize as _;

/// A fixed piece of memory that holds the key, or zeros. The state that computes a MAC is made from it for each frame
/// and wiped right after, so nothing else holds the key between two steps.
pub(crate) struct KeySlot {
    /// Boxed, so that moving the sensor leaves no copy behind.
    bytes: Box<[u8; 32]>,
    held: bool,
}

impl KeySlot {
    pub(crate) fn empty() -> Self {
        Self {
            bytes: Box::new([0; 32]),
            held: false,
        }
    }

    pub(crate) fn put(&mut self, key: &TierKey) {
        self.bytes.copy_from_slice(key.expose());
        self.held = true;
    }

    /// The key, ready to sign and verify; none after [`KeySlot::wipe`].
    pub(crate) fn get(&self) -> Option<Arc<TierKey>> {
        self.held
            .then(|| Arc::new(TierKey::from_bytes(*self.bytes)))
    }

    /// Overwrites the key with zeros. Returns whether there was one.
    pub(crate) fn wipe(&mut self) -> bool {
        self.bytes.zeroize();
        std::mem::take(&mut self.held)
    }

    /// The memory itself, for tests that prove what stands in it.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl Drop for KeySlot {
    fn drop(&mut self) {
        self.wipe();
    }
}
