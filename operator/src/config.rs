//! Flags and environment of `halo-operator run`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::settings::{ClusterJoin, LeaseSettings, Pace, PodDefaults, Settings};
use clap::Args;
use halo_cloud::aws::AwsSettings;
use halo_crds::Period;
use jiff::SignedDuration;

/// What the operator is told.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The cluster's name: the tag of everything in the cloud, and the EKS cluster that nodes join
    #[arg(long, env = "HALO_CLUSTER", value_name = "NAME")]
    cluster: String,

    /// URL of the API server as nodes see it, for their user data
    #[arg(
        long,
        env = "HALO_CLUSTER_ENDPOINT",
        value_name = "URL",
        default_value = ""
    )]
    cluster_endpoint: String,

    /// The cluster's certificate authority for user data: PEM in base64, one line
    #[arg(
        long,
        env = "HALO_CLUSTER_CA",
        value_name = "BASE64",
        default_value = ""
    )]
    cluster_ca: String,

    /// The cluster's service network for user data, such as 10.100.0.0/16
    #[arg(
        long,
        env = "HALO_SERVICE_CIDR",
        value_name = "CIDR",
        default_value = ""
    )]
    service_cidr: String,

    /// The region of EC2, SSM and, unless a tenant names another, of the ledger
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    region: String,

    /// Where EC2 answers, instead of the region's public endpoint
    #[arg(long, env = "HALO_EC2_ENDPOINT", value_name = "URL")]
    ec2_endpoint: Option<String>,

    /// Where SSM answers, instead of the region's public endpoint
    #[arg(long, env = "HALO_SSM_ENDPOINT", value_name = "URL")]
    ssm_endpoint: Option<String>,

    /// The operator's own namespace, where the Lease and the gateways' Secrets live
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "halo-system"
    )]
    namespace: String,

    /// The name of this replica, such as its pod's; a random part is added, so that a process that was replaced is told from its successor
    #[arg(
        long,
        env = "POD_NAME",
        value_name = "NAME",
        default_value = "halo-operator"
    )]
    identity: String,

    /// The image of substrate pods whose HaloSubstrate names none
    #[arg(long, env = "HALO_SUBSTRATE_IMAGE", value_name = "IMAGE")]
    substrate_image: String,

    /// An environment variable of every substrate pod, such as AWS_ENDPOINT_URL_DYNAMODB=http://10.0.0.1:8000; may be given again, and in
    /// the environment there is one a line. What a HaloSubstrate says in spec.pod.env wins
    #[arg(long = "substrate-env", env = "HALO_SUBSTRATE_ENV", value_name = "KEY=VALUE", value_delimiter = '\n', value_parser = variable)]
    substrate_env: Vec<(String, String)>,

    /// When substrate pods pull their image, unless their HaloSubstrate says it; without both it is what Kubernetes does by itself
    #[arg(long, env = "HALO_SUBSTRATE_PULL_POLICY", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    substrate_pull_policy: Option<String>,

    /// A Secret with the credentials of a registry for substrate pods; may be given again. It must be in each tenant's namespace: the
    /// operator copies none. Nodes that have the credentials need none
    #[arg(
        long = "image-pull-secret",
        env = "HALO_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    image_pull_secrets: Vec<String>,

    /// A namespace whose pods may read the metrics of substrate pods, such as monitoring; may be given again
    #[arg(
        long = "metrics-namespace",
        env = "HALO_METRICS_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    metrics_namespaces: Vec<String>,

    /// A label of the gateway's pods, which network policies let in; may be given again
    #[arg(long = "gateway-label", env = "HALO_GATEWAY_LABELS", value_name = "KEY=VALUE", value_delimiter = ',',
          default_value = "app.kubernetes.io/name=halo-gateway", value_parser = pair)]
    gateway_labels: Vec<(String, String)>,

    /// The gateway's namespace; the operator's own if it is not given
    #[arg(long, env = "HALO_GATEWAY_NAMESPACE", value_name = "NAMESPACE")]
    gateway_namespace: Option<String>,

    /// Reconciles at once, for each kind
    #[arg(long, env = "HALO_CONCURRENCY", value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,

    /// USD an hour of an instance type, such as r7iz.4xlarge=1.488; may be given again
    #[arg(long = "price", env = "HALO_PRICES", value_name = "TYPE=USD", value_delimiter = ',', value_parser = price)]
    prices: Vec<(String, f64)>,

    /// RunInstances calls that may be made at once; EC2 gives an account five unless it was raised
    #[arg(long, env = "HALO_LAUNCH_BURST", value_name = "COUNT", default_value_t = 5.0, value_parser = pace)]
    launch_burst: f64,

    /// RunInstances calls a second after those; EC2 gives an account two unless it was raised
    #[arg(long, env = "HALO_LAUNCH_RATE", value_name = "PER_SECOND", default_value_t = 2.0, value_parser = pace)]
    launch_rate: f64,

    /// The name of the Lease
    #[arg(
        long,
        env = "HALO_LEASE_NAME",
        value_name = "NAME",
        default_value = "halo-operator"
    )]
    lease_name: String,

    /// How long a lease lasts that is not renewed; a leader that could not renew it for two thirds of this ends
    #[arg(long, env = "HALO_LEASE_DURATION", value_name = "TIME", default_value = "15s", value_parser = lease_time)]
    lease_duration: Period,

    /// How often the lease is renewed; at most a quarter of its duration
    #[arg(long, env = "HALO_LEASE_RENEW", value_name = "TIME", default_value = "3s", value_parser = lease_time)]
    lease_renew: Period,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "HALO_HTTP",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    http: SocketAddr,

    /// For tests: shift this program's clock by so many seconds. Leases and requests to AWS keep the machine's time
    #[arg(
        long,
        env = "HALO_CLOCK_OFFSET_SECONDS",
        value_name = "SECONDS",
        default_value_t = 0,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    clock_offset_seconds: i64,
}

