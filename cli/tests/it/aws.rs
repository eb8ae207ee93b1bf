//! Credentials and permissions, against the AWS emulator and a small STS.

use std::sync::Arc;

use halo_aws_emulator::{Config, Credentials, Emulator, ParameterKind};
use serde_json::Value;

use crate::program::{Ran, halo};
use crate::servers::{self, Authority, Handler};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const ROOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

fn emulator() -> Emulator {
    let emulator = Emulator::start(Config {
        credentials: Some(Credentials {
            id: KEY.to_owned(),
            secret: SECRET.to_owned(),
        }),
        ..Config::default()
    });
    let emulator = emulator.unwrap();
    emulator.put_parameter("/halo/root", ROOT, ParameterKind::SecureString);
    emulator
}

/// An STS that knows everybody.
fn sts() -> String {
    let handler: Handler = Arc::new(|asked| {
        assert!(
            asked.body.contains("Action=GetCallerIdentity"),
            "{}",
            asked.body
        );
        assert!(asked.header("authorization").contains("/sts/aws4_request"));
        let body = "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::111122223333:assumed-role/halo/x</Arn>\
                    <UserId>A</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
        (200, "text/xml", body.to_owned())
    });
    format!("http://{}", servers::http(None, handler))
}

struct World {
    emulator: Emulator,
    sts: String,
    secrets: String,
}

impl World {
    fn new() -> Self {
        Self {
            emulator: emulator(),
            sts: sts(),
            secrets: format!("http://{}", servers::closed()),
        }
    }

    /// `halo check --only aws`, with these variables before all others.
    fn check(&self, more: &[&str], variables: &[(&str, &str)]) -> Ran {
        let (url, region) = (self.emulator.url(), self.emulator.region());
        let base = [
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", &region),
            ("AWS_ENDPOINT_URL_STS", &self.sts),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &self.secrets),
            ("HALO_EC2_ENDPOINT", &url),
            ("AWS_ENDPOINT_URL_SSM", &url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let all: Vec<(&str, &str)> = base.into_iter().chain(variables.iter().copied()).collect();
        halo(
            &[&["check", "--only", "aws", "--timeout", "20s"], more].concat(),
            &all,
        )
    }

    fn json(&self, more: &[&str], variables: &[(&str, &str)]) -> (i32, Value) {
        let ran = self.check(&[&["-o", "json"], more].concat(), variables);
        (
            ran.code,
            serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err)),
        )
    }
}

