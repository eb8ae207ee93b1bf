//! Which AWS services are asked, and where each of them answers.

use halo_cloud::aws::dns_suffix;
use http::Uri;

/// An AWS service that HALO or its credentials need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Who one is; roles of service accounts (IRSA) get their credentials here.
    Sts,
    /// The root secret, and public image parameters.
    Ssm,
    /// Instances and volumes.
    Ec2,
    /// The ledger.
    DynamoDb,
    /// Not used by HALO itself; tools that copy secrets into the cluster use it.
    SecretsManager,
}

impl Service {
    /// Every service, in the order in which they are checked.
    pub const ALL: [Self; 5] = [
        Self::Sts,
        Self::Ssm,
        Self::Ec2,
        Self::DynamoDb,
        Self::SecretsManager,
    ];

    /// The name in hosts, signatures and VPC endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sts => "sts",
            Self::Ssm => "ssm",
            Self::Ec2 => "ec2",
            Self::DynamoDb => "dynamodb",
            Self::SecretsManager => "secretsmanager",
        }
    }

    /// The name that AWS programs give the service in environment variables.
    const fn variable(self) -> &'static str {
        match self {
            Self::Sts => "AWS_ENDPOINT_URL_STS",
            Self::Ssm => "AWS_ENDPOINT_URL_SSM",
            Self::Ec2 => "AWS_ENDPOINT_URL_EC2",
            Self::DynamoDb => "AWS_ENDPOINT_URL_DYNAMODB",
            Self::SecretsManager => "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        }
    }

    /// The variable that the operator reads for the service, if it has one of its own.
    const fn operators_variable(self) -> Option<&'static str> {
        match self {
            Self::Ssm => Some("HALO_SSM_ENDPOINT"),
            Self::Ec2 => Some("HALO_EC2_ENDPOINT"),
            _ => None,
        }
    }

    /// Whether the service's VPC endpoint is one of route tables (a gateway endpoint), so that its addresses stay public.
    pub const fn has_gateway_endpoint(self) -> bool {
        matches!(self, Self::DynamoDb)
    }
}

/// Where a service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The service.
    pub service: Service,
    /// The region that calls are signed for.
    pub region: String,
    /// `https://HOST[:PORT]/` or `http://...`.
    pub uri: Uri,
    /// The variable that names it; `None` if it is the region's own.
    pub told_by: Option<&'static str>,
}

/// A URL that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} is {value:?}; write https://HOST, such as https://vpce-0123.ssm.us-east-2.vpce.amazonaws.com"
)]
pub struct BadEndpoint {
    /// Who said it.
    pub variable: &'static str,
    /// What it said.
    pub value: String,
}

impl Endpoint {
    /// Where a service of a region answers, as HALO's programs and the SDKs find it: the operator's own variable, the service's, the one
    /// for all services, the region's public endpoint.
    ///
    /// # Errors
    /// A variable that holds no URL.
    pub fn find(
        service: Service,
        region: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadEndpoint> {
        let names = [
            service.operators_variable(),
            Some(service.variable()),
            Some("AWS_ENDPOINT_URL"),
        ];
        let told = names.into_iter().flatten().find_map(|name| {
            variable(name)
                .filter(|value| !value.trim().is_empty())
                .map(|value| (name, value))
        });
        let (told_by, url) = match told {
            Some((name, value)) => (Some(name), value.trim().to_owned()),
            None => (
                None,
                format!(
                    "https://{}.{region}.{}/",
                    service.name(),
                    dns_suffix(region)
                ),
            ),
        };
        let bad = || BadEndpoint {
            variable: told_by.unwrap_or("--region"),
            value: url.clone(),
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        if !matches!(scheme, "https" | "http") || host.is_empty() || uri.query().is_some() {
            return Err(bad());
        }
        Ok(Self {
            service,
            region: region.to_owned(),
            uri,
            told_by,
        })
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host without brackets.
    pub fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        let default = if self.is_tls() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    /// What stands in the `Host` header: without the default port, which clients leave out.
    pub fn authority(&self) -> String {
        let host = self.uri.host().unwrap_or_default();
        match (self.port(), self.is_tls()) {
            (443, true) | (80, false) => host.to_owned(),
            (port, _) => format!("{host}:{port}"),
        }
    }

    /// The name of the VPC endpoint that serves it.
    pub fn vpc_endpoint(&self) -> String {
        format!("com.amazonaws.{}.{}", self.region, self.service.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_where() {
        let find = |service, told: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = told.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Endpoint::find(service, "us-east-2", variable)
        };
        type Row<'a> = (
            Service,
            &'a [(&'a str, &'a str)],
            &'a str,
            u16,
            Option<&'a str>,
        );
        let good: &[Row<'_>] = &[
            (Service::Ssm, &[], "ssm.us-east-2.amazonaws.com", 443, None),
            (
                Service::SecretsManager,
                &[("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://s.example:8443")],
                "s.example:8443",
                8443,
                Some("AWS_ENDPOINT_URL_SECRETS_MANAGER"),
            ),
            (
                Service::Ec2,
                &[
                    ("AWS_ENDPOINT_URL", "http://127.0.0.1:80"),
                    ("AWS_ENDPOINT_URL_EC2", " "),
                ],
                "127.0.0.1",
                80,
                Some("AWS_ENDPOINT_URL"),
            ),
            (
                Service::Ec2,
                &[
                    ("HALO_EC2_ENDPOINT", "http://[::1]:4566/"),
                    ("AWS_ENDPOINT_URL_EC2", "http://x"),
                ],
                "[::1]:4566",
                4566,
                Some("HALO_EC2_ENDPOINT"),
            ),
            (
                Service::DynamoDb,
                &[("HALO_EC2_ENDPOINT", "http://x")],
                "dynamodb.us-east-2.amazonaws.com",
                443,
                None,
            ),
        ];
        for (service, told, authority, port, by) in good {
            let found = find(*service, told).unwrap();
            assert_eq!(
                (found.authority().as_str(), found.port(), found.told_by),
                (*authority, *port, *by)
            );
        }
        assert_eq!(
            find(Service::Ec2, &[("AWS_ENDPOINT_URL", "http://[::1]:1")])
                .unwrap()
                .host(),
            "::1"
        );
        for bad in [
            "ssm.example",
            "ftp://x",
            "https://",
            "https://h?x=1",
            "/p",
            "https://[::1",
        ] {
            let error = find(Service::Ssm, &[("AWS_ENDPOINT_URL_SSM", bad)]).unwrap_err();
            assert_eq!(
                (error.variable, error.value.as_str()),
                ("AWS_ENDPOINT_URL_SSM", bad)
            );
        }
    }

    #[test]
    fn partitions() {
        for (region, host) in [
            ("eu-central-1", "sts.eu-central-1.amazonaws.com"),
            ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
            ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ] {
            let found = Endpoint::find(Service::Sts, region, |_| None).unwrap();
            assert_eq!(found.host(), host);
            assert_eq!(found.vpc_endpoint(), format!("com.amazonaws.{region}.sts"));
        }
        assert!(Endpoint::find(Service::Sts, "us east", |_| None).is_err());
    }
}