/// `key=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or("write it as key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=value`, where the key can name a variable.
fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = pair(text)?;
    let named = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if named && !key.as_bytes()[0].is_ascii_digit() {
        Ok((key, value))
    } else {
        Err(format!("{key:?} names no environment variable"))
    }
}

/// `type=usd`.
fn price(text: &str) -> Result<(String, f64), String> {
    let (key, value) = pair(text)?;
    let usd: f64 = value
        .parse()
        .map_err(|_| "write a price as r7iz.4xlarge=1.488")?;
    if usd.is_finite() && usd >= 0.0 {
        Ok((key, usd))
    } else {
        Err("a price is not negative".to_owned())
    }
}

/// A budget of calls.
fn pace(text: &str) -> Result<f64, String> {
    let calls: f64 = text.parse().map_err(|_| "write a number".to_owned())?;
    if (0.1..=10_000.0).contains(&calls) {
        Ok(calls)
    } else {
        Err("at least 0.1 and at most 10000".to_owned())
    }
}

/// A time of at least a second.
fn lease_time(text: &str) -> Result<Period, String> {
    let time: Period = text
        .parse()
        .map_err(|error: halo_crds::duration::BadPeriod| error.to_string())?;
    if time.get() >= Duration::from_secs(1) {
        Ok(time)
    } else {
        Err("at least 1s".to_owned())
    }
}

impl RunArgs {
    /// Where the pages are served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// By how much the clock is shifted.
    pub fn clock_offset(&self) -> SignedDuration {
        SignedDuration::from_secs(self.clock_offset_seconds)
    }

    /// What the session with AWS is told. Where a flag does not say where a service answers, the environment may, as for every program
    /// that speaks to AWS.
    pub fn aws(&self) -> AwsSettings {
        self.aws_in(|name| std::env::var(name).ok())
    }

    fn aws_in(&self, variable: impl Fn(&str) -> Option<String>) -> AwsSettings {
        let told = |flag: &Option<String>, service: &str| {
            let names = [service, "AWS_ENDPOINT_URL"].into_iter();
            let mut told = names.filter_map(&variable);
            let set = |url: &String| !url.trim().is_empty();
            flag.clone().or_else(|| told.find(set))
        };
        let mut settings = AwsSettings::new(&self.region, &self.cluster);
        settings.ec2_endpoint = told(&self.ec2_endpoint, "AWS_ENDPOINT_URL_EC2");
        settings.ssm_endpoint = told(&self.ssm_endpoint, "AWS_ENDPOINT_URL_SSM");
        settings.paces.run = halo_cloud::aws::Pace {
            burst: self.launch_burst,
            per_second: self.launch_rate,
        };
        settings
    }

