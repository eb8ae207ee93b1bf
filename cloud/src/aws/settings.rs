//! What a session with AWS is told, checked before anything is sent.

use std::time::Duration;

use http::Uri;

use super::pace::Pace;

/// What [`super::AwsSession`] needs to know. Credentials are not among it: they come from the environment, a web identity token
/// (IRSA), the container credentials endpoint (EKS Pod Identity) or the instance's metadata service, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsSettings {
    /// Such as `us-east-2`.
    pub region: String,
    /// The cluster's name; it stands in the user agent, so that CloudTrail tells whose call it was.
    pub cluster: String,
    /// Where EC2 answers; by default the region's public endpoint. `https://...`, or `http://...` for an emulator.
    pub ec2_endpoint: Option<String>,
    /// Where SSM answers; by default the region's public endpoint.
    pub ssm_endpoint: Option<String>,
    /// How many calls of each class are made at most.
    pub paces: Paces,
    /// How long things may take.
    pub timing: Timing,
}

impl AwsSettings {
    /// Settings for a region and a cluster, all else as it should be.
    pub fn new(region: impl Into<String>, cluster: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            cluster: cluster.into(),
            ec2_endpoint: None,
            ssm_endpoint: None,
            paces: Paces::default(),
            timing: Timing::default(),
        }
    }
}

/// How many calls of each class are made at most. The defaults are modest; a class slows down by itself when it is throttled,
/// because others use the same account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paces {
    /// Describe calls.
    pub describe: Pace,
    /// RunInstances.
    pub run: Pace,
    /// Other calls that change something.
    pub mutate: Pace,
    /// SSM GetParameter.
    pub parameter: Pace,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            describe: Pace {
                burst: 50.0,
                per_second: 10.0,
            },
            run: Pace {
                burst: 5.0,
                per_second: 2.0,
            },
            mutate: Pace {
                burst: 20.0,
                per_second: 5.0,
            },
            parameter: Pace {
                burst: 20.0,
                per_second: 10.0,
            },
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// To open a connection.
    pub connect: Duration,
    /// One exchange, from connecting to the answer's last byte.
    pub attempt: Duration,
    /// One call with its waiting and all its attempts; none begins after this.
    pub call: Duration,
    /// How long instances that are to end or stop are collected into one call. Starting waits a quarter of it.
    pub batch: Duration,
    /// The first wait before a repeated attempt; it doubles each time.
    pub backoff: Duration,
    /// How long an image id that a parameter named is remembered.
    pub image_age: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            attempt: Duration::from_secs(10),
            call: Duration::from_secs(30),
            batch: Duration::from_millis(40),
            backoff: Duration::from_millis(100),
            image_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Why a session cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The region is not a region's name.
    #[error("{0:?} is not a region; write one such as us-east-2")]
    Region(String),
    /// The endpoint is not a URL with a host.
    #[error(
        "{0:?} is not an endpoint; write one such as https://vpce-0123.ec2.us-east-2.vpce.amazonaws.com"
    )]
    Endpoint(String),
    /// The system has no root certificates, so no server could be trusted.
    #[error("no root certificates: install ca-certificates or set SSL_CERT_FILE")]
    Roots(#[source] std::io::Error),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Where a service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The service's name in signatures.
    pub(super) service: &'static str,
    /// With scheme, host and path.
    pub(super) uri: Uri,
    /// `host[:port]`, as it is sent and signed.
    pub(super) host: String,
}

impl Endpoint {
    /// The endpoint that is told, or else the region's.
    pub(super) fn new(
        service: &'static str,
        region: &str,
        told: Option<&str>,
    ) -> Result<Self, SetupError> {
        let url = match told {
            Some(told) => told.trim().to_owned(),
            None => format!("https://{service}.{region}.{}/", dns_suffix(region)),
        };
        let bad = || SetupError::Endpoint(url.clone());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let scheme = uri.scheme_str().ok_or_else(bad)?;
        let authority = uri.authority().ok_or_else(bad)?;
        let plain = authority.host().is_empty() || authority.as_str().contains('@');
        if !matches!(scheme, "https" | "http") || plain || uri.query().is_some() {
            return Err(bad());
        }
        // The default port is left out of the Host header; a client that writes it would break the signature.
        let default_port = if scheme == "https" { 443 } else { 80 };
        let host = match authority.port_u16() {
            Some(port) if port != default_port => format!("{}:{port}", authority.host()),
            _ => authority.host().to_owned(),
        };
        let path = uri.path();
        let uri = format!(
            "{scheme}://{host}{}",
            if path.is_empty() { "/" } else { path }
        )
        .parse()
        .map_err(|_| bad())?;
        Ok(Self { service, uri, host })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Whether what is sent can be read on the way: plain HTTP that leaves this machine.
    pub(super) fn is_open(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        !self.is_tls() && !loopback
    }
}

/// Checks that a region can stand in a host name and a signature.
pub(super) fn check_region(region: &str) -> Result<(), SetupError> {
    let good = !region.is_empty()
        && region.len() <= 32
        && region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !region.starts_with('-')
        && !region.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(SetupError::Region(region.to_owned()))
    }
}

/// The domain of a region's endpoints, by its partition.
pub fn dns_suffix(region: &str) -> &'static str {
    match region {
        r if r.starts_with("cn-") => "amazonaws.com.cn",
        r if r.starts_with("us-iso-") => "c2s.ic.gov",
        r if r.starts_with("us-isob-") => "sc2s.sgov.gov",
        r if r.starts_with("eusc-") => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let uri = |told: Option<&str>, region: &str| {
            Endpoint::new("ec2", region, told)
                .map(|e| (e.uri.to_string(), e.host.clone(), e.is_tls(), e.is_open()))
                .ok()
        };
        let e = |u: &str, h: &str, tls, open| Some((u.to_owned(), h.to_owned(), tls, open));
        assert_eq!(
            uri(None, "us-east-2"),
            e(
                "https://ec2.us-east-2.amazonaws.com/",
                "ec2.us-east-2.amazonaws.com",
                true,
                false
            )
        );
        assert_eq!(
            uri(None, "cn-north-1"),
            e(
                "https://ec2.cn-north-1.amazonaws.com.cn/",
                "ec2.cn-north-1.amazonaws.com.cn",
                true,
                false
            )
        );
        let told = |t| uri(Some(t), "us-east-2");
        assert_eq!(
            told("http://127.0.0.1:4567"),
            e("http://127.0.0.1:4567/", "127.0.0.1:4567", false, false)
        );
        assert_eq!(
            told("http://[::1]:4567/"),
            e("http://[::1]:4567/", "[::1]:4567", false, false)
        );
        assert_eq!(
            told("http://10.0.0.1/"),
            e("http://10.0.0.1/", "10.0.0.1", false, true)
        );
        assert_eq!(
            told("https://h.example:443/p"),
            e("https://h.example/p", "h.example", true, false)
        );
        for bad in [
            "",
            "h.example",
            "ftp://h.example",
            "https://",
            "https://u:p@h",
            "https://h?x=1",
            "/p",
            "http://[::1",
        ] {
            assert_eq!(told(bad), None, "{bad}");
        }
    }

    #[test]
    fn regions() {
        for good in ["us-east-2", "eu-central-1", "us-iso-east-1"] {
            assert!(check_region(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "US-EAST-2",
            "us east",
            "us-east-2.evil.example",
            "-x",
            "x-",
            "ü",
        ] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
    }
}
