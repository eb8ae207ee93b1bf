//! How a ledger is named on a command line or in a configuration file, and opened by that name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::dynamodb::{self, DynamoLedger};
use crate::measured::Measured;
use crate::{Ledger, LedgerError, LedgerMetrics, SqliteLedger};

/// The name of a ledger: `sqlite:PATH` or `dynamodb:TABLE@REGION`.
///
/// PATH is everything behind the first colon, taken as it is: `sqlite:ledger.db` stands in the working folder,
/// `sqlite:/var/lib/halo/ledger.db` does not. SQLite's own `:memory:` and `file:` names are refused, because a ledger
/// that forgets, or whose safety depends on parameters, is none.
///
/// Credentials for DynamoDB, and another endpoint than the region's (`AWS_ENDPOINT_URL_DYNAMODB`), come from where every AWS
/// program has them: the environment, the profile, a web identity, the container or the instance.
///
/// It has `FromStr` and `Display`, so that clap takes it as the type of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerUrl {
    /// A SQLite file on a local disk.
    Sqlite(PathBuf),
    /// A DynamoDB table.
    DynamoDb {
        /// The table's name.
        table: String,
        /// The region's name.
        region: String,
    },
}

/// The table and region in `TABLE@REGION`.
fn table(text: &str) -> Option<(&str, &str)> {
    let (table, region) = text.split_once('@')?;
    // DynamoDB's own rule for names of tables.
    let named = (3..=255).contains(&table.len())
        && table
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let placed = !region.is_empty()
        && region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (named && placed).then_some((table, region))
}

impl FromStr for LedgerUrl {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let url = match text.split_once(':') {
            Some(("sqlite", path))
                if !(path.is_empty() || path.starts_with(':') || path.starts_with("file:")) =>
            {
                Some(LedgerUrl::Sqlite(path.into()))
            }
            Some(("dynamodb", rest)) => table(rest).map(|(table, region)| LedgerUrl::DynamoDb {
                table: table.to_owned(),
                region: region.to_owned(),
            }),
            _ => None,
        };
        url.ok_or_else(|| LedgerError::Url(text.to_owned()))
    }
}

impl fmt::Display for LedgerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            LedgerUrl::DynamoDb { table, region } => write!(f, "dynamodb:{table}@{region}"),
        }
    }
}

/// What a ledger is opened with.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Where blocks wait while DynamoDB is away: a file, or a folder in which it is called `spill.db`. A SQLite ledger stands
    /// on a local disk itself and has no use for it.
    pub spill: Option<PathBuf>,
    /// Where the ledger counts.
    pub metrics: Option<LedgerMetrics>,
}

/// Opens a ledger for reading and writing. A SQLite file is created if it is missing, a DynamoDB table is not: see
/// [`dynamodb::create_table`]. Whether DynamoDB answers is not looked at here, so that a program with a spill starts without
/// it; ask [`Ledger::check`].
pub async fn open(url: &LedgerUrl, options: OpenOptions) -> Result<Arc<dyn Ledger>, LedgerError> {
    let OpenOptions { spill, metrics } = options;
    let ledger: Arc<dyn Ledger> = match url {
        LedgerUrl::Sqlite(path) => Arc::new(SqliteLedger::open(path)?),
        LedgerUrl::DynamoDb { table, region } => {
            let options = dynamodb::Options {
                spill,
                metrics: metrics.clone(),
                ..dynamodb::Options::default()
            };
            Arc::new(DynamoLedger::open(table, region, options).await?)
        }
    };
    Ok(match metrics {
        Some(metrics) => Arc::new(Measured { ledger, metrics }),
        None => ledger,
    })
}

/// Opens a ledger that exists, for reading; other programs may go on writing it.
pub async fn open_read_only(url: &LedgerUrl) -> Result<Arc<dyn Ledger>, LedgerError> {
    Ok(match url {
        LedgerUrl::Sqlite(path) => Arc::new(SqliteLedger::open_read_only(path)?),
        LedgerUrl::DynamoDb { table, region } => {
            let options = dynamodb::Options::default();
            Arc::new(DynamoLedger::open_read_only(table, region, options).await?)
        }
    })
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
        let url: LedgerUrl = "dynamodb:howdify-receipts@us-east-2".parse().unwrap();
        let (table, region) = ("howdify-receipts".to_owned(), "us-east-2".to_owned());
        assert_eq!(url, LedgerUrl::DynamoDb { table, region });
        assert_eq!(url.to_string(), "dynamodb:howdify-receipts@us-east-2");
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
            "dynamodb:@us-east-2",
            "dynamodb:table@",
            "dynamodb:t@us-east-2",
            "dynamodb:table/x@us-east-2",
            "dynamodb:table@us east",
            "dynamodb:table@us-east-2@x",
        ] {
            assert_eq!(
                bad.parse::<LedgerUrl>(),
                Err(LedgerError::Url(bad.to_owned()))
            );
        }
    }
}
