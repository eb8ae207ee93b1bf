//! An API server with a script.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::program::halo;
use crate::servers::{self, Asked, Authority, Reply};

/// What the server says.
#[derive(Clone)]
struct Script {
    minor: &'static str,
    revision: Option<&'static str>,
    available: i32,
    certificate: Option<String>,
    forbidden: bool,
    may: bool,
}

impl Script {
    fn good() -> Self {
        let authority = Authority::new();
        Self {
            minor: "35",
            revision: Some("999"),
            available: 2,
            certificate: Some(authority.leaf("gateway.example")),
            forbidden: false,
            may: true,
        }
    }

    fn answer(&self, asked: &Asked) -> Reply {
        let status = |code: u16, reason: &str, message: &str| {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message,
                "code": code});
            (code, body)
        };
        let path = asked.path.split('?').next().unwrap();
        let (code, body): (u16, Value) = if path == "/version" {
            let version = json!({"major": "1", "minor": self.minor, "gitVersion": "v1", "gitCommit": "", "gitTreeState": "",
                "buildDate": "",
                "goVersion": "", "compiler": "", "platform": ""});
            (200, version)
        } else if self.forbidden {
            status(403, "Forbidden", "somebody cannot get it")
        } else if let Some(name) =
            path.strip_prefix("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/")
        {
            match self.revision {
                None => status(404, "NotFound", "not found"),
                Some(revision) => {
                    let annotations = json!({"halo.howdify.io/schema-revision": revision});
                    (
                        200,
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                            "metadata": {"name": name, "annotations": annotations}}),
                    )
                }
            }
        } else if let Some(name) =
            path.strip_prefix("/apis/apps/v1/namespaces/halo-system/deployments/")
        {
            let volumes = json!([{"name": "config", "configMap": {"name": "c"}},
                {"name": "tls", "secret": {"secretName": "halo-gateway-tls"}}]);
            let spec = json!({"replicas": 2, "selector": {}, "template": {"spec": {"containers": [], "volumes": volumes}}});
            let replicas = json!({"observedGeneration": 3, "availableReplicas": self.available, "updatedReplicas": 2});
            (
                200,
                json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": name, "generation": 3},
                    "spec": spec, "status": replicas}),
            )
        } else if path == "/api/v1/namespaces/halo-system/secrets/halo-gateway-tls" {
            match &self.certificate {
                None => status(404, "NotFound", "not found"),
                Some(pem) => {
                    let data = json!({"tls.crt": base64(pem.as_bytes())});
                    (
                        200,
                        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "halo-gateway-tls"}, "data": data}),
                    )
                }
            }
        } else if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
            let mut review: Value = serde_json::from_str(&asked.body).unwrap();
            let attributes = &review["spec"]["resourceAttributes"];
            assert_eq!(attributes["verb"], "create");
            let cluster = matches!(
                attributes["group"].as_str(),
                Some("apiextensions.k8s.io" | "rbac.authorization.k8s.io")
            );
            assert_eq!(
                attributes.get("namespace").is_none(),
                cluster || attributes["resource"] == "namespaces",
                "{review}"
            );
            review["status"] = json!({"allowed": self.may});
            (201, review)
        } else {
            panic!("{} {path} was not expected", asked.method)
        };
        (code, "application/json", body.to_string())
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Runs the Kubernetes part against the script.
fn check(script: &Script, more: &[&str]) -> (i32, String) {
    let script = script.clone();
    let address = servers::http(None, Arc::new(move |asked| script.answer(asked)));
    at(&format!("http://{address}"), more)
}

fn at(url: &str, more: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}},
            {"name": "gone", "context": {"cluster": "x", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let fixed = [
        "check",
        "--only",
        "kubernetes",
        "--kubeconfig",
        config.to_str().unwrap(),
        "--timeout",
        "20s",
    ];
    let ran = halo(&[&fixed, more].concat(), &[]);
    assert!(!ran.out.is_empty(), "{}", ran.err);
    (ran.code, ran.out)
}

#[test]
fn a_cluster_with_halo() {
    let (code, out) = check(&Script::good(), &[]);
    let expected = "\
kubernetes-api
--------------
√ the API server answers
√ the API server is of version 1.33 or newer
    1.35

halo-definitions
----------------
√ halotenants.halo.howdify.io is defined, not older than this program
    revision 999
√ halosubstrates.halo.howdify.io is defined, not older than this program
    revision 999

halo-control-plane
------------------
√ halo-system/halo-operator is available
    2 of 2 replicas
√ halo-system/halo-gateway is available
    2 of 2 replicas
√ the gateway's certificate is valid (Secret halo-gateway-tls)
    for gateway.example

Status check results are √
";
    assert_eq!((code, out.as_str()), (0, expected));
}

#[test]
fn what_is_wrong_with_a_cluster() {
    let good = Script::good();
    for (script, code, line) in [
        (
            Script {
                minor: "32",
                ..good.clone()
            },
            1,
            "× the API server is of version",
        ),
        (
            Script {
                revision: Some("0"),
                ..good.clone()
            },
            1,
            "× halotenants.halo.howdify.io is defined",
        ),
        (
            Script {
                revision: None,
                ..good.clone()
            },
            1,
            "it is missing",
        ),
        (
            Script {
                available: 0,
                ..good.clone()
            },
            1,
            "× halo-system/halo-gateway is available",
        ),
        (
            Script {
                available: 1,
                ..good.clone()
            },
            0,
            "‼ halo-system/halo-gateway is available",
        ),
        (
            Script {
                certificate: None,
                ..good.clone()
            },
            1,
            "there is no Secret halo-gateway-tls",
        ),
        (
            Script {
                certificate: Some("none".to_owned()),
                ..good.clone()
            },
            1,
            "it holds no certificate",
        ),
        (
            Script {
                forbidden: true,
                ..good.clone()
            },
            3,
            "? halo-system/halo-gateway is available\n    somebody cannot get it",
        ),
    ] {
        let (found, out) = check(&script, &[]);
        assert_eq!(found, code, "{line}: {out}");
        assert!(out.contains(line), "{line}: {out}");
    }
}

#[test]
fn before_the_charts() {
    let new = Script {
        revision: None,
        ..Script::good()
    };
    let (code, out) = check(&new, &["--pre"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("√ you may create customresourcedefinitions"),
        "{out}"
    );
    assert!(!out.contains("halo-control-plane"), "{out}");
    let (code, out) = check(&Script { may: false, ..new }, &["--pre"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("× you may create clusterroles"), "{out}");
}

#[test]
fn no_cluster() {
    let (code, out) = at(&format!("http://{}", servers::closed()), &[]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("× the API server answers"), "{out}");
    let (code, out) = at("http://127.0.0.1:1", &["--context", "gone"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("× a cluster is configured"), "{out}");
}
