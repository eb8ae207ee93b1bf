//! The table: figure, measured, target, limit.

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

/// The rows as aligned text. A cell may have several lines.
pub fn text(rows: &[Row]) -> String {
    let heads = ["figure", "measured", "target", "limit"].map(|head| vec![head.to_owned()]);
    let mut blocks = vec![heads];
    blocks.extend(rows.iter().map(|row| {
        [
            row.figure.clone(),
            row.measured.clone(),
            row.target_text(),
            row.limit.clone(),
        ]
        .map(|cell| cell.lines().map(str::to_owned).collect())
    }));
    let mut widths = [0; 4];
    for block in &blocks {
        for (width, cell) in widths.iter_mut().zip(block) {
            let widest = cell.iter().map(|line| line.chars().count()).max();
            *width = (*width).max(widest.unwrap_or_default());
        }
    }
    let rule = widths.map(|width| "-".repeat(width)).join("-+-");
    let mut text = String::new();
    for (number, block) in blocks.iter().enumerate() {
        let height = block.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            let cells = block.iter().zip(widths).map(|(cell, width)| {
                let cell = cell.get(line).map_or("", String::as_str);
                format!("{cell:<width$}")
            });
            let cells: Vec<String> = cells.collect();
            text.push_str(cells.join(" | ").trim_end());
            text.push('\n');
        }
        if number == 0 {
            text.push_str(&rule);
            text.push('\n');
        }
    }
    text
}

/// The rows and what the machine was like, as one object.
pub fn json(rows: &[Row], machine: Value) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "figure": line(&row.figure), "measured": line(&row.measured), "value": row.value, "unit": row.unit,
                "target": row.target, "missed": row.missed(), "limit": line(&row.limit),
            })
        })
        .collect();
    json!({"machine": machine, "rows": rows})
}

/// A cell as one line.
fn line(cell: &str) -> String {
    cell.replace('\n', " ")
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
        let mut tall = row(70.5, Some(0.5));
        tall.limit = "one\nof two".to_owned();
        let text = text(&[row(7.0, Some(50.0)), tall, row(1.0, None)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "figure | measured | target        | limit");
        assert_eq!(lines[1], "-------+----------+---------------+-------");
        assert_eq!(lines[2], "wake   | 7 ms     | 50 ms met     | none");
        assert_eq!(lines[3], "wake   | 70.5 ms  | 0.5 ms MISSED | one");
        assert_eq!(lines[4], "       |          |               | of two");
        assert_eq!(lines[5], "wake   | 1 ms     | -             | none");
        let json = json(&[row(70.5, Some(0.5))], json!({"cores": 2}));
        assert_eq!(json["rows"][0]["missed"], true);
    }
}
