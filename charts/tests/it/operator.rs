//! The operator's flags.

use std::collections::BTreeSet;

use clap::{CommandFactory as _, Parser};
use halo_charts::values::Values;
use halo_operator::config::RunArgs;

use crate::rendered::{all, arguments};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    run: RunArgs,
}

/// Flags that no value sets, and why.
const ELSEWHERE: [(&str, &str); 3] = [
    ("identity", "the pod's name, by the environment"),
    ("namespace", "the pod's namespace, by the environment"),
    (
        "clock-offset-seconds",
        "for tests, by extraArgs or extraEnv",
    ),
];

fn names() -> BTreeSet<String> {
    let command = Flags::command();
    let flags = command.get_arguments().filter_map(|one| one.get_long());
    flags.map(str::to_owned).collect()
}

/// The flags after `run`.
fn run_flags(arguments: &[String]) -> &[String] {
    let run = arguments.iter().position(|one| one == "run").unwrap();
    &arguments[run + 1..]
}

#[test]
fn the_operator_takes_what_the_chart_gives_it() {
    for rendered in all() {
        let arguments = arguments(rendered.container("halo-operator"));
        assert!(
            arguments[0].starts_with("--log-format="),
            "{}",
            rendered.name
        );
        let flags = [&["operator".to_owned()], run_flags(&arguments)].concat();
        let run = Flags::try_parse_from(flags)
            .unwrap_or_else(|error| panic!("{}: {error}", rendered.name))
            .run;
        let settings = run.settings(0).unwrap();
        assert_eq!(run.http().to_string(), "0.0.0.0:8080");
        assert_eq!(settings.lease.name, "halo-operator", "the role names it");
        let gateway = rendered.find("Deployment", "halo-gateway").unwrap();
        let labels = &gateway["spec"]["template"]["metadata"]["labels"];
        for (key, value) in &settings.gateway_pod_labels {
            assert_eq!(labels[key], *value, "substrates let in pods with {key}");
        }
        assert_eq!(settings.gateway_namespace, gateway["metadata"]["namespace"]);
        assert!(settings.substrate_pods.env.contains_key("AWS_REGION"));
    }
}

#[test]
fn every_flag_has_its_value() {
    let full = all().into_iter().find(|one| one.name == "full").unwrap();
    let arguments = arguments(full.container("halo-operator"));
    let set: BTreeSet<String> = run_flags(&arguments)
        .iter()
        .map(|flag| {
            flag.trim_start_matches("--")
                .split('=')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    let elsewhere: BTreeSet<String> = ELSEWHERE
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let names = names();
    assert!(elsewhere.is_subset(&names));
    let missing: Vec<&String> = names
        .difference(&set)
        .filter(|&name| !elsewhere.contains(name))
        .collect();
    assert!(missing.is_empty(), "the chart has no value for {missing:?}");
}

#[test]
fn defaults_are_the_operators() {
    let command = Flags::command();
    let default = |name: &str| {
        let flag = command
            .get_arguments()
            .find(|one| one.get_long() == Some(name))
            .unwrap();
        flag.get_default_values()[0].to_str().unwrap().to_owned()
    };
    let operator = Values::default().operator;
    assert_eq!(default("concurrency"), operator.concurrency.to_string());
    assert_eq!(
        default("launch-burst").parse::<f64>().unwrap(),
        operator.launch_burst
    );
    assert_eq!(
        default("launch-rate").parse::<f64>().unwrap(),
        operator.launch_rate
    );
    assert_eq!(default("lease-duration"), operator.lease_duration);
    assert_eq!(default("lease-renew"), operator.lease_renew);
}
