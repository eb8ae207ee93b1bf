//! Where a pod's keys come from: a root, or the tenant's keyring in a file that is replaced while the pod runs. Months and roots
//! change, the pod does not.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use halo_receipts::ids::{Hash, TenantId};
use halo_receipts::keyring::{KeyRing, KeyRingError, MAX_BYTES};
use halo_receipts::keys::{KeyCheckValue, KeyStore, OneRoot, TenantKeys};
use halo_receipts::time::{KeyMonth, Timestamp};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// How often a keyring's file is looked at without a reason.
const LOOK_EVERY: Duration = Duration::from_secs(3);

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

/// The keys of one tenant in a file, and what that file held when it was last read: every generation and month of it.
pub struct FileKeys {
    file: PathBuf,
    tenant: TenantId,
    held: RwLock<Held>,
    looked: Mutex<Looked>,
}

/// The last look at the file.
struct Looked {
    begun: Instant,
    /// What was last said of a file that could not be used, so that it is said once.
    said: String,
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
            looked: Mutex::new(Looked {
                begun: Instant::now(),
                said: String::new(),
            }),
        })
    }

    /// Looks at the file, unless somebody has begun to since this was called, and logs what it comes to.
    pub async fn look(self: &Arc<Self>) {
        let asked = Instant::now();
        let mut last = self.looked.lock().await;
        if last.begun >= asked {
            return;
        }
        last.begun = Instant::now();
        let keys = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || keys.refresh()).await;
        match looked {
            Ok(Ok(Change::Same)) => {}
            Ok(Ok(Change::Changed)) => {
                last.said.clear();
                tracing::info!(keys = ?self.held_names(), "the keyring has changed");
            }
            Ok(Err(error)) => {
                let error = error.to_string();
                if last.said != error {
                    tracing::error!(%error, keys = ?self.held_names(), "the keyring is broken: the keys of before stay");
                    last.said = error;
                }
            }
            Err(error) => tracing::error!(%error, "the keyring could not be looked at"),
        }
    }

    /// Looks again and again until the keys are dropped.
    pub fn watch(self: &Arc<Self>) {
        let watched = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(keys) = watched.upgrade() else {
                    return;
                };
                keys.look().await;
            }
        });
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

    /// The generation that new sessions are keyed from, the others that are held, and the months of the current one.
    pub fn held_names(&self) -> (u32, Vec<u32>, Vec<String>) {
        let ring = self.ring();
        let current = ring.root().generation;
        let others = ring.generations().map(|(generation, _)| generation);
        let months = ring.months().map(|month| month.to_string());
        (
            current,
            others.filter(|other| *other != current).collect(),
            months.collect(),
        )
    }

    /// When the last month ends whose keys of the current generation are held.
    pub fn end(&self) -> Option<Timestamp> {
        end_of(self.ring().months().max()?)
    }

    fn ring(&self) -> Arc<KeyRing> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held.ring)
    }
}

