//! Why `halo-verify` could not do what it was asked. All of these are exit code 2.

use std::path::PathBuf;

use halo_ledger::LedgerError;
use halo_receipts::bundle::BundleError;
use halo_receipts::ids::SessionId;

/// Wrong usage, or a file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A root file that is not used.
    #[error(transparent)]
    Root(#[from] halo_root_file::RootError),
    /// Two files with the same root.
    #[error(
        "{other} and {path} hold the same root secret: give each root once, and for another generation the secret of that one"
    )]
    SameRoot {
        /// The file that repeats it.
        path: PathBuf,
        /// The file that has it already.
        other: PathBuf,
    },
    /// A line of a key file that is not `epoch:key`.
    #[error(
        "{path}, line {line}: expected an epoch, a colon and the 64 hexadecimal digits of a SESSION_KEY"
    )]
    KeyLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A key file without a key.
    #[error(
        "{0} holds no key; each line is an epoch, a colon and the 64 hexadecimal digits of a SESSION_KEY"
    )]
    NoKeyLine(PathBuf),
    /// No flag that says which keys to use.
    #[error(
        "say which keys to use: --root, --demo-root or --key, or --no-keys for a verdict on structure alone"
    )]
    NoKeys,
    /// Nothing to verify.
    #[error("name a session, or --tenant, --since or --until to choose many")]
    NoSession,
    /// A flag that needs one session.
    #[error("{0} needs one session")]
    OneSession(&'static str),
    /// A flag that needs a ledger.
    #[error("{0} needs a ledger")]
    NeedsLedger(&'static str),
    /// A flag that needs a root.
    #[error("{0} needs a root, from which the keys are derived")]
    NeedsRoot(&'static str),
    /// A session that was keyed from none of the roots.
    #[error(
        "{flag} writes nothing: session {session} was keyed from none of the roots given; give the root that it was keyed from"
    )]
    NotItsRoot {
        /// The flag that asks for its keys.
        flag: &'static str,
        /// The session.
        session: SessionId,
    },
    /// A session whose tenant cannot be told, so that no key can be derived for it.
    #[error("no key can be derived for session {0}: neither its header nor a receipt can be read")]
    NoTenant(SessionId),
    /// A bundle of another session.
    #[error("the bundle is of session {found}, not of {asked}")]
    OtherSession {
        /// The session of the bundle.
        found: SessionId,
        /// The session that was named.
        asked: SessionId,
    },
    /// A ledger that cannot be used.
    #[error("{name}: {error}")]
    Ledger {
        /// The ledger.
        name: String,
        /// Why.
        error: LedgerError,
    },
    /// A bundle that cannot be read.
    #[error("{path}: {error}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        error: BundleError,
    },
    /// A code that does not exist.
    #[error("no code is called {0:?}; the codes are:\n  {1}")]
    UnknownCode(String, String),
    /// A verdict that cannot be written.
    #[error("cannot write the verdict: {0}")]
    Output(#[from] std::io::Error),
    /// A verdict that cannot be written as JSON.
    #[error("cannot write the verdict: {0}")]
    Json(#[from] serde_json::Error),
}