    /// What the operator is told. `random` tells this process from others of the same name.
    ///
    /// # Errors
    /// Two flags do not fit together.
    pub fn settings(&self, random: u32) -> anyhow::Result<Settings> {
        let (duration, renew_every) = (self.lease_duration.get(), self.lease_renew.get());
        anyhow::ensure!(
            renew_every * 4 <= duration,
            "--lease-renew is at most a quarter of --lease-duration: a leader needs time for a second try"
        );
        Ok(Settings {
            cluster: self.cluster.clone(),
            join: ClusterJoin {
                endpoint: self.cluster_endpoint.clone(),
                certificate_authority: self.cluster_ca.clone(),
                service_cidr: self.service_cidr.clone(),
            },
            region: self.region.clone(),
            namespace: self.namespace.clone(),
            identity: format!("{}-{random:08x}", self.identity),
            substrate_image: self.substrate_image.clone(),
            substrate_pods: PodDefaults {
                env: self.substrate_env.iter().cloned().collect(),
                image_pull_policy: self.substrate_pull_policy.clone(),
                image_pull_secrets: self.image_pull_secrets.clone(),
            },
            metrics_namespaces: self.metrics_namespaces.clone(),
            gateway_pod_labels: self.gateway_labels.iter().cloned().collect(),
            gateway_namespace: self
                .gateway_namespace
                .clone()
                .unwrap_or_else(|| self.namespace.clone()),
            concurrency: usize::from(self.concurrency),
            prices: self.prices.iter().cloned().collect::<BTreeMap<_, _>>(),
            lease: LeaseSettings {
                name: self.lease_name.clone(),
                duration,
                renew_every,
            },
            pace: Pace::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        run: RunArgs,
    }

    fn flags(more: &[&str]) -> Result<RunArgs, String> {
        let required = [
            "x",
            "--cluster",
            "c",
            "--region",
            "us-east-2",
            "--substrate-image",
            "i",
        ];
        let flags = Flags::try_parse_from(required.iter().chain(more));
        flags
            .map(|flags| flags.run)
            .map_err(|error| error.to_string())
    }

    fn parse(more: &[&str]) -> Result<Settings, String> {
        let run = flags(more)?;
        run.settings(7).map_err(|error| error.to_string())
    }

    #[test]
    fn launches_are_as_many_as_ec2_allows_unless_told_otherwise() {
        let pace = |more: &[&str]| {
            let run = flags(more).unwrap().aws().paces.run;
            (run.burst, run.per_second)
        };
        assert_eq!(pace(&[]), (5.0, 2.0));
        let raised = ["--launch-burst", "100", "--launch-rate", "20.5"];
        assert_eq!(pace(&raised), (100.0, 20.5));
    }

    #[test]
    fn a_service_answers_where_the_flag_or_the_environment_says() {
        let find = |more: &[&str], told: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = told.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let settings = flags(more).unwrap().aws_in(variable);
            (settings.ec2_endpoint, settings.ssm_endpoint)
        };
        let url = |text: &str| Some(text.to_owned());
        assert_eq!(find(&[], &[("AWS_ENDPOINT_URL_EC2", " ")]), (None, None));
        let all = ("AWS_ENDPOINT_URL", "http://all");
        let ec2 = ("AWS_ENDPOINT_URL_EC2", "http://ec2");
        assert_eq!(
            find(&[], &[all, ec2]),
            (url("http://ec2"), url("http://all"))
        );
        let flag = ["--ec2-endpoint", "http://flag"];
        assert_eq!(
            find(&flag, &[all, ec2]),
            (url("http://flag"), url("http://all"))
        );
    }

    #[test]
    fn flags_become_settings() {
        let settings = parse(&[
            "--price",
            "a.large=1.5,b.large=2",
            "--gateway-label",
            "app=gw",
            "--lease-duration",
            "1m",
            "--identity",
            "pod-0",
            "--namespace",
            "halo",
        ])
        .unwrap();
        assert_eq!(settings.prices["b.large"], 2.0);
        assert_eq!(settings.gateway_pod_labels["app"], "gw");
        assert_eq!(settings.gateway_namespace, "halo");
        assert_eq!(settings.lease.duration, Duration::from_secs(60));
        assert_eq!(settings.identity, "pod-0-00000007");
    }

    #[test]
    fn what_all_substrate_pods_get() {
        let settings = parse(&[
            "--substrate-env",
            "NO_PROXY=10.0.0.0/8,.local",
            "--substrate-env",
            "A=x=y\nB=",
            "--substrate-pull-policy",
            "Never",
            "--image-pull-secret",
            "one,two",
            "--metrics-namespace",
            "monitoring",
        ])
        .unwrap();
        let pods = settings.substrate_pods;
        let env: Vec<_> = pods.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=x=y", "B=", "NO_PROXY=10.0.0.0/8,.local"]);
        assert_eq!(pods.image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(pods.image_pull_secrets, ["one", "two"]);
        assert_eq!(settings.metrics_namespaces, ["monitoring"]);
        let offset = |more: &[&str]| flags(more).unwrap().clock_offset().as_secs();
        assert_eq!(offset(&[]), 0);
        assert_eq!(offset(&["--clock-offset-seconds", "-86400"]), -86_400);
    }

    #[test]
    fn bad_flags_are_refused() {
        for (flags, says) in [
            (vec!["--price", "a"], "key=value"),
            (vec!["--price", "a=-1"], "not negative"),
            (vec!["--price", "a=cheap"], "r7iz.4xlarge=1.488"),
            (vec!["--lease-duration", "15"], "not a length of time"),
            (vec!["--lease-renew", "0s"], "at least 1s"),
            (vec!["--lease-renew", "5s"], "at most a quarter"),
            (vec!["--concurrency", "0"], "1..=256"),
            (vec!["--launch-burst", "0"], "at least 0.1"),
            (vec!["--launch-rate", "NaN"], "at least 0.1"),
            (vec!["--launch-rate", "two"], "write a number"),
            (vec!["--substrate-env", "A"], "key=value"),
            (vec!["--substrate-env", "1A=b"], "no environment variable"),
            (vec!["--substrate-pull-policy", "Maybe"], "possible values"),
        ] {
            let error = parse(&flags).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