fn end_of(month: KeyMonth) -> Option<Timestamp> {
    let month = month.to_string();
    let (year, month) = month.split_once('-')?;
    let months = 12 * year.parse::<u32>().ok()? + month.parse::<u32>().ok()?;
    format!(
        "{:04}-{:02}-01T00:00:00.000000Z",
        months / 12,
        months % 12 + 1
    )
    .parse()
    .ok()
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

impl KeyStore for FileKeys {
    fn current(&self, tenant: &TenantId) -> Option<Arc<dyn TenantKeys>> {
        self.ring().current(tenant)
    }

    fn held(&self, tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>> {
        self.ring().held(tenant)
    }
}

/// Where a pod's keys come from.
#[derive(Clone)]
pub enum PodKeys {
    /// One root, which has the keys of every month.
    Root(OneRoot),
    /// A keyring in a file.
    File(Arc<FileKeys>),
}

impl PodKeys {
    /// Whether more keys may come than are held now.
    pub fn may_grow(&self) -> bool {
        matches!(self, PodKeys::File(_))
    }

    /// When the last month ends whose keys are held; `None` if they have no end.
    pub fn end(&self) -> Option<Timestamp> {
        match self {
            PodKeys::Root(_) => None,
            PodKeys::File(keys) => keys.end(),
        }
    }

    /// Looks for keys that came since.
    pub async fn look(&self) {
        if let PodKeys::File(keys) = self {
            keys.look().await;
        }
    }

    fn store(&self) -> &dyn KeyStore {
        match self {
            PodKeys::Root(root) => root,
            PodKeys::File(keys) => &**keys,
        }
    }
}

impl KeyStore for PodKeys {
    fn current(&self, tenant: &TenantId) -> Option<Arc<dyn TenantKeys>> {
        self.store().current(tenant)
    }

    fn held(&self, tenant: &TenantId) -> Vec<Arc<dyn TenantKeys>> {
        self.store().held(tenant)
    }

    fn under(
        &self,
        tenant: &TenantId,
        generation: u32,
        check_value: &KeyCheckValue,
    ) -> Option<Arc<dyn TenantKeys>> {
        self.store().under(tenant, generation, check_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::ids::{Epoch, SessionId};
    use halo_receipts::keys::RootSecret;

    fn write(file: &Path, tenant: &str, secret: u8, months: &[&str]) {
        write_roots(file, tenant, &[(1, secret)], months);
    }

    fn write_roots(file: &Path, tenant: &str, secrets: &[(u32, u8)], months: &[&str]) {
        let roots: Vec<_> = secrets
            .iter()
            .map(|&(generation, secret)| (generation, RootSecret::new(vec![secret; 32]).unwrap()))
            .collect();
        let roots: Vec<_> = roots.iter().map(|(number, root)| (*number, root)).collect();
        let months: Vec<_> = months.iter().map(|month| month.parse().unwrap()).collect();
        let ring = KeyRing::derive(&tenant.parse().unwrap(), &roots, &months, false);
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
            let current = keys.current(&tenant).unwrap();
            let key = current.session_key(&tenant, &session, Epoch(epoch));
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
        assert_eq!(keys.held_names().2, ["2025-12", "2026-01"]);
        assert_eq!(keys.end(), "2026-02-01T00:00:00.000000Z".parse().ok());
        let year_end = end_of("2025-12".parse().unwrap());
        assert_eq!(year_end, "2026-01-01T00:00:00.000000Z".parse().ok());

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

    #[test]
    fn every_generation_of_the_file_is_held_until_it_is_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keyring.json");
        let tenant: TenantId = "acme".parse().unwrap();
        let check = |secret| RootSecret::new(vec![secret; 32]).unwrap().check_value();
        write_roots(&file, "acme", &[(1, 7)], &["2026-01"]);
        let keys = FileKeys::open(&file, &tenant).unwrap();
        assert!(keys.under(&tenant, 2, &check(8)).is_none());

        write_roots(&file, "acme", &[(1, 7), (2, 8)], &["2026-01"]);
        assert_eq!(keys.refresh().unwrap(), Change::Changed);
        assert_eq!(keys.held_names(), (2, vec![1], vec!["2026-01".to_owned()]));
        assert_eq!(keys.current(&tenant).unwrap().root().generation, 2);
        for (generation, secret) in [(1, 7), (2, 8)] {
            let found = keys.under(&tenant, generation, &check(secret)).unwrap();
            assert_eq!(found.root().generation, generation);
        }
        assert!(keys.under(&tenant, 2, &check(7)).is_none());
        assert!(keys.held(&"other".parse().unwrap()).is_empty());

        write_roots(&file, "acme", &[(2, 8)], &["2026-01"]);
        assert_eq!(keys.refresh().unwrap(), Change::Changed);
        assert!(keys.under(&tenant, 1, &check(7)).is_none());
    }

    #[tokio::test]
    async fn looks_at_once_are_one_look() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keyring.json");
        let tenant: TenantId = "acme".parse().unwrap();
        write(&file, "acme", 7, &["2025-12"]);
        let keys = Arc::new(FileKeys::open(&file, &tenant).unwrap());
        write(&file, "acme", 7, &["2025-12", "2026-01"]);
        let held = keys.looked.lock().await;
        let many: Vec<_> = (0..8)
            .map(|_| {
                let keys = Arc::clone(&keys);
                tokio::spawn(async move {
                    keys.look().await;
                    keys.held_names().2.len()
                })
            })
            .collect();
        drop(held);
        for look in many {
            assert_eq!(look.await.unwrap(), 2);
        }
        let begun = keys.looked.lock().await.begun;
        keys.look().await;
        assert!(keys.looked.lock().await.begun > begun);
    }
}
