//! The example of the documentation as two tenants on a small machine.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A tenant of the run.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id, and the name of its HaloTenant.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its substrate.
    pub substrate: String,
    /// Its objects, as they are applied.
    pub objects: Vec<Value>,
}

/// What of the cloud a substrate's pool names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// Zone and id.
    pub subnets: Vec<(String, String)>,
    /// Ids.
    pub security_groups: Vec<String>,
    /// Ids.
    pub snapshots: Vec<String>,
}

impl Tenant {
    /// The tenant of `docs/examples/tenant.yaml`, with the few fields changed that a small machine needs: the demo model of the image,
    /// one thread, little memory, a short idle time.
    ///
    /// # Errors
    /// The example is not what it was.
    pub fn example(text: &str) -> Result<Self> {
        let mut objects: Vec<Value> =
            serde_saphyr::from_multiple(text).context("docs/examples/tenant.yaml")?;
        let of = |kind: &str, field: &str, objects: &[Value]| -> Result<String> {
            let object = objects.iter().find(|object| object["kind"] == kind);
            object
                .and_then(|object| object["metadata"][field].as_str())
                .map(str::to_owned)
                .with_context(|| format!("the example has no {kind} with metadata.{field}"))
        };
        let tenant = Self {
            id: of("HaloTenant", "name", &objects)?,
            namespace: of("HaloSubstrate", "namespace", &objects)?,
            substrate: of("HaloSubstrate", "name", &objects)?,
            objects: Vec::new(),
        };
        for object in &mut objects {
            overlay(object);
        }
        Ok(Self { objects, ..tenant })
    }

    /// The same with another name.
    ///
    /// # Errors
    /// Never for an id without quotes.
    pub fn renamed(&self, id: &str) -> Result<Self> {
        let text = serde_json::to_string(&self.objects)?.replace(&self.id, id);
        Ok(Self {
            id: id.to_owned(),
            namespace: self.namespace.replace(&self.id, id),
            substrate: self.substrate.clone(),
            objects: serde_json::from_str(&text)?,
        })
    }

    /// All objects as one, for `kubectl apply -f -`.
    pub fn list(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "List", "items": self.objects})
    }

    /// What its pool names.
    pub fn pool(&self) -> Pool {
        let mut pool = Pool::default();
        for object in &self.objects {
            let ec2 = &object["spec"]["nodePool"]["ec2"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            for subnet in ec2["subnets"].as_array().into_iter().flatten() {
                pool.subnets
                    .extend(text(&subnet["zone"]).zip(text(&subnet["id"])));
            }
            let groups = ec2["securityGroups"].as_array();
            pool.security_groups
                .extend(groups.into_iter().flatten().filter_map(text));
            pool.snapshots.extend(text(&ec2["dataVolume"]["snapshot"]));
        }
        pool
    }
}

/// How long a substrate of the run stays awake when nothing is asked.
pub const IDLE_AFTER: &str = "30s";

fn overlay(object: &mut Value) {
    if object["kind"] == "HaloTenant" {
        // Load tests ask more in a minute than a pharmacy does.
        object["spec"]["limits"]["requestsPerMinute"] = json!(6000);
        object["spec"]["keys"]["overlap"] = json!("24h");
    }
    if object["kind"] == "HaloSubstrate" {
        let spec = &mut object["spec"];
        spec["model"] = json!({"name": "halo/demo", "image": {"path": "/models/demo"}});
        spec["engine"] = json!({"threads": 1, "memory": "512Mi"});
        spec["scaling"]["idleAfter"] = json!(IDLE_AFTER);
        spec["scaling"]["max"] = json!(1);
        spec["scaling"]["wakeDeadline"] = json!("5m");
        spec["pod"] = json!({"drain": "10s"});
        spec["nodePool"]["ec2"]["registrationDeadline"] = json!("60s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Tenant {
        Tenant::example(include_str!("../../../../../docs/examples/tenant.yaml")).unwrap()
    }

    #[test]
    fn the_example_is_a_tenant() {
        let tenant = example();
        assert_eq!(tenant.objects.len(), 3);
        assert!(tenant.namespace.ends_with(&tenant.id));
        let pool = tenant.pool();
        assert_eq!(pool.subnets.len(), 2);
        assert_eq!(pool.security_groups.len(), 1);
        assert_eq!(pool.snapshots.len(), 1);
    }

    #[test]
    fn another_tenant_shares_no_name() {
        let (first, second) = (example(), example().renamed("borealis-clinic").unwrap());
        assert_ne!(first.namespace, second.namespace);
        assert!(!second.list().to_string().contains(&first.id));
        assert_eq!(first.pool(), second.pool());
    }
}
