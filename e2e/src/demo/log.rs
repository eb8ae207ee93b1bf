//! What the demo prints, and what it reads from the events of the programs.

use std::io::Write as _;
use std::process::{ExitStatus, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use halo_receipts::time::Timestamp;
use serde_json::Value;

use super::DemoError;

/// The time as receipts write it.
pub(super) fn clock() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let micros = u64::try_from(now.as_micros()).ok();
    let time = micros.and_then(Timestamp::from_micros);
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// Prints a line. Whoever reads the log may stop reading; the demo goes on to its end.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints one line of a step: its title in a fixed width, then what it found.
pub(super) fn step(number: &str, title: &str, found: &str) {
    line(&format!("[{number}] {title:<40} {found}"));
}

/// Prints a further line of the step above.
pub(super) fn detail(text: &str) {
    line(&format!("      {text}"));
}

pub(super) fn line_with<'a>(report: &'a str, words: &str) -> Option<&'a str> {
    report.lines().find(|line| line.contains(words))
}

pub(super) fn text<'a>(event: &'a Value, field: &'static str) -> Result<&'a str, DemoError> {
    event[field].as_str().ok_or_else(|| DemoError::Event {
        event: event.to_string(),
        field,
    })
}

/// A field of an event, as a string or a number, parsed.
pub(super) fn parsed<T: std::str::FromStr>(
    event: &Value,
    field: &'static str,
) -> Result<T, DemoError> {
    let value = match &event[field] {
        Value::String(text) => text.parse().ok(),
        other => other.to_string().parse().ok(),
    };
    value.ok_or_else(|| DemoError::Event {
        event: event.to_string(),
        field,
    })
}

/// The standard output of a program that must have succeeded.
pub(super) fn succeeded(step: &'static str, output: Output) -> Result<Vec<u8>, DemoError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(DemoError::Step {
        step,
        what: format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    })
}

pub(super) fn succeeded_status(step: &'static str, status: ExitStatus) -> Result<(), DemoError> {
    if status.success() {
        return Ok(());
    }
    Err(DemoError::Step {
        step,
        what: format!("ended with {status}; its log says why"),
    })
}
