//! How a ledger is named on a command line or in a configuration file, and opened by that name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Ledger, LedgerError, SqliteLedger};

/// The name of a ledger: `sqlite:PATH`.
///
/// PATH is everything behind the first colon, taken as it is: `sqlite:ledger.db` stands in the working folder,
/// `sqlite:/var/lib/halo/ledger.db` does not. SQLite's own `:memory:` and `file:` names are refused, because a ledger
/// that forgets, or whose safety depends on parameters, is none.
///
/// It has `FromStr` and `Display`, so that clap takes it as the type of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerUrl {
    /// A SQLite file on a local disk.
    Sqlite(PathBuf),
}

impl FromStr for LedgerUrl {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        match text.split_once(':') {
            Some(("sqlite", path))
                if !(path.is_empty() || path.starts_with(':') || path.starts_with("file:")) =>
            {
                Ok(LedgerUrl::Sqlite(path.into()))
            }
            _ => Err(LedgerError::Url(text.to_owned())),
        }
    }
}

impl fmt::Display for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// Opens a ledger for reading and writing, and creates it if it is missing.
pub fn open(url: &LedgerUrl) -> Result<Arc<dyn Ledger>, LedgerError> {
    match url {
        LedgerUrl::Sqlite(path) => Ok(Arc::new(SqliteLedger::open(path)?)),
    }
}

/// Opens a ledger that exists, for reading; other programs may go on writing it.
pub fn open_read_only(url: &LedgerUrl) -> Result<Arc<dyn Ledger>, LedgerError> {
    match url {
        LedgerUrl::Sqlite(path) => Ok(Arc::new(SqliteLedger::open_read_only(path)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, path) in [
            ("sqlite:ledger.db", "ledger.db"),
            ("sqlite:/var/lib/halo/ledger.db", "/var/lib/halo/ledger.db"),
            ("sqlite:a b:c?d=e#f.db", "a b:c?d=e#f.db"),
        ] {
            let url: LedgerUrl = text.parse().unwrap();
            assert_eq!(url, LedgerUrl::Sqlite(path.into()));
            assert_eq!(url.to_string(), text);
        }
        for bad in [
            "",
            "ledger.db",
            "/var/lib/halo/ledger.db",
            "sqlite",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:file:ledger.db?mode=memory",
            "SQLITE:ledger.db",
            "dynamodb:table",
        ] {
            assert_eq!(
                bad.parse::<LedgerUrl>(),
                Err(LedgerError::Url(bad.to_owned()))
            );
        }
    }
}
