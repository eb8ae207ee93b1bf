//! Rules and dashboards arrive as they are in `files/`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::helm::{chart, charts, helm};

/// The files of a folder that end so, sorted by name, as Helm reads them.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(charts().join("halo/files").join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|own| own == end));
    files.sort();
    assert!(!files.is_empty(), "no {folder}");
    files
}

fn rendered(values: &str) -> Vec<Value> {
    let (halo, values) = (
        chart("halo"),
        chart(&format!("halo/ci/{values}-values.yaml")),
    );
    let text = helm(
        None,
        &[
            "template",
            "halo",
            &halo,
            "-n",
            "halo-system",
            "-f",
            &values,
            "--api-versions",
            "monitoring.coreos.com/v1",
        ],
    );
    serde_saphyr::from_multiple(&text.good()).unwrap()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn groups() -> Vec<Value> {
    let mut groups = Vec::new();
    for file in files("rules", "yaml") {
        let rules: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        groups.extend(rules["groups"].as_array().unwrap().clone());
    }
    groups
}

#[test]
fn rules_are_those_of_the_files() {
    let objects = rendered("monitoring");
    let rule = find(&objects, "PrometheusRule", "halo");
    assert_eq!(rule["spec"]["groups"], Value::Array(groups()));
}

#[test]
fn alerts_get_further_labels_and_recordings_do_not() {
    let objects = rendered("full");
    let rule = find(&objects, "PrometheusRule", "halo");
    let mut wanted = groups();
    let mut alerts = 0;
    for group in &mut wanted {
        for rule in group["rules"].as_array_mut().unwrap() {
            if rule["alert"].is_string() {
                rule["labels"]["team"] = json!("inference");
                alerts += 1;
            }
        }
    }
    assert!(alerts > 0);
    assert_eq!(rule["spec"]["groups"], Value::Array(wanted));
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
}

#[test]
fn dashboards_are_those_of_the_files() {
    let (plain, full) = (rendered("monitoring"), rendered("full"));
    for file in files("dashboards", "json") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let map = find(&plain, "ConfigMap", &format!("halo-dashboard-{name}"));
        let text = map["data"][format!("{name}.json")].as_str().unwrap();
        assert_eq!(
            text.trim_end(),
            fs::read_to_string(&file).unwrap().trim_end()
        );
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(map["metadata"]["namespace"], "halo-system");
        let map = find(&full, "ConfigMap", &format!("halo-dashboard-{name}"));
        assert_eq!(map["metadata"]["namespace"], "grafana");
    }
}
