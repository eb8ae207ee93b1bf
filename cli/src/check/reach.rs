//! What it means when a service cannot be reached, from how it fails. Pure.

use std::net::IpAddr;

use super::endpoint::{Endpoint, Service};
use super::outcome::Check;

/// What DNS said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// These addresses; at least one.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// Nothing that decides.
    NoAnswer(String),
}

/// What came of connecting to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcp {
    /// It accepts.
    Connected,
    /// Nothing came back.
    TimedOut,
    /// Somebody is there and refuses.
    Refused,
    /// There is no way to it.
    NoRoute(String),
}

/// What came of TLS on a connection that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// It holds.
    Fine,
    /// The endpoint is plain HTTP.
    NotSpoken,
    /// The certificate is for other names.
    WrongName(Vec<String>),
    /// Nobody whom this machine trusts signed it.
    UnknownIssuer,
    /// Its time is over, or has not begun.
    WrongTime(String),
    /// This machine trusts nobody.
    NoRoots(String),
    /// The connection ended or stayed silent within the handshake.
    Cut(String),
    /// The other side speaks no TLS, or not this one.
    Other(String),
}

/// Everything that was tried of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its name.
    pub dns: Dns,
    /// Each address.
    pub tcp: Vec<(IpAddr, Tcp)>,
    /// TLS with the first address that accepted; `None` if none did.
    pub tls: Option<Tls>,
}

impl Reached {
    /// Whether requests can be sent.
    pub fn is_usable(&self) -> bool {
        matches!(self.tls, Some(Tls::Fine | Tls::NotSpoken))
    }
}

const ENDPOINTS: &str = "docs/aws-vpc.md#vpc-endpoints";
const GROUPS: &str = "docs/aws-vpc.md#security-groups";
const DNS: &str = "docs/aws-vpc.md#private-dns";
const ROUTES: &str = "docs/aws-vpc.md#route-tables";
const PROXIES: &str = "docs/aws-vpc.md#tls-in-between";

/// Whether an address belongs to a network of one's own: private, shared (100.64.0.0/10), unique local, link-local or loopback.
pub fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// What is known of the network besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setting {
    /// The VPC has no way out: whatever has a public address cannot be meant.
    pub isolated: bool,
}

/// Judges one endpoint: reachable or not, what that points to and where to mend it.
pub fn judge(endpoint: &Endpoint, reached: &Reached, setting: Setting) -> Check {
    let says = format!("{} answers at {}", endpoint.service.name(), endpoint.host());
    let port = endpoint.port();
    let found = match &reached.dns {
        Dns::Addresses(found) => found,
        Dns::NoSuchName => return no_such_name(endpoint, says),
        Dns::NoAnswer(why) => {
            return Check::fail(says, format!("DNS does not answer: {why}")).hint(
                "CoreDNS, or the way to it: a NetworkPolicy must let this pod ask kube-dns on port 53, and nodes the VPC's resolver",
                DNS,
            );
        }
    };
    let accepted: Vec<&IpAddr> = addresses(reached, |tcp| *tcp == Tcp::Connected);
    if accepted.is_empty() {
        return not_connected(endpoint, reached, found, says);
    }
    match &reached.tls {
        Some(Tls::Fine | Tls::NotSpoken) => {}
        Some(bad) => return bad_tls(endpoint, bad, says),
        None => return Check::unknown(says, "it accepts connections, and nothing was sent"),
    }
    let silent: Vec<&IpAddr> = addresses(reached, |tcp| *tcp != Tcp::Connected);
    if !silent.is_empty() {
        return Check::warn(
            says,
            format!("{} of {} addresses do not accept connections: {}", silent.len(), found.len(), list(&silent)),
        )
        .hint(
            "calls will fail now and then: the VPC endpoint's network interfaces must all have the same security groups, one in each zone",
            GROUPS,
        );
    }
    let public: Vec<&IpAddr> = found
        .iter()
        .filter(|address| !is_private(address))
        .collect();
    if setting.isolated && !public.is_empty() && !endpoint.service.has_gateway_endpoint() {
        return Check::warn(
            says,
            format!(
                "{} is a public address: there is a way out of this VPC",
                list(&public)
            ),
        )
        .hint(
            format!(
                "without one, an interface endpoint {} with private DNS is needed",
                endpoint.vpc_endpoint()
            ),
            ENDPOINTS,
        );
    }
    let kind = match (public.is_empty(), endpoint.is_tls()) {
        (true, true) => "private",
        (false, true) => "public",
        (_, false) => "plain HTTP",
    };
    let told = endpoint
        .told_by
        .map_or(String::new(), |by| format!(", from {by}"));
    Check::ok(says, format!("{}:{port} ({kind}{told})", list(&accepted)))
}

fn addresses(reached: &Reached, which: impl Fn(&Tcp) -> bool) -> Vec<&IpAddr> {
    let chosen = reached.tcp.iter().filter(|(_, tcp)| which(tcp));
    chosen.map(|(address, _)| address).collect()
}

