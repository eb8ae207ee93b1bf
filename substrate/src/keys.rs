//! The tenant's keyring, read from a file that is replaced while the pod runs: months and roots change, the pod does not.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use halo_receipts::ids::{DeviceId, Epoch, Hash, SessionId, TenantId};
use halo_receipts::keyring::{KeyRing, KeyRingError, MAX_BYTES};
use halo_receipts::keys::{DeviceKey, RootInfo, SessionKey, TenantKeys};
use zeroize::Zeroizing;

/// Why a keyring file is not used. Never says what a key is.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{}: cannot read the keyring: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The file holds no keyring.
    #[error("{}: {error}", file.display())]
    Keyring {
        /// The file.
        file: PathBuf,
        /// Why.
        error: KeyRingError,
    },
    /// The keyring is another tenant's.
    #[error("{}: the keyring is of the tenant {found}, and this pod serves {expected}", file.display())]
    Tenant {
        /// The file.
        file: PathBuf,
        /// The pod's tenant.
        expected: TenantId,
        /// The keyring's.
        found: TenantId,
    },
}

/// The keys of one tenant in a file, and what that file held when it was last read.
pub struct FileKeys {
    file: PathBuf,
    tenant: TenantId,
    held: RwLock<Held>,
}

struct Held {
    ring: Arc<KeyRing>,
    /// The content that was looked at last, also one that was refused: it is refused once, not every few seconds.
    seen: Hash,
}

/// What a look at the file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The file holds what it held.
    Same,
    /// Other keys are used from now on.
    Changed,
}

impl FileKeys {
    /// Reads the keyring of `tenant`.
    ///
    /// # Errors
    /// The file cannot be read, is no keyring, or another tenant's.
    pub fn open(file: &Path, tenant: &TenantId) -> Result<Self, KeysError> {
        let bytes = read(file)?;
        let held = Held {
            ring: Arc::new(decode(file, tenant, &bytes)?),
            seen: Hash::of(&bytes),
        };
        Ok(Self {
            file: file.into(),
            tenant: tenant.clone(),
            held: RwLock::new(held),
        })
    }

    /// Looks at the file again and takes what it holds now.
    ///
    /// # Errors
    /// As [`FileKeys::open`], each content once; the keys of before stay.
    pub fn refresh(&self) -> Result<Change, KeysError> {
        let bytes = read(&self.file)?;
        let seen = Hash::of(&bytes);
        if seen
            == self
                .held
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .seen
        {
            return Ok(Change::Same);
        }
        let decoded = decode(&self.file, &self.tenant, &bytes);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.seen = seen;
        held.ring = Arc::new(decoded?);
        Ok(Change::Changed)
    }

    /// The months of the current root whose keys are held, such as `2026-11`.
    pub fn months(&self) -> Vec<String> {
        self.ring()
            .months()
            .map(|month| month.to_string())
            .collect()
    }

    fn ring(&self) -> Arc<KeyRing> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.ring)
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let failed = |error| KeysError::Read {
        file: file.into(),
        error,
    };
    let source = std::fs::File::open(file).map_err(failed)?;
    // Reserved at once: a vector that grows would leave copies behind. One byte more than is taken tells a longer file.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 2));
    source
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn decode(file: &Path, tenant: &TenantId, bytes: &[u8]) -> Result<KeyRing, KeysError> {
    let ring = KeyRing::decode(bytes).map_err(|error| KeysError::Keyring {
        file: file.into(),
        error,
    })?;
    if ring.tenant() != tenant {
        return Err(KeysError::Tenant {
            file: file.into(),
            expected: tenant.clone(),
            found: ring.tenant().clone(),
        });
    }
    Ok(ring)
}

impl TenantKeys for FileKeys {
    fn root(&self) -> RootInfo {
        self.ring().root()
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        self.ring().session_key(tenant, session, epoch)
    }

    fn device_key(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
        generation: u32,
    ) -> Option<DeviceKey> {
        self.ring().device_key(tenant, device, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::keys::RootSecret;

    fn write(file: &Path, tenant: &str, secret: u8, months: &[&str]) {
        let root = RootSecret::new(vec![secret; 32]).unwrap();
        let months: Vec<_> = months.iter().map(|month| month.parse().unwrap()).collect();
        let ring = KeyRing::derive(&tenant.parse().unwrap(), &[(1, &root)], &months, false);
        std::fs::write(file, ring.unwrap().encode()).unwrap();
    }

    #[test]
    fn a_changed_file_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keyring.json");
        let tenant: TenantId = "acme".parse().unwrap();
        assert!(matches!(
            FileKeys::open(&file, &tenant),
            Err(KeysError::Read { .. })
        ));
        write(&file, "acme", 7, &["2025-12"]);
        let keys = FileKeys::open(&file, &tenant).unwrap();
        let session = SessionId::from_random([3; 16]);
        let key = |epoch| {
            let key = keys.session_key(&tenant, &session, Epoch(epoch));
            key.map(|key| *key.expose())
        };
        let december = 1_767_225_599;
        let first = key(december).unwrap();
        assert_eq!(key(december + 1), None);
        assert_eq!(keys.refresh().unwrap(), Change::Same);

        write(&file, "acme", 7, &["2025-12", "2026-01"]);
        assert_eq!(keys.refresh().unwrap(), Change::Changed);
        assert_eq!(key(december), Some(first));
        assert!(key(december + 1).is_some());
        assert_eq!(keys.months(), ["2025-12", "2026-01"]);

        // Broken, another tenant's, too long, gone: each is said, and the keys stay.
        std::fs::write(&file, b"{}").unwrap();
        assert!(matches!(keys.refresh(), Err(KeysError::Keyring { .. })));
        assert_eq!(keys.refresh().unwrap(), Change::Same);
        write(&file, "other", 7, &["2025-12"]);
        let error = keys.refresh().unwrap_err().to_string();
        assert!(
            error.contains("tenant other") && error.contains("serves acme"),
            "{error}"
        );
        std::fs::write(&file, vec![b' '; MAX_BYTES + 10]).unwrap();
        assert!(keys.refresh().unwrap_err().to_string().contains("at most"));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(keys.refresh(), Err(KeysError::Read { .. })));
        assert_eq!(key(december), Some(first));
        assert!(key(december + 1).is_some());

        write(&file, "acme", 8, &["2025-12"]);
        assert_eq!(keys.refresh().unwrap(), Change::Changed);
        assert_ne!(key(december), Some(first));
    }

    #[test]
    fn a_pod_is_not_started_with_another_tenants_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keyring.json");
        write(&file, "other", 7, &["2025-12"]);
        let opened = FileKeys::open(&file, &"acme".parse().unwrap());
        assert!(matches!(opened, Err(KeysError::Tenant { .. })));
    }
}