/// A check of a report: result, detail and hint.
fn line(report: &Value, description: &str) -> (String, String, String) {
    let categories = report["categories"].as_array().unwrap();
    let mut checks = categories
        .iter()
        .flat_map(|category| category["checks"].as_array().unwrap());
    let found = checks.find(|check| check["description"].as_str().unwrap().contains(description));
    let found = found.unwrap_or_else(|| panic!("no {description} in {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("result"), text("detail"), text("hint"))
}

#[test]
fn what_is_as_it_should_be() {
    let world = World::new();
    let ran = world.check(&[], &[]);
    let port = |url: &str| url.rsplit(':').next().unwrap().to_owned();
    // Ports are other ones each time.
    let text = ran
        .out
        .replace(&port(&world.emulator.url()), "AWS")
        .replace(&port(&world.sts), "STS")
        .replace(&port(&world.secrets), "NONE");
    let expected = "\
aws-network
-----------
√ sts answers at 127.0.0.1
    127.0.0.1:STS (plain HTTP, from AWS_ENDPOINT_URL_STS)
√ ssm answers at 127.0.0.1
    127.0.0.1:AWS (plain HTTP, from AWS_ENDPOINT_URL_SSM)
√ ec2 answers at 127.0.0.1
    127.0.0.1:AWS (plain HTTP, from HALO_EC2_ENDPOINT)
- dynamodb is not asked
    no --ledger dynamodb:TABLE@REGION was given
- secretsmanager is not needed
    HALO keeps its root secret in SSM; it does not answer from here: 127.0.0.1:NONE refuses connections

aws-identity
------------
√ AWS credentials are found
    from keys in the environment
√ AWS knows who this is
    arn:aws:sts::111122223333:assumed-role/halo/x in account 111122223333

aws-permissions
---------------
√ ssm:GetParameter on /halo/root is permitted
√ /halo/root holds a root secret
    a SecureString of 48 bytes, version 1
√ ec2:DescribeInstances is permitted

Status check results are √
";
    assert_eq!(text, expected, "{}", ran.err);
    assert_eq!(ran.code, 0);
    assert!(!ran.out.contains(ROOT) && !ran.err.contains(ROOT));
    // Everything was asked as a question: nothing exists that did not before.
    assert!(world.emulator.state().instances.is_empty());
}

#[test]
fn what_iam_denies_is_named() {
    let world = World::new();
    world
        .emulator
        .deny(["ec2:DescribeInstances", "ssm:GetParameter"]);
    let (code, report) = world.json(&[], &[]);
    assert_eq!((code, &report["success"]), (1, &Value::Bool(false)));
    for (what, action) in [
        ("ssm:GetParameter on", "ssm:GetParameter on /halo/root"),
        ("ec2:DescribeInstances is", "ec2:DescribeInstances"),
    ] {
        let (result, _, hint) = line(&report, what);
        assert_eq!(result, "fail", "{report:#}");
        assert_eq!(
            hint,
            format!("allow {action} to arn:aws:sts::111122223333:assumed-role/halo/x")
        );
    }
    world.emulator.deny(["kms:Decrypt"]);
    let (code, report) = world.json(&[], &[]);
    let (result, _, hint) = line(&report, "ssm:GetParameter on");
    assert_eq!((code, result.as_str()), (1, "fail"));
    assert!(hint.contains("kms:Decrypt"), "{report:#}");
}

#[test]
fn roots_that_are_none() {
    let world = World::new();
    world
        .emulator
        .put_parameter("/short", "too short", ParameterKind::SecureString);
    world
        .emulator
        .put_parameter("/open", ROOT, ParameterKind::String);
    for (name, description, detail) in [
        (
            "/missing",
            "ssm:GetParameter on /missing",
            "there is no parameter /missing",
        ),
        ("/short", "/short holds", "it has 9 bytes"),
        ("/open", "/open holds", "its value lies open"),
    ] {
        let (code, report) = world.json(&["--root-parameter", name], &[]);
        let (result, said, hint) = line(&report, description);
        assert_eq!((code, result.as_str()), (1, "fail"), "{report:#}");
        assert!(said.contains(detail), "{said}");
        assert!(!hint.is_empty());
    }
}

#[test]
fn credentials_that_are_missing_or_wrong() {
    let world = World::new();
    let nothing = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("HOME", "/nonexistent"),
    ];
    let (code, report) = world.json(&[], &nothing);
    let (result, _, hint) = line(&report, "credentials are found");
    assert_eq!((code, result.as_str()), (1, "fail"));
    assert!(hint.contains("eks.amazonaws.com/role-arn"), "{hint}");

    let (code, report) = world.json(&[], &[("AWS_SECRET_ACCESS_KEY", "another")]);
    assert_eq!(code, 1);
    let (result, _, hint) = line(&report, "ec2:DescribeInstances");
    assert_eq!(result, "fail", "{report:#}");
    assert!(hint.contains("credentials themselves"), "{report:#}");
}

#[test]
fn a_component_is_asked_about_its_own() {
    let world = World::new();
    world.emulator.deny(["ec2:*", "ssm:*"]);
    let (code, report) = world.json(&["--component", "gateway"], &[]);
    assert_eq!(code, 0, "{report:#}");
    assert!(!report.to_string().contains("ssm:GetParameter"));
    let (code, _) = world.json(&["--component", "operator"], &[]);
    assert_eq!(code, 1);
}

#[test]
fn what_could_not_be_told_is_no_failure() {
    let world = World::new();
    let busy: Handler = Arc::new(|_| {
        (
            503,
            "application/json",
            r#"{"__type":"ServiceUnavailable","message":"later"}"#.to_owned(),
        )
    });
    let busy = format!("http://{}", servers::http(None, busy));
    let (code, report) = world.json(&[], &[("AWS_ENDPOINT_URL_SSM", &busy)]);
    assert_eq!(
        (code, line(&report, "ssm:GetParameter").0.as_str()),
        (3, "unknown"),
        "{report:#}"
    );
    let proxy: Handler = Arc::new(|_| (200, "text/html", "<html>sign in</html>".to_owned()));
    let proxy = format!("http://{}", servers::http(None, proxy));
    let (code, report) = world.json(&[], &[("AWS_ENDPOINT_URL_SSM", &proxy)]);
    let (result, detail, _) = line(&report, "ssm:GetParameter");
    assert_eq!((code, result.as_str()), (1, "fail"));
    assert!(detail.contains("sign in"), "{detail}");
}

/// TLS as the system trusts it, with the system's roots replaced.
#[test]
fn an_endpoint_of_another_name_or_authority() {
    let world = World::new();
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &authority.pem).unwrap();
    let empty: Handler = Arc::new(|_| (200, "application/json", "{}".to_owned()));
    let start = |tls| {
        format!(
            "https://localhost:{}",
            servers::http(Some(tls), empty.clone()).port()
        )
    };
    for (url, detail) in [
        (
            start(authority.server("ec2.us-east-2.amazonaws.com", |_| {})),
            "is for ec2.us-east-2.amazonaws.com",
        ),
        (start(other.server("localhost", |_| {})), "signed by nobody"),
    ] {
        let variables = [
            ("AWS_ENDPOINT_URL_SSM", url.as_str()),
            ("SSL_CERT_FILE", roots.to_str().unwrap()),
        ];
        let (code, report) = world.json(&[], &variables);
        let (result, said, _) = line(&report, "ssm answers");
        assert_eq!((code, result.as_str()), (1, "fail"));
        assert!(said.contains(detail), "{said}");
        assert_eq!(line(&report, "ssm:GetParameter").0, "skipped");
    }
}

#[test]
fn it_waits_until_it_is_so() {
    let world = World::new();
    world.emulator.remove_parameter("/halo/root");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.json(&["--wait", "2m"], &[]));
        // It was seen missing once; then it is there.
        let seen = || world.emulator.calls_of("GetParameter").len();
        while seen() == 0 && !waiting.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        world
            .emulator
            .put_parameter("/halo/root", ROOT, ParameterKind::SecureString);
        let (code, report) = waiting.join().unwrap();
        assert_eq!(code, 0, "{report:#}");
        assert!(seen() > 1);
    });
}
