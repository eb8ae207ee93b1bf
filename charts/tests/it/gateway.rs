//! The gateway's configuration file.

use std::collections::BTreeSet;

use halo_charts::values::Values;
use halo_gateway::config::{Config, Limits};
use halo_ledger::LedgerUrl;

use crate::rendered::{all, arguments};

#[test]
fn the_gateway_reads_what_the_chart_writes() {
    for rendered in all() {
        let map = rendered.find("ConfigMap", "halo-gateway").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, map["data"]["gateway.toml"].as_str().unwrap()).unwrap();
        let config =
            Config::load(&file).unwrap_or_else(|error| panic!("{}: {error}", rendered.name));
        assert!(config.cluster.is_some());
        assert!(matches!(
            config.ledger_url().unwrap(),
            LedgerUrl::DynamoDb { .. }
        ));
        assert_eq!(config.name, None, "the environment's POD_NAME");

        let container = rendered.container("halo-gateway");
        assert!(
            arguments(container).contains(&"--config=/etc/halo/gateway/gateway.toml".to_owned())
        );
        let ports: Vec<u64> = container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["containerPort"].as_u64())
            .collect();
        assert_eq!(
            ports,
            [
                u64::from(config.listen.port()),
                u64::from(config.admin_listen.port())
            ]
        );
        let mounts: Vec<&str> = container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["mountPath"].as_str())
            .collect();
        let mounted = |path: &std::path::Path| mounts.iter().any(|mount| path.starts_with(mount));
        assert!(mounted(config.ledger_spill.as_deref().unwrap()));
        match &config.tls {
            Some(tls) => assert!(mounted(&tls.certificate) && mounted(&tls.key)),
            None => assert!(config.insecure_plaintext),
        }
    }
}

#[test]
fn limits_arrive() {
    let full = all().into_iter().find(|one| one.name == "full").unwrap();
    let map = full.find("ConfigMap", "halo-gateway").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, map["data"]["gateway.toml"].as_str().unwrap()).unwrap();
    let wanted = Limits {
        sockets: 50_000,
        drain_ms: 120_000,
        hold_ms: 600_000,
        ..Limits::default()
    };
    assert_eq!(Config::load(&file).unwrap().limits, wanted);
}

#[test]
fn defaults_are_the_gateways() {
    assert_eq!(Values::default().gateway.config.limits, Limits::default());
}

#[test]
fn limits_that_the_gateway_needs_are_those_that_the_chart_asks_for() {
    let template = include_str!("../../halo/templates/_validate.tpl");
    let (_, rest) = template
        .split_once("{{- define \"halo.gateway.neededLimits\" -}}\n")
        .unwrap();
    let asked: BTreeSet<&str> = rest.lines().next().unwrap().split(' ').collect();

    let limits = serde_json::to_value(Limits::default()).unwrap();
    let names = limits.as_object().unwrap().keys();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let needed: BTreeSet<&str> = names
        .map(String::as_str)
        .filter(|name| {
            let text = format!(
                "listen = \"0.0.0.0:1\"\nadmin_listen = \"0.0.0.0:2\"\nledger = \"dynamodb:receipts@us-east-2\"\n\
                 insecure_plaintext = true\n[cluster]\n[limits]\n{name} = 0\n"
            );
            std::fs::write(&file, text).unwrap();
            Config::load(&file).is_err()
        })
        .collect();
    assert!(needed.len() >= 10 && needed.len() < limits.as_object().unwrap().len());
    assert_eq!(asked, needed);
}
