//! Every way to fail, and what it points to.

use super::*;
use crate::check::outcome::Status;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(service: Service, told: Option<&str>) -> Endpoint {
    Endpoint::find(service, "us-east-2", |name| {
        told.filter(|_| name.starts_with("AWS_ENDPOINT_URL_"))
            .map(ToOwned::to_owned)
    })
    .unwrap()
}

fn reached(address: &str, tcp: Tcp, tls: Option<Tls>) -> Reached {
    Reached {
        dns: Dns::Addresses(vec![ip(address)]),
        tcp: vec![(ip(address), tcp)],
        tls,
    }
}

const PRIVATE: &str = "10.0.3.7";
const PUBLIC: &str = "52.95.1.2";

#[test]
fn what_each_failure_points_to() {
    use Service::{DynamoDb, Ec2, Ssm};
    let told = Some("https://vpce-1.ssm.us-east-2.vpce.amazonaws.com");
    let no_name = Reached {
        dns: Dns::NoSuchName,
        tcp: vec![],
        tls: None,
    };
    let no_dns = Reached {
        dns: Dns::NoAnswer("timed out".to_owned()),
        tcp: vec![],
        tls: None,
    };
    let connected = |tls| reached(PRIVATE, Tcp::Connected, Some(tls));
    // Service, overridden, what was found; status, what the detail says, what the hint names, where it leads.
    type Row<'a> = (
        Service,
        Option<&'a str>,
        Reached,
        Status,
        &'a str,
        &'a str,
        &'a str,
    );
    let table: Vec<Row<'_>> = vec![
        (
            Ssm,
            None,
            connected(Tls::Fine),
            Status::Ok,
            "10.0.3.7:443 (private)",
            "",
            "",
        ),
        (
            Ssm,
            told,
            connected(Tls::Fine),
            Status::Ok,
            "(private, from AWS_ENDPOINT_URL_SSM)",
            "",
            "",
        ),
        (
            Ssm,
            Some("http://127.0.0.1:9"),
            reached("127.0.0.1", Tcp::Connected, Some(Tls::NotSpoken)),
            Status::Ok,
            "plain HTTP",
            "",
            "",
        ),
        (
            DynamoDb,
            None,
            reached(PUBLIC, Tcp::Connected, Some(Tls::Fine)),
            Status::Ok,
            "(public)",
            "",
            "",
        ),
        (
            Ssm,
            None,
            no_name.clone(),
            Status::Fail,
            "knows no ssm.us-east-2",
            "region us-east-2",
            DNS,
        ),
        (
            Ssm,
            told,
            no_name,
            Status::Fail,
            "knows no vpce-1",
            "AWS_ENDPOINT_URL_SSM",
            DNS,
        ),
        (Ssm, None, no_dns, Status::Fail, "timed out", "CoreDNS", DNS),
        (
            Ssm,
            None,
            reached(PRIVATE, Tcp::TimedOut, None),
            Status::Fail,
            "10.0.3.7:443 does not answer",
            "security group of the VPC endpoint com.amazonaws.us-east-2.ssm must let TCP 443 in",
            GROUPS,
        ),
        (
            Ec2,
            None,
            reached(PUBLIC, Tcp::TimedOut, None),
            Status::Fail,
            "does not answer",
            "interface VPC endpoint com.amazonaws.us-east-2.ec2 with private DNS",
            ENDPOINTS,
        ),
        (
            DynamoDb,
            None,
            reached(PUBLIC, Tcp::TimedOut, None),
            Status::Fail,
            "does not answer",
            "gateway endpoint com.amazonaws.us-east-2.dynamodb with the route table",
            ROUTES,
        ),
        (
            DynamoDb,
            None,
            reached(PUBLIC, Tcp::NoRoute("network unreachable".into()), None),
            Status::Fail,
            "no way to 52.95.1.2:443",
            "route table of this subnet",
            ROUTES,
        ),
        (
            DynamoDb,
            None,
            reached(PRIVATE, Tcp::TimedOut, None),
            Status::Fail,
            "does not answer",
            "security group of the VPC endpoint com.amazonaws.us-east-2.dynamodb",
            GROUPS,
        ),
        (
            Ec2,
            None,
            reached(PUBLIC, Tcp::NoRoute("x".into()), None),
            Status::Fail,
            "no way",
            "interface VPC endpoint",
            ROUTES,
        ),
        (
            Ec2,
            None,
            reached(PRIVATE, Tcp::NoRoute("x".into()), None),
            Status::Fail,
            "no way",
            "network ACL",
            ROUTES,
        ),
        (
            Ssm,
            None,
            reached(PRIVATE, Tcp::Refused, None),
            Status::Fail,
            "refuses",
            "a firewall",
            GROUPS,
        ),
        (
            Ssm,
            told,
            reached(PRIVATE, Tcp::Refused, None),
            Status::Fail,
            "refuses",
            "is AWS_ENDPOINT_URL_SSM right?",
            GROUPS,
        ),
        (
            Ssm,
            None,
            connected(Tls::WrongName(vec!["ec2.us-east-2.amazonaws.com".into()])),
            Status::Fail,
            "is for ec2.us-east-2",
            "wrong VPC endpoint",
            DNS,
        ),
        (
            Ssm,
            told,
            connected(Tls::WrongName(vec![])),
            Status::Fail,
            "is for no name",
            "AWS_ENDPOINT_URL_SSM leads to another",
            DNS,
        ),
        (
            Ssm,
            None,
            connected(Tls::UnknownIssuer),
            Status::Fail,
            "signed by nobody",
            "SSL_CERT_FILE",
            PROXIES,
        ),
        (
            Ssm,
            None,
            connected(Tls::WrongTime("expired".into())),
            Status::Fail,
            "expired",
            "clock",
            PROXIES,
        ),
        (
            Ssm,
            None,
            connected(Tls::NoRoots("none".into())),
            Status::Fail,
            "no root certificates",
            "ca-certificates",
            PROXIES,
        ),
        (
            Ssm,
            None,
            connected(Tls::Cut("closed".into())),
            Status::Fail,
            "silent",
            "MTU",
            PROXIES,
        ),
        (
            Ssm,
            None,
            connected(Tls::Other("not TLS".into())),
            Status::Fail,
            "not TLS",
            "no AWS endpoint",
            PROXIES,
        ),
        (
            Ssm,
            None,
            reached(PRIVATE, Tcp::Connected, None),
            Status::Unknown,
            "nothing was sent",
            "",
            "",
        ),
    ];
    for (service, told, found, status, detail, hint, anchor) in table {
        let check = judge(&endpoint(service, told), &found, Setting::default());
        assert_eq!(check.result, status, "{found:?}");
        assert!(check.detail.contains(detail), "{found:?}: {}", check.detail);
        assert!(check.hint.contains(hint), "{found:?}: {}", check.hint);
        assert_eq!(
            check.hint.is_empty(),
            hint.is_empty(),
            "{found:?}: {}",
            check.hint
        );
        assert_eq!(check.anchor, anchor, "{found:?}");
        assert_eq!(found.is_usable(), status == Status::Ok, "{found:?}");
    }
}

