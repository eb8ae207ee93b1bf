//! The table: figure, measured, target, limit.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One figure.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// What came out, for a person.
    pub measured: String,
    /// The one number that is held against the target.
    pub value: f64,
    /// Its unit; empty for a count.
    pub unit: &'static str,
    /// The number may not be above this.
    pub target: Option<f64>,
    /// What this machine allows at best, or what else belongs beside the figure; measured in the same run.
    pub limit: String,
}

impl Row {
    /// Whether the target is missed.
    pub fn missed(&self) -> bool {
        self.target
            .is_some_and(|target| self.value.is_nan() || self.value > target)
    }

    fn target_text(&self) -> String {
        let Some(target) = self.target else {
            return "-".to_owned();
        };
        let word = if self.missed() { "MISSED" } else { "met" };
        let amount = format!("{target} {}", self.unit);
        format!("{} {word}", amount.trim_end())
    }
}

/// The rows as aligned text.
pub fn text(rows: &[Row]) -> String {
    let lines: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            [
                row.figure.clone(),
                row.measured.clone(),
                row.target_text(),
                row.limit.clone(),
            ]
        })
        .collect();
    let heads = ["figure", "measured", "target", "limit"].map(str::to_owned);
    let mut widths = [0; 4];
    for line in std::iter::once(&heads).chain(&lines) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut put = |line: &[String; 4]| {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", cells.join(" | ").trim_end());
    };
    put(&heads);
    put(&widths.map(|width| "-".repeat(width)));
    lines.iter().for_each(put);
    text
}

/// The rows and what the machine was like, as one object.
pub fn json(rows: &[Row], machine: Value) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "figure": row.figure, "measured": row.measured, "value": row.value, "unit": row.unit,
                "target": row.target, "missed": row.missed(), "limit": row.limit,
            })
        })
        .collect();
    json!({"machine": machine, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64, target: Option<f64>) -> Row {
        Row {
            figure: "wake".to_owned(),
            measured: format!("{value} ms"),
            value,
            unit: "ms",
            target,
            limit: "none".to_owned(),
        }
    }

    #[test]
    fn targets() {
        assert!(!row(50.0, Some(50.0)).missed());
        assert!(row(50.1, Some(50.0)).missed());
        assert!(row(f64::NAN, Some(50.0)).missed());
        assert!(!row(1e9, None).missed());
        let text = text(&[row(7.0, Some(50.0)), row(70.5, Some(0.5)), row(1.0, None)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "figure | measured | target        | limit");
        assert_eq!(lines[2], "wake   | 7 ms     | 50 ms met     | none");
        assert_eq!(lines[3], "wake   | 70.5 ms  | 0.5 ms MISSED | none");
        assert_eq!(lines[4], "wake   | 1 ms     | -             | none");
        let json = json(&[row(70.5, Some(0.5))], json!({"cores": 2}));
        assert_eq!(json["rows"][0]["missed"], true);
    }
}
