//! The alerts, the dashboards, the pages and the runbooks against the list of metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use halo_telemetry::metrics::COMPONENTS;
use halo_telemetry::reference::catalogue::Catalogue;
use halo_telemetry::reference::dashboard::Dashboard;
use halo_telemetry::reference::rules::{Group, Rule};
use halo_telemetry::reference::{self, PANELS, RULES, rules};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn groups() -> Vec<Group> {
    rules::read(&root().join(RULES)).unwrap()
}

/// Alerts by name; the burn of a budget has several.
fn alerts(groups: &[Group]) -> BTreeMap<&str, Vec<&Rule>> {
    let mut alerts: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        if let Some(name) = &rule.alert {
            alerts.entry(name).or_default().push(rule);
        }
    }
    alerts
}

#[test]
fn what_is_generated_is_as_it_would_be_now() {
    for (path, text) in reference::files(&root()).unwrap() {
        assert!(
            read_to_string(root().join(&path)).is_ok_and(|known| known == text),
            "{} is stale: cargo run -p halo-telemetry --bin halo-metrics -- --write",
            path.display()
        );
    }
}

#[test]
fn every_expression_names_what_exists() {
    let groups = groups();
    let catalogue = Catalogue::new(&groups).unwrap();
    let mut wrong = Vec::new();
    let mut check = |place: &str, expression: &str| {
        if let Err(found) = catalogue.check(expression) {
            wrong.extend(found.iter().map(|one| format!("{place}: {one}")));
        }
    };
    for (name, rules) in alerts(&groups) {
        for rule in rules {
            check(name, &rule.expr);
        }
    }
    for board in reference::read::<Dashboard>(&root().join(PANELS)).unwrap() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            for query in &panel.queries {
                check(&panel.title, &query.expr);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_legend_names_labels_that_its_series_have() {
    let catalogue = Catalogue::new(&groups()).unwrap();
    for board in reference::read::<Dashboard>(&root().join(PANELS)).unwrap() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            for query in &panel.queries {
                let labels = catalogue.check(&query.expr).unwrap();
                for label in query.legend.split("{{").skip(1) {
                    let label = label.split("}}").next().unwrap();
                    assert!(labels.contains(label), "{}: {label}", panel.title);
                }
            }
        }
    }
}

#[test]
fn an_alert_says_how_urgent_it_is_and_what_to_do() {
    for (name, rules) in alerts(&groups()) {
        for rule in rules {
            let severity = rule.labels.get("severity").map(String::as_str);
            assert!(matches!(severity, Some("critical" | "warning")), "{name}");
            let said: Vec<_> = rule.annotations.keys().map(String::as_str).collect();
            assert_eq!(said, ["description", "runbook_url", "summary"], "{name}");
            let page = format!("docs/runbooks/{name}.md");
            assert_eq!(rule.annotations["runbook_url"], page);
            let text = read_to_string(root().join(&page)).unwrap_or_default();
            assert!(text.starts_with(&format!("# {name}\n")), "{page}");
            let mut rest = text.as_str();
            for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
                let heading = format!("\n## {part}\n");
                let (_, after) = rest.split_once(&heading).unwrap_or_else(|| {
                    panic!("{page} has no part {part}, or not in its place");
                });
                rest = after;
            }
        }
    }
}

#[test]
fn runbooks_belong_to_alerts_and_ask_what_exists() {
    let groups = groups();
    let (alerts, catalogue) = (alerts(&groups), Catalogue::new(&groups).unwrap());
    let mut asked = 0;
    for entry in std::fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let alert = path.file_stem().unwrap().to_str().unwrap();
        assert!(alerts.contains_key(alert), "{alert}");
        let text = read_to_string(&path).unwrap();
        for line in text.lines() {
            let query = line.strip_prefix("$ promtool query instant PROMETHEUS '");
            if let Some(query) = query.and_then(|query| query.strip_suffix('\'')) {
                catalogue.check(query).unwrap();
                asked += 1;
            }
        }
    }
    assert!(asked > 0);
}

#[test]
fn an_alert_has_a_case_that_fires_and_one_that_does_not() {
    let mut cases = String::new();
    for entry in std::fs::read_dir(root().join("telemetry/promtool")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "yaml") {
            cases.push_str(&read_to_string(path).unwrap());
        }
    }
    for name in alerts(&groups()).keys() {
        assert!(cases.contains(&format!("name: {name} fires")), "{name}");
        assert!(
            cases.contains(&format!("name: {name} does not fire")),
            "{name}"
        );
    }
}

#[test]
fn alerts_that_the_list_names_exist() {
    let groups = groups();
    let alerts = alerts(&groups);
    let kinds = [
        "HaloTenant",
        "HaloTenants",
        "HaloSubstrate",
        "HaloSubstrates",
    ];
    let mut named = BTreeSet::new();
    for metric in COMPONENTS.iter().flat_map(|component| component.metrics) {
        let words = metric.acts.split(|c: char| !c.is_ascii_alphanumeric());
        for word in words.filter(|word| word.starts_with("Halo") && !kinds.contains(word)) {
            assert!(alerts.contains_key(word), "{}: {word}", metric.name);
            named.insert(word);
        }
    }
    assert!(!named.is_empty());
}
