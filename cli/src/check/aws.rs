//! Asks AWS: each endpoint, the credentials, and a harmless call for each permission that is needed.

use std::collections::BTreeMap;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use super::call::{self, Answer, Ask};
use super::dial::Dialer;
use super::endpoint::{Endpoint, Service};
use super::identity::{self, Source};
use super::outcome::{Category, Check, Status};
use super::reach::{self, Setting};
use super::signed::{Call, xml_text};
use super::{Component, Options, table};

/// The endpoints by service, and whether each was reached.
pub struct Network {
    endpoints: BTreeMap<&'static str, (Endpoint, bool)>,
}

impl Network {
    /// The endpoint of a service, if requests can be sent to it.
    fn usable(&self, service: Service) -> Option<&Endpoint> {
        let (endpoint, reached) = self.endpoints.get(service.name())?;
        reached.then_some(endpoint)
    }
}

/// Tries the endpoints of these services.
pub async fn network(
    options: &Options,
    dialer: &Dialer,
    region: &str,
    services: &[Service],
) -> (Category, Network) {
    let mut checks = Vec::new();
    let mut endpoints = BTreeMap::new();
    let setting = Setting {
        isolated: options.isolated,
    };
    for &service in services {
        let region = match &options.ledger {
            Some((_, region)) if service == Service::DynamoDb => region,
            _ => region,
        };
        let endpoint = match Endpoint::find(service, region, |name| (options.variable)(name)) {
            Ok(endpoint) => endpoint,
            Err(bad) => {
                checks.push(Check::fail(
                    format!("the endpoint of {} is a URL", service.name()),
                    bad.to_string(),
                ));
                continue;
            }
        };
        if service == Service::DynamoDb && options.ledger.is_none() {
            checks.push(Check::skipped(
                "dynamodb is not asked",
                "no --ledger dynamodb:TABLE@REGION was given",
            ));
            continue;
        }
        let wanted = options.needs(service);
        // A role is told of what it needs; an administrator of everything.
        if !wanted && options.component != Component::All && service != Service::Sts {
            continue;
        }
        let reached = dialer.try_endpoint(&endpoint).await;
        checks.push(match wanted {
            true => reach::judge(&endpoint, &reached, setting),
            false => reach::unused(&endpoint, &reached, setting),
        });
        endpoints.insert(service.name(), (endpoint, reached.is_usable()));
    }
    (
        Category {
            category_name: "aws-network",
            checks,
        },
        Network { endpoints },
    )
}

/// Finds credentials, and asks STS whose they are.
pub async fn identity(
    options: &Options,
    dialer: &Dialer,
    network: &Network,
    region: &str,
) -> (Category, Option<(Credentials, Option<String>)>) {
    let source = Source::find(|name| (options.variable)(name));
    let chain = DefaultCredentialsChain::builder()
        .region(Region::new(region.to_owned()))
        .build()
        .await;
    // The metadata service may be tried several times, a second each.
    let found = match timeout(options.timeout * 4, chain.provide_credentials()).await {
        Err(_) => Err(format!("nothing within {:?}", options.timeout * 4)),
        Ok(Err(error)) => Err(words(&error)),
        Ok(Ok(credentials)) => Ok(credentials),
    };
    let mut checks = vec![identity::found(
        source,
        &found.as_ref().map(|_| ()).map_err(Clone::clone),
    )];
    let Ok(credentials) = found else {
        return (
            Category {
                category_name: "aws-identity",
                checks,
            },
            None,
        );
    };
    let mut who = None;
    match network.usable(Service::Sts) {
        None if !network.endpoints.contains_key(Service::Sts.name()) => {}
        None => checks.push(Check::skipped(
            "AWS knows who this is",
            "STS was not reached",
        )),
        Some(endpoint) => {
            let call = Call {
                endpoint,
                action: "GetCallerIdentity",
                body: String::new(),
            };
            let (answer, body) = call.send(dialer, &credentials).await;
            let arn = xml_text(&body, Some("Arn"));
            match (&answer, arn) {
                (Answer::Done, Some(arn)) => {
                    let account = xml_text(&body, Some("Account")).unwrap_or_default();
                    let in_cluster = (options.variable)("KUBERNETES_SERVICE_HOST").is_some();
                    checks.push(identity::whose(&arn, &account, in_cluster));
                    who = Some(arn);
                }
                _ => checks.push(call::judge(Ask::Identity, "", None, &answer)),
            }
        }
    }
    (
        Category {
            category_name: "aws-identity",
            checks,
        },
        Some((credentials, who)),
    )
}

fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Makes the harmless calls that the component's role must be allowed.
pub async fn permissions(
    options: &Options,
    dialer: &Dialer,
    network: &Network,
    credentials: &Credentials,
    who: Option<&str>,
) -> Category {
    let mut checks = Vec::new();
    let asks: [(Ask, Service); 5] = [
        (Ask::RootParameter, Service::Ssm),
        (Ask::Instances, Service::Ec2),
        (Ask::GetItem, Service::DynamoDb),
        (Ask::Query, Service::DynamoDb),
        (Ask::PutItem, Service::DynamoDb),
    ];
    for (ask, service) in asks {
        if !options.asks(ask) {
            continue;
        }
        let on = match ask {
            Ask::RootParameter => options.root_parameter.as_str(),
            Ask::GetItem | Ask::Query | Ask::PutItem => {
                options.ledger.as_ref().map_or("", |(table, _)| table)
            }
            Ask::Instances | Ask::Identity => "",
        };
        let Some(endpoint) = network.usable(service) else {
            checks.push(Check::skipped(
                format!("{} is permitted", ask.action()),
                format!("{} was not reached", service.name()),
            ));
            continue;
        };
        let (action, body) = request(ask, on);
        let (answer, body) = Call {
            endpoint,
            action,
            body,
        }
        .send(dialer, credentials)
        .await;
        let check = call::judge(ask, on, who, &answer);
        let good = check.result == Status::Ok;
        checks.push(check);
        if ask == Ask::RootParameter && good {
            checks.push(root_parameter(on, &body));
        }
    }
    Category {
        category_name: "aws-permissions",
        checks,
    }
}

/// The action and body of a call that changes nothing.
fn request(ask: Ask, on: &str) -> (&'static str, String) {
    // Not a session's key, so that nothing is found and nothing could be overwritten.
    let nobody =
        json!({table::PARTITION_KEY: {"S": "halo-check"}, table::SORT_KEY: {"S": "halo-check"}});
    match ask {
        Ask::Identity => ("GetCallerIdentity", String::new()),
        Ask::RootParameter => (
            "GetParameter",
            json!({"Name": on, "WithDecryption": true}).to_string(),
        ),
        Ask::Instances => ("DescribeInstances", "&DryRun=true&MaxResults=5".to_owned()),
        Ask::GetItem => (
            "GetItem",
            json!({"TableName": on, "Key": nobody}).to_string(),
        ),
        Ask::Query => {
            let body = json!({
                "TableName": on,
                "KeyConditionExpression": "#p = :p",
                "ExpressionAttributeNames": {"#p": table::PARTITION_KEY},
                "ExpressionAttributeValues": {":p": {"S": "halo-check"}},
                "Limit": 1,
            });
            ("Query", body.to_string())
        }
        Ask::PutItem => {
            let body = json!({
                "TableName": on,
                "Item": nobody,
                // Never true: the table says that it would have, and writes nothing.
                "ConditionExpression": "attribute_exists(#p) AND attribute_not_exists(#p)",
                "ExpressionAttributeNames": {"#p": table::PARTITION_KEY},
            });
            ("PutItem", body.to_string())
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterAnswer {
    parameter: ParameterFound,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterFound {
    #[serde(rename = "Type")]
    kind: String,
    value: String,
    version: u64,
}

/// What the root parameter must be. Its value is looked at for its length alone, and wiped.
fn root_parameter(name: &str, body: &Zeroizing<Vec<u8>>) -> Check {
    let says = format!("{name} holds a root secret");
    let anchor = "docs/install.md#the-root-secret";
    let Ok(answer) = serde_json::from_slice::<ParameterAnswer>(body) else {
        return Check::unknown(says, "the answer holds no parameter");
    };
    let ParameterFound {
        kind,
        mut value,
        version,
    } = answer.parameter;
    let length = value.len();
    value.zeroize();
    if kind != "SecureString" {
        return Check::fail(says, format!("it is a {kind}, so its value lies open"))
            .hint("store it again as a SecureString, with a new value", anchor);
    }
    // The shortest root that keys are derived from: `halo_receipts::keys::RootSecret`.
    if length < 32 {
        return Check::fail(
            says,
            format!("it has {length} bytes, and needs 32 at least"),
        )
        .hint(
            "put a new version, and raise spec.keys.generation of the tenants to it",
            anchor,
        );
    }
    Check::ok(
        says,
        format!("a SecureString of {length} bytes, version {version}"),
    )
}

/// The settings of the ledger's table.
pub async fn ledger_table(
    options: &Options,
    dialer: &Dialer,
    network: &Network,
    credentials: &Credentials,
) -> Category {
    let category = |checks| Category {
        category_name: "ledger-table",
        checks,
    };
    let Some((name, _)) = &options.ledger else {
        return category(vec![Check::skipped(
            "no table is asked",
            "no --ledger dynamodb:TABLE@REGION was given",
        )]);
    };
    let Some(endpoint) = network.usable(Service::DynamoDb) else {
        return category(vec![Check::skipped(
            format!("the table {name} is ready"),
            "dynamodb was not reached",
        )]);
    };
    let ask = async |action: &'static str| {
        let body = json!({"TableName": name}).to_string();
        let (answer, body) = Call {
            endpoint,
            action,
            body,
        }
        .send(dialer, credentials)
        .await;
        match answer {
            Answer::Done => serde_json::from_slice::<Value>(&body)
                .map_err(|error| table::Setting::Unknown(error.to_string())),
            other => Err(table::not_read(&other)),
        }
    };
    let described = ask("DescribeTable").await;
    if described == Err(table::Setting::Missing) {
        return category(table::judge(name, &table::Facts::missing(), false));
    }
    let backups = ask("DescribeContinuousBackups").await;
    let expiry = ask("DescribeTimeToLive").await;
    let facts = table::Facts::read(described, backups, expiry);
    category(table::judge(
        name,
        &facts,
        options.component != Component::All,
    ))
}
