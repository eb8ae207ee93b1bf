//! A report as a table for a person, or as JSON for a program.

use std::io::{self, Write};

use serde::Serialize;

use super::outcome::{Category, Check, Report, Status};

/// What a JSON report calls its format; it changes when a field does.
pub const API_VERSION: &str = "halo.howdify.io/check/v1";

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Lines under headings, for a person.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'r> {
    api_version: &'static str,
    success: bool,
    exit_code: u8,
    categories: &'r [Category],
}

/// Writes the report. Colours are for the stream to keep or to drop.
///
/// # Errors
/// What the stream says.
pub fn write(out: &mut impl Write, report: &Report, output: Output) -> io::Result<()> {
    match output {
        Output::Table => {
            for category in &report.categories {
                table(out, category)?;
            }
            writeln!(out, "{}", report.summary())
        }
        Output::Json => {
            let document = Document {
                api_version: API_VERSION,
                success: report.exit_code() == 0,
                exit_code: report.exit_code(),
                categories: &report.categories,
            };
            serde_json::to_writer_pretty(&mut *out, &document)?;
            writeln!(out)
        }
    }
}

const END: &str = "\x1b[0m";

/// The sign of a status and its colour.
fn sign(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Ok => ("√", "\x1b[32m"),
        Status::Warn => ("‼", "\x1b[33m"),
        Status::Fail => ("×", "\x1b[31m"),
        Status::Unknown => ("?", "\x1b[35m"),
        Status::Skipped => ("-", "\x1b[2m"),
    }
}

fn table(out: &mut impl Write, category: &Category) -> io::Result<()> {
    let name = category.category_name;
    writeln!(out, "{name}\n{}", "-".repeat(name.len()))?;
    for check in &category.checks {
        line(out, check)?;
    }
    writeln!(out)
}

fn line(out: &mut impl Write, check: &Check) -> io::Result<()> {
    let (sign, colour) = sign(check.result);
    writeln!(out, "{colour}{sign}{END} {}", plain(&check.description))?;
    if !check.detail.is_empty() {
        writeln!(out, "    {}", plain(&check.detail))?;
    }
    if !check.hint.is_empty() {
        writeln!(out, "    hint: {}", plain(&check.hint))?;
    }
    if !check.anchor.is_empty() {
        writeln!(out, "    see {}", check.anchor)?;
    }
    Ok(())
}

/// What others said must not steer the terminal.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            categories: vec![
                Category {
                    category_name: "aws-network",
                    checks: vec![
                        Check::ok("ssm answers", "10.0.3.7, private"),
                        Check::fail("ec2 answers", "10.0.3.9:443 does not\x1b[2J answer")
                            .hint("allow TCP 443", "docs/aws-vpc.md#security-groups"),
                    ],
                },
                Category {
                    category_name: "ledger-table",
                    checks: vec![
                        Check::skipped("table halo", ""),
                        Check::warn("w", ""),
                        Check::unknown("u", ""),
                    ],
                },
            ],
        }
    }

    #[test]
    fn a_table() {
        let mut out = anstream::StripStream::new(Vec::new());
        write(&mut out, &report(), Output::Table).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        let expected = "\
aws-network
-----------
√ ssm answers
    10.0.3.7, private
× ec2 answers
    10.0.3.9:443 does not [2J answer
    hint: allow TCP 443
    see docs/aws-vpc.md#security-groups

ledger-table
------------
- table halo
‼ w
? u

Status check results are × (1 check failed, 1 could not be told, 1 warning)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json() {
        let mut out = Vec::new();
        write(&mut out, &report(), Output::Json).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["apiVersion"], API_VERSION);
        assert_eq!(value["success"], false);
        assert_eq!(value["exitCode"], 1);
        let first = &value["categories"][0];
        assert_eq!(first["categoryName"], "aws-network");
        assert_eq!(first["checks"][0]["result"], "ok");
        assert_eq!(first["checks"][0].get("hint"), None);
        assert_eq!(
            first["checks"][1]["anchor"],
            "docs/aws-vpc.md#security-groups"
        );
    }
}
