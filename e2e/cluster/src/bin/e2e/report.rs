//! What a run says: progress on standard error as it goes, a table on standard output at the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What one step found.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// Its number; 0 is what comes before the steps.
    pub number: u8,
    /// What it is about.
    pub title: &'static str,
    /// What held, in order.
    pub held: Vec<String>,
    /// Figures with their targets.
    pub figures: Vec<Figure>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// A figure that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// The most that it should be.
    pub target: Option<f64>,
}

impl Figure {
    fn verdict(&self) -> &'static str {
        match self.target {
            None => "",
            Some(target) if self.value <= target => "met",
            Some(_) => "MISSED",
        }
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step {
    report: StepReport,
    started: Instant,
}

impl Step {
    /// Begins a step.
    pub fn begin(number: u8, title: &'static str) -> Self {
        say(&format!("--- {number}. {title}"));
        Self {
            report: StepReport {
                number,
                title,
                held: Vec::new(),
                figures: Vec::new(),
                failure: None,
                took: Duration::ZERO,
            },
            started: Instant::now(),
        }
    }

    /// Something held.
    pub fn held(&mut self, what: impl Into<String>) {
        let what = what.into();
        say(&format!(
            "    {:>6.1} s  {what}",
            self.started.elapsed().as_secs_f64()
        ));
        self.report.held.push(what);
    }

    /// Something was measured.
    pub fn figure(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: Option<f64>,
    ) {
        let figure = Figure {
            name: name.into(),
            value,
            unit,
            target,
        };
        say(&format!("              {}", row(&figure)));
        self.report.figures.push(figure);
    }

    /// Ends the step.
    pub fn end(mut self, result: anyhow::Result<()>) -> StepReport {
        self.report.took = self.started.elapsed();
        if let Err(error) = result {
            let failure = format!("{error:#}");
            say(&format!("    FAILED: {failure}"));
            self.report.failure = Some(failure);
        }
        self.report
    }
}

fn row(figure: &Figure) -> String {
    let target = figure.target.map_or(String::new(), |target| {
        format!(
            "  (target <= {target} {}: {})",
            figure.unit,
            figure.verdict()
        )
    });
    format!(
        "{}: {:.3} {}{target}",
        figure.name, figure.value, figure.unit
    )
}

/// Progress, for whoever waits.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// The table at the end.
pub fn table(reports: &[StepReport]) -> String {
    let width = reports
        .iter()
        .map(|report| report.title.len())
        .max()
        .unwrap_or_default();
    let mut out = String::from("\n");
    for report in reports {
        let verdict = if report.failure.is_some() {
            "FAILED"
        } else {
            "passed"
        };
        out.push_str(&format!(
            "{:>2}  {:<width$}  {verdict}  {:>6.1} s  {} checks\n",
            report.number,
            report.title,
            report.took.as_secs_f64(),
            report.held.len(),
        ));
        for figure in &report.figures {
            out.push_str(&format!("      {}\n", row(figure)));
        }
        if let Some(failure) = &report.failure {
            out.push_str(&format!("      {}\n", failure.replace('\n', "\n      ")));
        }
    }
    let failed = reports.iter().filter(|report| report.failure.is_some());
    let total: Duration = reports.iter().map(|report| report.took).sum();
    out.push_str(&format!(
        "{} steps, {} failed, {:.1} s\n",
        reports.len(),
        failed.count(),
        total.as_secs_f64()
    ));
    out
}

/// The same as JSON.
pub fn as_json(reports: &[StepReport]) -> Value {
    let steps: Vec<Value> = reports
        .iter()
        .map(|report| {
            let figures: Vec<Value> = report
                .figures
                .iter()
                .map(|figure| {
                    json!({
                        "name": figure.name,
                        "value": figure.value,
                        "unit": figure.unit,
                        "target": figure.target,
                        "met": figure.target.map(|target| figure.value <= target),
                    })
                })
                .collect();
            json!({
                "step": report.number,
                "title": report.title,
                "passed": report.failure.is_none(),
                "failure": report.failure,
                "seconds": report.took.as_secs_f64(),
                "held": report.held,
                "figures": figures,
            })
        })
        .collect();
    json!({"steps": steps, "passed": reports.iter().all(|report| report.failure.is_none())})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StepReport {
        let mut step = Step::begin(1, "a question");
        step.held("it was answered");
        step.figure("wake", 7.5, "s", Some(8.0));
        step.figure("share", 0.2, "s", Some(0.15));
        step.figure("tokens", 24.0, "tokens", None);
        step.end(Err(anyhow::anyhow!("no\nseal")))
    }

    #[test]
    fn a_missed_target_is_printed_and_is_no_failure_by_itself() {
        let text = table(&[report()]);
        assert!(
            text.contains("wake: 7.500 s  (target <= 8 s: met)"),
            "{text}"
        );
        assert!(text.contains("(target <= 0.15 s: MISSED)"), "{text}");
        assert!(text.contains("1 steps, 1 failed"), "{text}");
        let mut passed = report();
        passed.failure = None;
        assert_eq!(as_json(&[passed])["passed"], true);
    }

    #[test]
    fn json_says_what_failed() {
        let value = as_json(&[report()]);
        assert_eq!(value["passed"], false);
        assert_eq!(value["steps"][0]["failure"], "no\nseal");
        assert_eq!(value["steps"][0]["figures"][1]["met"], false);
        assert_eq!(value["steps"][0]["figures"][2]["met"], Value::Null);
    }
}
