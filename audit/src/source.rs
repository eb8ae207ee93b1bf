//! Where evidence and keys come from: files and ledgers.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use halo_ledger::{Ledger, LedgerUrl};
use halo_receipts::bundle::Bundle;
use halo_receipts::ids::{Epoch, SessionId, TenantId};
use halo_receipts::keys::{RootKeys, SessionKey};
use halo_receipts::verdict::{KeySource, NoKeys, SessionKeys, VerifyKeys};
use zeroize::Zeroizing;

use crate::cli::KeyArgs;
use crate::error::AuditError;
use crate::keyfile::{self, BadLine};

/// The keys that the flags name.
pub enum Keys {
    /// Every key of every session.
    Root(RootKeys),
    /// Keys of one session.
    Session(SessionKeys),
    /// None, as was asked.
    None(NoKeys),
}

impl Keys {
    /// Reads the keys that the flags name; those that came with a bundle, if none does.
    pub fn load(
        args: &KeyArgs,
        generation: u32,
        bundled: Option<SessionKeys>,
    ) -> Result<Self, AuditError> {
        if let Some(path) = args.root.as_deref().or(args.demo_root.as_deref()) {
            let root = halo_root_file::read(path, generation, args.demo_root.is_some())?;
            return Ok(Keys::Root(root));
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

    fn as_verify(&self) -> &dyn VerifyKeys {
        match self {
            Keys::Root(keys) => keys,
            Keys::Session(keys) => keys,
            Keys::None(keys) => keys,
        }
    }
}

impl VerifyKeys for Keys {
    fn source(&self) -> KeySource {
        self.as_verify().source()
    }

    fn session_key(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        epoch: Epoch,
    ) -> Option<SessionKey> {
        self.as_verify().session_key(tenant, session, epoch)
    }
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