#[test]
fn one_zone_that_does_not_answer_is_a_warning() {
    let found = Reached {
        dns: Dns::Addresses(vec![ip("10.0.1.1"), ip("10.0.2.1")]),
        tcp: vec![
            (ip("10.0.1.1"), Tcp::Connected),
            (ip("10.0.2.1"), Tcp::TimedOut),
        ],
        tls: Some(Tls::Fine),
    };
    let check = judge(&endpoint(Service::Ec2, None), &found, Setting::default());
    assert_eq!(check.result, Status::Warn);
    assert!(
        check
            .detail
            .contains("1 of 2 addresses do not accept connections: 10.0.2.1"),
        "{}",
        check.detail
    );
}

#[test]
fn an_isolated_vpc_has_no_public_addresses_but_those_of_gateway_endpoints() {
    let found = reached(PUBLIC, Tcp::Connected, Some(Tls::Fine));
    let isolated = Setting { isolated: true };
    let check = judge(&endpoint(Service::Ssm, None), &found, isolated);
    assert_eq!((check.result, check.anchor), (Status::Warn, ENDPOINTS));
    assert!(
        check.hint.contains("com.amazonaws.us-east-2.ssm"),
        "{}",
        check.hint
    );
    let check = judge(&endpoint(Service::DynamoDb, None), &found, isolated);
    assert_eq!(check.result, Status::Ok);
}

#[test]
fn a_service_that_is_not_needed_never_fails() {
    let secrets = endpoint(Service::SecretsManager, None);
    let good = unused(
        &secrets,
        &reached(PRIVATE, Tcp::Connected, Some(Tls::Fine)),
        Setting::default(),
    );
    assert_eq!(
        (good.result, good.detail.as_str()),
        (
            Status::Skipped,
            "HALO keeps its root secret in SSM; it answers"
        )
    );
    let bad = unused(
        &secrets,
        &reached(PRIVATE, Tcp::TimedOut, None),
        Setting::default(),
    );
    assert_eq!(bad.result, Status::Skipped);
    assert!(
        bad.detail.ends_with("10.0.3.7:443 does not answer"),
        "{}",
        bad.detail
    );
    assert!(bad.hint.is_empty());
}

#[test]
fn private_addresses() {
    for (address, private) in [
        ("10.1.2.3", true),
        ("172.31.0.1", true),
        ("192.168.0.1", true),
        ("100.64.0.1", true),
        ("100.127.255.255", true),
        ("100.128.0.1", false),
        ("169.254.170.23", true),
        ("127.0.0.1", true),
        ("172.32.0.1", false),
        ("52.95.1.2", false),
        ("fd00:ec2::23", true),
        ("fe80::1", true),
        ("::1", true),
        ("2600:1f16::1", false),
    ] {
        assert_eq!(is_private(&ip(address)), private, "{address}");
    }
}
