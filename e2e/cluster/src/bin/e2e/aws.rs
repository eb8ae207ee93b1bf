//! The cloud of a run: the AWS emulator, whose instances are real nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use halo_aws_emulator::Rules;
use halo_aws_emulator::catalogue::{SecurityGroup, Snapshot, Subnet};
use halo_aws_emulator::rules::Timings;
use halo_e2e_cluster::real::nest::Nest;
use serde_json::{Value, json};

use crate::children::{Programs, Running};
use crate::http;
use crate::tenants::Pool;

/// Where it listens.
pub const PORT: u16 = 4566;

/// What the operator and the ledger's clients sign with; nobody checks it.
pub const CREDENTIALS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "example"),
    ("AWS_REGION", "us-east-2"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The emulator. It ends with this.
pub struct Aws {
    _process: Running,
    address: SocketAddr,
}

impl Aws {
    /// Starts it with the subnets, groups and snapshots that these pools name.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        nest: &Nest,
        programs: &Programs,
        address: SocketAddr,
        joined: &Path,
        pools: &[Pool],
    ) -> Result<Self> {
        let folder = nest.folder().join("aws");
        std::fs::create_dir_all(&folder).context("the cloud's folder")?;
        let rules = folder.join("rules.json");
        std::fs::write(&rules, serde_json::to_vec(&rules_for(pools))?)?;
        let program = std::env::current_exe()?;
        let hook = format!(
            "exec '{}' node --joined '{}'",
            program.display(),
            joined.display()
        );
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            "--listen".to_owned(),
            address.to_string(),
            "--not-only-loopback".to_owned(),
            "--rules".to_owned(),
            text(&rules),
            "--state".to_owned(),
            text(&folder.join("state.json")),
            "--boot".to_owned(),
            hook,
            "--boot-folder".to_owned(),
            // Boot logs say why a node did not join.
            text(&nest.logs().join("instances")),
        ];
        let mut process = programs.start("halo-aws-emulator", "aws-emulator", arguments)?;
        process
            .wait_for("listening", Duration::from_secs(30), |_| {})
            .await?;
        Ok(Self {
            _process: process,
            address,
        })
    }

    /// Does something out of band: a verb of the emulator's admin endpoint.
    ///
    /// # Errors
    /// It is refused.
    pub async fn post(&self, verb: &str, body: &Value) -> Result<Value> {
        let path = format!("/_halo/{verb}");
        let answer = http::request(self.address, "POST", &path, Some(&body.to_string())).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Takes all faults away.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn clear_faults(&self) -> Result<()> {
        http::request(self.address, "DELETE", "/_halo/faults", None).await?;
        Ok(())
    }

    /// Puts a SecureString and returns its version.
    ///
    /// # Errors
    /// It is refused.
    pub async fn put_parameter(&self, name: &str, value: &str) -> Result<u64> {
        let body = json!({"name": name, "value": value, "type": "SecureString"});
        let answer = self.post("parameters", &body).await?;
        answer["version"].as_u64().context("a parameter's version")
    }

    async fn state(&self) -> Result<Value> {
        let text = http::get(self.address, "/_halo/state").await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Instances that cost: id, state, type and zone.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn instances(&self) -> Result<Vec<Instance>> {
        let state = self.state().await?;
        let instances = state["instances"].as_object().cloned().unwrap_or_default();
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("").to_owned();
        Ok(instances
            .into_iter()
            .map(|(id, value)| Instance {
                id,
                state: text(&value, "state"),
                zone: text(&value, "zone"),
                node: text(&value, "private_dns"),
            })
            .filter(|instance| instance.state != "terminated")
            .collect())
    }

    /// Volumes of every kind.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        let state = self.state().await?;
        let volumes = state["volumes"].as_object().cloned().unwrap_or_default();
        let tag = |value: &Value, key: &str| value["tags"][key].as_str().map(str::to_owned);
        Ok(volumes
            .into_iter()
            .map(|(id, value)| Volume {
                id,
                state: value["state"].as_str().unwrap_or("").to_owned(),
                zone: value["zone"].as_str().unwrap_or("").to_owned(),
                substrate: tag(&value, "halo.howdify.io/substrate"),
                slot: tag(&value, "halo.howdify.io/slot"),
                instance: value["attachment"]["instance"].as_str().map(str::to_owned),
                goes_with_instance: value["attachment"]["delete_on_termination"] == true,
            })
            .collect())
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: String,
    /// Its zone.
    pub zone: String,
    /// Whose weights it holds, by its tag.
    pub substrate: Option<String>,
    /// In which slot, by its tag.
    pub slot: Option<String>,
    /// What it is attached to.
    pub instance: Option<String>,
    /// Whether it ends with that instance.
    pub goes_with_instance: bool,
}

/// An instance that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: String,
    /// Its zone.
    pub zone: String,
    /// The node's name.
    pub node: String,
}

/// The account that the pools were written for. Nothing takes time in it but booting.
fn rules_for(pools: &[Pool]) -> Rules {
    let mut rules = Rules {
        timings: Timings {
            terminated_visible_ms: 60_000,
            ..Timings::instant()
        },
        ..Rules::default()
    };
    let catalogue = &mut rules.catalogue;
    let vpc = catalogue.subnets[0].vpc.clone();
    for pool in pools {
        for (zone, id) in &pool.subnets {
            if catalogue.subnet(id).is_none() {
                // Networks that are not used yet: the default account's are 10.0.16.0 to 10.0.63.255.
                let third = 64 + 16 * u8::try_from(catalogue.subnets.len() - 3).unwrap_or(0);
                catalogue.subnets.push(Subnet {
                    id: id.clone(),
                    zone: zone.clone(),
                    vpc: vpc.clone(),
                    network: std::net::Ipv4Addr::new(10, 0, third, 0),
                    prefix: 20,
                    tags: Default::default(),
                });
            }
        }
        for id in &pool.security_groups {
            if catalogue.security_group(id).is_none() {
                catalogue.security_groups.push(SecurityGroup {
                    id: id.clone(),
                    name: format!("group-of-{id}"),
                    description: "Nodes of the example".to_owned(),
                    vpc: vpc.clone(),
                    tags: Default::default(),
                });
            }
        }
        for id in &pool.snapshots {
            if catalogue.snapshot(id).is_none() {
                catalogue.snapshots.push(Snapshot {
                    id: id.clone(),
                    size: 80,
                });
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_has_what_the_pools_name_once() {
        let pool = Pool {
            subnets: vec![
                ("us-east-2a".to_owned(), "subnet-0a".to_owned()),
                ("us-east-2b".to_owned(), "subnet-0b".to_owned()),
            ],
            security_groups: vec!["sg-0a".to_owned()],
            snapshots: vec!["snap-0a".to_owned()],
        };
        let rules = rules_for(&[pool.clone(), pool]);
        let catalogue = &rules.catalogue;
        assert_eq!(catalogue.subnets.len(), 5);
        assert_ne!(catalogue.subnets[3].network, catalogue.subnets[4].network);
        assert!(catalogue.security_group("sg-0a").is_some());
        assert!(catalogue.snapshot("snap-0a").is_some());
    }
}
