//! Where evidence and keys come from: files and ledgers.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use halo_ledger::{Ledger, LedgerUrl};
use halo_receipts::bundle::Bundle;
use halo_receipts::evidence::Evidence;
use halo_receipts::ids::SessionId;
use halo_receipts::verdict::{NoKeys, Roots, SessionKeys, SessionRoot, VerifyKeys};
use zeroize::Zeroizing;

use crate::cli::KeyArgs;
use crate::error::AuditError;
use crate::keyfile::{self, BadLine};

/// The keys that the flags name.
pub enum Keys {
    /// Every key of every session of these roots.
    Roots(Roots),
    /// Keys of one session.
    Session(SessionKeys),
    /// None, as was asked.
    None(NoKeys),
}

impl Keys {
    /// Reads the keys that the flags name; those that came with a bundle, if none does.
    pub fn load(args: &KeyArgs, bundled: Option<SessionKeys>) -> Result<Self, AuditError> {
        let demo = args.demo_root.as_slice();
        if let Some((first, more)) = args.root.split_first().or(demo.split_first()) {
            return Ok(Keys::Roots(roots(first, more)?));
        }
        if let Some(path) = &args.key {
            let bytes = Zeroizing::new(read(path)?);
            let text = std::str::from_utf8(&bytes).map_err(|_| AuditError::KeyLine {
                path: path.clone(),
                line: 1,
            })?;
            let keys = keyfile::parse(text).map_err(|BadLine(line)| AuditError::KeyLine {
                path: path.clone(),
                line,
            })?;
            if keys.is_empty() {
                return Err(AuditError::NoKeyLine(path.clone()));
            }
            return Ok(Keys::Session(keys));
        }
        if args.no_keys {
            return Ok(Keys::None(NoKeys));
        }
        match bundled.filter(|keys| !keys.is_empty()) {
            Some(keys) => Ok(Keys::Session(keys)),
            None => Err(AuditError::NoKeys),
        }
    }

    /// The keys that a session is verified with: of several roots, those of the session's own.
    pub fn of_session(&self, session: &SessionId, evidence: &Evidence) -> Chosen<'_> {
        match self {
            Keys::Roots(roots) => Chosen::Root(roots.of_session(session, evidence)),
            Keys::Session(keys) => Chosen::Other(keys),
            Keys::None(none) => Chosen::Other(none),
        }
    }
}

/// The keys that one session is verified with.
pub enum Chosen<'k> {
    /// Those of its root.
    Root(SessionRoot<'k>),
    /// Those that are the same for every session.
    Other(&'k dyn VerifyKeys),
}

impl<'k> AsRef<dyn VerifyKeys + 'k> for Chosen<'k> {
    fn as_ref(&self) -> &(dyn VerifyKeys + 'k) {
        match self {
            Chosen::Root(keys) => keys,
            Chosen::Other(keys) => *keys,
        }
    }
}

/// Reads root files. The same root in two of them is a mistake of whoever fetched them: the one that is missing would be
/// missed at each of its sessions only.
fn roots(first: &Path, more: &[PathBuf]) -> Result<Roots, AuditError> {
    let mut roots = Roots::new(halo_root_file::secret(first)?);
    for path in more {
        let added = roots.add(halo_root_file::secret(path)?);
        added.map_err(|at| AuditError::SameRoot {
            path: path.clone(),
            other: match at.checked_sub(1).and_then(|at| more.get(at)) {
                Some(other) => other.clone(),
                None => first.to_owned(),
            },
        })?;
    }
    Ok(roots)
}

/// Opens a ledger for reading.
pub async fn open(url: &LedgerUrl) -> Result<Arc<dyn Ledger>, AuditError> {
    halo_ledger::open_read_only(url)
        .await
        .map_err(|error| AuditError::Ledger {
            name: url.to_string(),
            error,
        })
}

/// Reads a bundle file.
pub fn read_bundle(path: &Path) -> Result<Bundle, AuditError> {
    let bytes = Zeroizing::new(read(path)?);
    Bundle::parse(&bytes).map_err(|error| AuditError::Bundle {
        path: path.to_owned(),
        error,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, AuditError> {
    std::fs::read(path).map_err(|error| AuditError::Read {
        path: path.to_owned(),
        error,
    })
}

/// Writes a file whole or not at all. One with keys is for its owner's eyes, and never replaces another.
pub fn write(path: &Path, bytes: &[u8], secret: bool) -> Result<(), AuditError> {
    let failed = |error| AuditError::Write {
        path: path.to_owned(),
        error,
    };
    if secret {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)
    } else {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        std::fs::write(&partial, bytes)
            .and_then(|()| std::fs::rename(&partial, path))
            .map_err(failed)
    }
}
