use super::*;

const GOOD: &str = r#"
        listen = "127.0.0.1:8443"
        admin_listen = "127.0.0.1:9443"
        ledger = "sqlite:ledger.db"
        [tls]
        certificate = "cert.pem"
        key = "key.pem"
        [limits]
        hold_ms = 1000
        [[tenants]]
        id = "acme"
        content = "omit"
        revoked_devices = ["lost-phone"]
        substrate = "ws://127.0.0.1:9000"
    "#;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

#[test]
fn a_file_is_read_with_its_defaults() {
    use crate::directory::Directory as _;
    let config = load(GOOD).unwrap();
    assert_eq!(config.limits.hold_ms, 1000);
    assert_eq!(config.limits.refused_messages, 16);
    let directory = config.directory().unwrap();
    let acme = "acme".parse().unwrap();
    let tenant = directory.tenant(&acme).unwrap();
    assert_eq!(tenant.content, ContentPolicy::Omit);
    assert!(tenant.revoked.contains(&"lost-phone".parse().unwrap()));
    assert_eq!(
        directory.substrate(&acme).unwrap().pods,
        [PodAddress("127.0.0.1:9000".to_owned())]
    );
    assert!(directory.tenant(&"other".parse().unwrap()).is_none());
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        ("hold_ms = 1000", "hold_s = 1", "hold_s"),
        ("\"acme\"", "\"Acme\"", "a tenant id"),
        (
            "ws://127.0.0.1:9000",
            "http://127.0.0.1:9000",
            "ws://host:port",
        ),
        ("ws://127.0.0.1:9000", "ws://127.0.0.1", "ws://host:port"),
        (
            "ws://127.0.0.1:9000",
            "ws://127.0.0.1:9000/x",
            "ws://host:port",
        ),
        ("sqlite:ledger.db", "postgres:x", "postgres:x"),
        ("hold_ms = 1000", "ping_ms = 0", "limits.ping_ms"),
        ("\"omit\"", "\"forget\"", "forget"),
        (
            "[tls]\n        certificate = \"cert.pem\"\n        key = \"key.pem\"",
            "",
            "[tls]",
        ),
    ];
    for (from, to, named) in table {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let twice = format!("{GOOD}\n[[tenants]]\nid = \"acme\"\n");
    assert!(matches!(load(&twice), Err(ConfigError::TenantTwice(_))));
    let none = GOOD.split("[[tenants]]").next().unwrap();
    assert!(matches!(load(none), Err(ConfigError::NoTenant)));
    assert!(matches!(
        Config::load(Path::new("no/such/file")),
        Err(ConfigError::Read { .. })
    ));
}

fn cluster(table: &str) -> String {
    let tenants = GOOD.find("[[tenants]]").unwrap();
    format!("{}{table}", &GOOD[..tenants])
}

#[test]
fn a_cluster_takes_the_place_of_tenants() {
    let config = load(&cluster("[cluster]\n")).unwrap();
    let table = config.cluster.as_ref().unwrap();
    let settings = table.settings("gateway-0", Some("halo-system")).unwrap();
    assert_eq!(settings.namespace, "halo-system");
    assert_eq!(settings.name, "gateway-0");
    assert_eq!(settings.keys_settle, Duration::from_secs(120));
    assert_eq!(settings.content, ContentPolicy::Sealed);
    for none in [None, Some("")] {
        assert!(matches!(
            table.settings("g", none),
            Err(ClusterError::Namespace)
        ));
    }
    let text = "[cluster]\nnamespace = \"own\"\ncontent = \"omit\"\nkeys_settle_ms = 5\n";
    let config = load(&cluster(text)).unwrap();
    let table = config.cluster.as_ref().unwrap();
    let settings = table.settings("g", Some("halo-system")).unwrap();
    assert_eq!(settings.namespace, "own");
    assert_eq!(settings.content, ContentPolicy::Omit);
    assert_eq!(settings.keys_settle, Duration::from_millis(5));

    let both = format!("{GOOD}\n[cluster]\n");
    assert!(matches!(load(&both), Err(ConfigError::TwoSources)));
    let unknown = load(&cluster("[cluster]\nkeys_settle_s = 5\n"));
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("keys_settle_s"), "{unknown}");
}

#[test]
fn a_gateway_is_named_by_its_file_its_pod_or_not_at_all() {
    let mut config = load(GOOD).unwrap();
    assert_eq!(config.gateway_name(Some("pod-x")), "pod-x");
    assert_eq!(config.gateway_name(Some("")), "gateway");
    assert_eq!(config.gateway_name(None), "gateway");
    config.name = Some("edge-1".to_owned());
    assert_eq!(config.gateway_name(Some("pod-x")), "edge-1");
    let nameless = format!("name = \"\"\n{GOOD}");
    assert!(matches!(load(&nameless), Err(ConfigError::Name)));
}

#[test]
fn the_schema_knows_every_key_and_no_other() {
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
    let table = &schema["$defs"]["ClusterTable"];
    assert_eq!(table["additionalProperties"], serde_json::json!(false));
    let content = &table["properties"]["content"]["enum"];
    assert_eq!(*content, serde_json::json!(["sealed", "omit"]));
    for key in [
        "listen",
        "ledger_spill",
        "name",
        "limits",
        "tenants",
        "cluster",
    ] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
    let hold = &schema["$defs"]["Limits"]["properties"]["hold_ms"];
    assert!(hold["description"].is_string(), "{hold}");
}
