//! The keys of a test device and of its session's verifier, from the keyring that gateways have.

use std::path::{Path, PathBuf};

use halo_receipts::evidence::{Evidence, Header};
use halo_receipts::ids::{DeviceId, Epoch, SessionId, TenantId};
use halo_receipts::keyring::{KeyRing, KeyRingError};
use halo_receipts::keys::{DeviceKey, RootInfo, SessionKey, TenantKeys as _};
use halo_receipts::verdict::{KeySource, VerifyKeys};
use zeroize::Zeroizing;

/// Why no device can be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no keyring.
    #[error("{path}: {source}")]
    Keyring {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyRingError,
    },
    /// It is the keyring of pods.
    #[error(
        "the keyring holds no ENROLL_KEY: take keyring.json of the Secret halo-keys-<tenant id> in the operator's namespace, not that of \
         the pods"
    )]
    NoEnrollKey,
}

/// A tenant's keyring. No `Debug`.
pub struct Keyring(KeyRing);

impl Keyring {
    /// Reads `keyring.json`.
    ///
    /// # Errors
    /// See [`EnrolError`].
    pub fn read(path: &Path) -> Result<Self, EnrolError> {
        let bytes = std::fs::read(path).map(Zeroizing::new);
        let bytes = bytes.map_err(|source| EnrolError::Read {
            path: path.to_owned(),
            source,
        })?;
        let ring = KeyRing::decode(&bytes);
        ring.map(Self).map_err(|source| EnrolError::Keyring {
            path: path.to_owned(),
            source,
        })
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        self.0.tenant()
    }

    /// DEVICE_KEY of a device, under the current root.
    ///
    /// # Errors
    /// [`EnrolError::NoEnrollKey`].
    pub fn device_key(&self, device: &DeviceId, generation: u32) -> Result<DeviceKey, EnrolError> {
        let key = self.0.device_key(self.tenant(), device, generation);
        key.ok_or(EnrolError::NoEnrollKey)
    }

    /// The keys that verify a session: those of the root that its header names, or of the current one.
    pub fn verify_keys(&self, evidence: &Evidence) -> SessionRoot<'_> {
        let header = evidence
            .header
            .as_ref()
            .and_then(|record| record.parse::<Header>().ok());
        let named = header.and_then(|header| {
            let mut held = self.0.generations();
            held.find(|(generation, check)| {
                *generation == header.root_generation && *check == header.key_check_value
            })
        });
        let root = named.map(|(generation, check_value)| RootInfo {
            generation,
            check_value,
            demo: false,
        });
        SessionRoot {
            ring: &self.0,
            root: root.unwrap_or_else(|| self.0.root()),
        }
    }
}

/// The keys of one generation of a keyring.
pub struct SessionRoot<'r> {
    ring: &'r KeyRing,
    root: RootInfo,
}

impl VerifyKeys for SessionRoot<'_> {
    fn source(&self) -> KeySource {
        KeySource::Root {
            check_value: self.root.check_value,
            others: Vec::new(),
        }
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        self.ring
            .session_key_under(self.root.generation, tenant, session, epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::keys::RootSecret;
    use halo_receipts::time::KeyMonth;

    #[test]
    fn keyrings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring.json");
        assert!(matches!(Keyring::read(&path), Err(EnrolError::Read { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(
            Keyring::read(&path),
            Err(EnrolError::Keyring { .. })
        ));

        let tenant: TenantId = "acme".parse().unwrap();
        let device: DeviceId = "phone-1".parse().unwrap();
        let root = RootSecret::new(vec![7; 32]).unwrap();
        let month: KeyMonth = "2026-11".parse().unwrap();
        for with_enroll in [true, false] {
            let ring = KeyRing::derive(&tenant, &[(3, &root)], &[month], with_enroll).unwrap();
            std::fs::write(&path, ring.encode().as_slice()).unwrap();
            let read = Keyring::read(&path).unwrap();
            assert_eq!(*read.tenant(), tenant);
            let key = read.device_key(&device, 2);
            match with_enroll {
                true => assert_eq!(
                    key.unwrap().expose(),
                    root.enroll_key(&tenant, 3).device_key(&device, 2).expose()
                ),
                false => assert!(matches!(key, Err(EnrolError::NoEnrollKey))),
            }
            // Without a header the current root's keys are tried, and the verdict says what is missing.
            let keys = read.verify_keys(&Evidence::default());
            assert_eq!(keys.root.generation, 3);
        }
    }
}