fn list(addresses: &[&IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn no_such_name(endpoint: &Endpoint, says: String) -> Check {
    let check = Check::fail(says, format!("DNS knows no {}", endpoint.host()));
    match endpoint.told_by {
        Some(variable) => check.hint(
            format!("{variable} names a host that does not exist: mend or remove it"),
            DNS,
        ),
        None => check.hint(
            format!(
                "is the region {} right? If so, CoreDNS must forward to the VPC's resolver, and the VPC must have DNS support and DNS \
                 hostnames enabled",
                endpoint.region
            ),
            DNS,
        ),
    }
}

fn not_connected(endpoint: &Endpoint, reached: &Reached, found: &[IpAddr], says: String) -> Check {
    let port = endpoint.port();
    let (address, tcp) = match reached.tcp.first() {
        Some((address, tcp)) => (address, tcp),
        None => return Check::unknown(says, "no address was tried"),
    };
    let at = format!("{address}:{port}");
    let public = found.iter().any(|address| !is_private(address));
    match tcp {
        Tcp::Refused => Check::fail(says, format!("{at} refuses connections")).hint(
            match endpoint.told_by {
                Some(variable) => format!("nothing listens there: is {variable} right?"),
                None => "no AWS service refuses: a firewall does, or DNS names another machine".to_owned(),
            },
            GROUPS,
        ),
        Tcp::NoRoute(why) => Check::fail(says, format!("there is no way to {at}: {why}")).hint(
            if endpoint.service.has_gateway_endpoint() {
                format!(
                    "associate the gateway endpoint {} with the route table of this subnet",
                    endpoint.vpc_endpoint()
                )
            } else if public {
                missing_endpoint(endpoint)
            } else {
                "the subnet's route table must have the VPC's own network as local, and its network ACL must let 443 out and answers in"
                    .to_owned()
            },
            ROUTES,
        ),
        // Connected is not possible here; what times out is the usual case.
        Tcp::TimedOut | Tcp::Connected => {
            let check = Check::fail(says, format!("{at} does not answer"));
            if endpoint.service.has_gateway_endpoint() && public {
                check.hint(
                    format!(
                        "associate the gateway endpoint {} with the route table of this subnet, and let the nodes' security group out to \
                         TCP 443 of its prefix list",
                        endpoint.vpc_endpoint()
                    ),
                    ROUTES,
                )
            } else if public {
                check.hint(missing_endpoint(endpoint), ENDPOINTS)
            } else {
                check.hint(
                    format!(
                        "the security group of the VPC endpoint {} must let TCP {port} in from the security group of the nodes (or of this \
                         pod), that one must let it out, and a NetworkPolicy must not forbid it",
                        endpoint.vpc_endpoint()
                    ),
                    GROUPS,
                )
            }
        }
    }
}

fn missing_endpoint(endpoint: &Endpoint) -> String {
    format!(
        "the name stands for a public address and there is no way out: make an interface VPC endpoint {} with private DNS in this VPC, or \
         give the subnet a NAT gateway",
        endpoint.vpc_endpoint()
    )
}

fn bad_tls(endpoint: &Endpoint, tls: &Tls, says: String) -> Check {
    let host = endpoint.host();
    match tls {
        Tls::WrongName(names) => {
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            Check::fail(says, format!("the certificate is for {names}")).hint(
                match endpoint.told_by {
                    Some(variable) => format!(
                        "{variable} leads to another service or machine: name the host that the certificate is for"
                    ),
                    None => format!(
                        "{host} leads to another machine: a private hosted zone or a host alias points it at the wrong VPC endpoint, or a \
                         proxy answers in its place"
                    ),
                },
                DNS,
            )
        }
        Tls::UnknownIssuer => Check::fail(says, "its certificate is signed by nobody whom this program trusts").hint(
            "a proxy that opens TLS stands in between: let AWS pass it, or put its authority into a file and name that in SSL_CERT_FILE",
            PROXIES,
        ),
        Tls::WrongTime(why) => Check::fail(says, format!("its certificate does not hold now: {why}"))
            .hint("is the clock of this node right?", PROXIES),
        Tls::NoRoots(why) => Check::fail(says, format!("no root certificates: {why}")).hint(
            "install ca-certificates, or name a file of PEM certificates in SSL_CERT_FILE; HALO's images carry one",
            PROXIES,
        ),
        Tls::Cut(why) => Check::fail(says, format!("it accepts connections and then is silent: {why}")).hint(
            "something in between lets connections through and not what is sent: a firewall that looks into TLS, or packets that are too \
             large for the way (MTU)",
            PROXIES,
        ),
        Tls::Other(why) => Check::fail(says, format!("TLS fails: {why}"))
            .hint("it is no AWS endpoint that answers there, or a proxy in between", PROXIES),
        Tls::Fine | Tls::NotSpoken => Check::ok(says, ""),
    }
}

/// A service that HALO does not need by itself: whatever is found, nothing failed.
pub fn unused(endpoint: &Endpoint, reached: &Reached, setting: Setting) -> Check {
    let judged = judge(endpoint, reached, setting);
    let (answer, hint) = match judged.result {
        super::outcome::Status::Ok => ("it answers", String::new()),
        _ => ("it does not answer from here", judged.detail),
    };
    let because = match endpoint.service {
        Service::SecretsManager => "HALO keeps its root secret in SSM",
        _ => "nothing here uses it",
    };
    let detail = [format!("{because}; {answer}"), hint];
    let detail: Vec<String> = detail.into_iter().filter(|part| !part.is_empty()).collect();
    Check::skipped(
        format!("{} is not needed", endpoint.service.name()),
        detail.join(": "),
    )
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
