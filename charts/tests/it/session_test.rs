//! The flags of `helm test`.

use clap::Parser as _;
use halo_cli::cli::{Cli, Command};

use crate::rendered::{all, arguments};

#[test]
fn the_command_takes_what_the_chart_gives_it() {
    let mut seen = 0;
    for rendered in all() {
        let Some(pod) = rendered.find("Pod", "halo-session-test") else {
            continue;
        };
        seen += 1;
        let container = &pod["spec"]["containers"][0];
        let flags = [vec!["halo".to_owned()], arguments(container)].concat();
        let Command::SessionTest(session) = Cli::try_parse_from(flags).unwrap().command else {
            panic!("another verb");
        };
        let mounts: Vec<&str> = container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["mountPath"].as_str())
            .collect();
        assert!(
            mounts
                .iter()
                .any(|mount| session.keyring.starts_with(mount))
        );
        assert!(mounts.iter().any(|mount| session.ca.starts_with(mount)));
        let keys = &pod["spec"]["volumes"][0]["secret"];
        assert_eq!(keys["secretName"], "halo-keys-acme-pharmacy");
        assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
        assert_eq!(session.question.is_some(), rendered.name == "full");
        assert!(
            session
                .gateway
                .starts_with("https://halo-gateway.halo-system.svc:")
        );
    }
    assert!(seen >= 2);
}
