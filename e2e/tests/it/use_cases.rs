//! What people say in the use cases, as the demo model's corpus tells it, and what the phone decides about it.

use halo_emulators::tier1::classify::{Heard, Intent, by_rules};
use serde_json::Value;

const SCENARIOS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../substrate/demo-model/corpus/scenarios.jsonl"
);

fn scenarios() -> Vec<Value> {
    let text = std::fs::read_to_string(SCENARIOS).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn heard(scenario: &Value) -> Heard {
    let sensor = scenario["sensor"].as_str().unwrap();
    let words = scenario["transcript"].as_str().unwrap();
    Heard {
        segments: Some(words.to_owned())
            .filter(|words| !words.is_empty())
            .into_iter()
            .collect(),
        images: usize::from(sensor == "image"),
        gestures: usize::from(sensor == "gesture"),
        typed: false,
    }
}

#[test]
fn each_scenario_takes_the_route_that_its_use_case_needs() {
    let mut wrong = Vec::new();
    for scenario in scenarios() {
        let understood = by_rules(&heard(&scenario));
        let route = match understood.intent {
            Intent::Escalate => "escalate",
            Intent::Local(_) | Intent::Ambient => "local",
        };
        if scenario["route"]
            .as_str()
            .is_some_and(|expected| expected != route)
        {
            wrong.push(format!(
                "{}: {route} ({}): {}",
                scenario["id"], understood.reason, scenario["transcript"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_use_case_is_spoken() {
    let spoken: std::collections::BTreeSet<String> = scenarios()
        .iter()
        .map(|scenario| scenario["use_case"].as_str().unwrap().to_owned())
        .collect();
    for use_case in [
        "warehouse-buyer",
        "retail-lab-certificates",
        "compliance-audit",
        "field-service",
        "executive-briefing",
        "ambient-capture",
    ] {
        assert!(
            spoken.contains(use_case),
            "{use_case} is missing from the scenarios"
        );
    }
}
