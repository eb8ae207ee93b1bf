//! `halo check`: tries what HALO needs, one thing at a time, and says what is missing and where to mend it.
//!
//! Probes ([`dial`], [`signed`], [`kubernetes`], [`aws`]) only sort what they see. What it means is decided in pure functions
//! ([`reach`], [`call`], [`identity`], [`table`], [`cluster`], [`certificate`]), each of them a table in its tests.

pub mod aws;
pub mod call;
pub mod certificate;
pub mod cluster;
pub mod dial;
pub mod endpoint;
pub mod identity;
pub mod kubernetes;
pub mod outcome;
pub mod reach;
pub mod render;
pub mod signed;
pub mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use call::Ask;
use dial::Dialer;
use endpoint::Service;
use outcome::{Category, Check, Report};

/// Between two looks of `--wait`.
const AGAIN: Duration = Duration::from_secs(2);

/// Whose role the calls are made with, so that only what it needs is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Component {
    /// Everything, as an administrator.
    #[default]
    All,
    /// SSM and EC2.
    Operator,
    /// The ledger, reading and writing.
    Gateway,
    /// The ledger, reading and writing.
    Substrate,
    /// The ledger, reading.
    Auditor,
}

/// A group of checks, for `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// The API server, the definitions, the Deployments and the gateway's certificate; with --pre what the charts need.
    Kubernetes,
    /// The AWS endpoints, the credentials and their permissions.
    Aws,
    /// The settings of the ledger's table.
    Ledger,
}

/// Reads a variable of the environment.
pub type Variable = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What is checked and how.
#[derive(Clone)]
pub struct Options {
    /// Before the charts are installed: what they need.
    pub pre: bool,
    /// Only these groups; all if empty.
    pub only: Vec<Group>,
    /// Whose permissions are asked.
    pub component: Component,
    /// Where the charts are installed.
    pub namespace: String,
    /// Another kubeconfig than the usual one.
    pub kubeconfig: Option<PathBuf>,
    /// Another context than the current one.
    pub context: Option<String>,
    /// The region of SSM, EC2 and STS.
    pub region: Option<String>,
    /// The parameter that holds the root secret.
    pub root_parameter: String,
    /// The ledger's table and its region.
    pub ledger: Option<(String, String)>,
    /// The VPC has no way out.
    pub isolated: bool,
    /// How long one step of a connection may take.
    pub timeout: Duration,
    /// The environment.
    pub variable: Variable,
}

impl Options {
    fn has(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    /// Whether a service must be reached for the component to work.
    fn needs(&self, service: Service) -> bool {
        match (service, self.component) {
            (Service::SecretsManager, _) => false,
            (Service::Ssm | Service::Ec2, Component::All | Component::Operator) => true,
            (Service::Ssm | Service::Ec2, _) => false,
            (Service::DynamoDb, component) => component != Component::Operator,
            // Only roles of service accounts are got from STS; asking it who one is helps everybody.
            (Service::Sts, component) => {
                component == Component::All
                    || identity::Source::find(|name| (self.variable)(name))
                        == identity::Source::WebIdentity
            }
        }
    }

    /// Whether a component needs what a call asks for.
    fn asks(&self, ask: Ask) -> bool {
        let ledger = self.ledger.is_some();
        match (ask, self.component) {
            (Ask::Identity, _) => true,
            (Ask::RootParameter | Ask::Instances, component) => {
                matches!(component, Component::All | Component::Operator)
            }
            (Ask::GetItem | Ask::Query, component) => ledger && component != Component::Operator,
            (Ask::PutItem, component) => {
                ledger
                    && matches!(
                        component,
                        Component::All | Component::Gateway | Component::Substrate
                    )
            }
        }
    }
}

/// Checks once.
pub async fn once(options: &Options, dialer: &Dialer) -> Report {
    let mut categories = Vec::new();
    if options.has(Group::Kubernetes) {
        kubernetes_part(options, &mut categories).await;
    }
    let aws = options.has(Group::Aws);
    if aws || options.has(Group::Ledger) {
        aws_part(options, dialer, aws, &mut categories).await;
    }
    Report { categories }
}

async fn kubernetes_part(options: &Options, categories: &mut Vec<Category>) {
    let client = match kubernetes::connect(options).await {
        Ok(client) => client,
        Err(why) => {
            let check = Check::fail("a cluster is configured", why).hint(
                "run it in the cluster, or name a kubeconfig or a context; --only aws leaves the cluster out",
                "docs/install.md#what-you-need",
            );
            categories.push(Category {
                category_name: "kubernetes-api",
                checks: vec![check],
            });
            return;
        }
    };
    let (api, answers) = kubernetes::api(&client, options).await;
    categories.push(api);
    if !answers {
        return;
    }
    categories.push(kubernetes::definitions(&client, options).await);
    categories.push(match options.pre {
        true => kubernetes::permissions(&client, options).await,
        false => kubernetes::control_plane(&client, options).await,
    });
}

async fn aws_part(options: &Options, dialer: &Dialer, all: bool, categories: &mut Vec<Category>) {
    let region = options
        .region
        .clone()
        .or_else(|| options.ledger.as_ref().map(|(_, region)| region.clone()));
    let Some(region) = region else {
        let check = Check::fail("a region is known", "").hint(
            "name it with --region or AWS_REGION",
            "docs/install.md#what-you-need",
        );
        categories.push(Category {
            category_name: "aws-network",
            checks: vec![check],
        });
        return;
    };
    let services: &[Service] = if all {
        &Service::ALL
    } else {
        &[Service::DynamoDb]
    };
    let (category, network) = aws::network(options, dialer, &region, services).await;
    categories.push(category);
    let (category, found) = aws::identity(options, dialer, &network, &region).await;
    categories.push(category);
    let Some((credentials, who)) = found else {
        return;
    };
    if all {
        categories
            .push(aws::permissions(options, dialer, &network, &credentials, who.as_deref()).await);
    }
    if options.has(Group::Ledger) {
        categories.push(aws::ledger_table(options, dialer, &network, &credentials).await);
    }
}

/// Checks until nothing fails and everything could be told, or `wait` is over; the last report.
pub async fn until(options: &Options, dialer: &Dialer, wait: Duration) -> Report {
    let deadline = Instant::now() + wait;
    loop {
        let report = once(options, dialer).await;
        if report.exit_code() == 0 || Instant::now() + AGAIN >= deadline {
            return report;
        }
        tracing::info!("{}; again in {AGAIN:?}", report.summary());
        sleep(AGAIN).await;
    }
}
