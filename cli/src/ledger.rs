//! `halo ledger create`: the ledger's table, as receipts must be kept.

use std::io::{self, Write};

use halo_ledger::dynamodb::TableReport;
use halo_ledger::{LedgerError, LedgerUrl};

/// Makes the table that the URL names, or looks at the one that is there.
///
/// # Errors
/// It is no DynamoDB table, or DynamoDB says no.
pub async fn create(url: &LedgerUrl) -> Result<TableReport, LedgerError> {
    match url {
        LedgerUrl::DynamoDb { table, region } => {
            halo_ledger::dynamodb::create_table(table, region).await
        }
        _ => Err(LedgerError::Url(format!(
            "{url} (only a DynamoDB table has to be made)"
        ))),
    }
}

/// 1 if the table cannot be made, 3 if it could not be told, 2 if it is no table.
pub fn exit_code(error: &LedgerError) -> u8 {
    match error {
        LedgerError::Url(_) => 2,
        LedgerError::Unavailable(_) => 3,
        _ => 1,
    }
}

/// Says what was done; the exit code.
///
/// # Errors
/// What the stream says.
pub fn tell(out: &mut impl Write, url: &LedgerUrl, report: &TableReport) -> io::Result<u8> {
    match (report.created, report.differences.is_empty()) {
        (true, true) => writeln!(
            out,
            "{url} is made: paid by request, point-in-time recovery and deletion protection on, no time to live"
        ),
        (true, false) => writeln!(out, "{url} is made, and not all of it is as it should be:"),
        (false, true) => writeln!(out, "{url} is there already, as it should be"),
        (false, false) => writeln!(out, "{url} is there already, and not as it should be:"),
    }?;
    for difference in &report.differences {
        writeln!(out, "  - {difference}")?;
    }
    Ok(u8::from(!report.differences.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        let url: LedgerUrl = "dynamodb:howdify-receipts@us-east-2".parse().unwrap();
        let report = |created, differences: &[&str]| TableReport {
            created,
            differences: differences.iter().map(|text| (*text).to_owned()).collect(),
        };
        for (report, code, text) in [
            (report(true, &[]), 0, "howdify-receipts@us-east-2 is made"),
            (report(false, &[]), 0, "as it should be\n"),
            (
                report(false, &["time to live is on"]),
                1,
                "not as it should be:\n  - time to live is on\n",
            ),
            (
                report(true, &["no recovery here"]),
                1,
                "not all of it is as it should be:\n  - no recovery here\n",
            ),
        ] {
            let mut out = Vec::new();
            assert_eq!(tell(&mut out, &url, &report).unwrap(), code);
            let said = String::from_utf8(out).unwrap();
            assert!(said.contains(text), "{said}");
        }
    }

    #[tokio::test]
    async fn only_a_table_is_made() {
        let url: LedgerUrl = "sqlite:ledger.db".parse().unwrap();
        let error = create(&url).await.unwrap_err().to_string();
        assert!(error.contains("only a DynamoDB table"), "{error}");
    }
}
