//! A gateway as the operator sees it: entries in `status.demand`, each under the gateway's own field manager.

use std::sync::Arc;
use std::time::Duration;

use halo_crds::HaloSubstrate;
use halo_crds::status::Demand;
use halo_operator::clock::Clock as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::ShiftedClock;

/// A gateway.
#[derive(Clone)]
pub struct Gateway {
    name: String,
    client: Client,
    clock: Arc<ShiftedClock>,
}

impl Gateway {
    pub(super) fn new(name: &str, client: Client, clock: Arc<ShiftedClock>) -> Self {
        Self {
            name: name.to_owned(),
            client,
            clock,
        }
    }

    /// Holds so many requests for a substrate, since now.
    pub async fn asks(&self, namespace: &str, substrate: &str, in_flight: i64) {
        let now = self.clock.now();
        self.write(namespace, substrate, Some((in_flight, Some(now), now)))
            .await;
    }

    /// Has had no request for so long. A substrate whose `idleAfter` is shorter goes to sleep at once.
    pub async fn is_idle_for(&self, namespace: &str, substrate: &str, idle: Duration) {
        let idle = SignedDuration::try_from(idle).unwrap();
        let last = self.clock.now() - idle;
        self.write(namespace, substrate, Some((0, None, last)))
            .await;
    }

    /// Takes its entry away, as a gateway that is idle does.
    pub async fn leaves(&self, namespace: &str, substrate: &str) {
        self.write(namespace, substrate, None).await;
    }

    async fn write(
        &self,
        namespace: &str,
        substrate: &str,
        entry: Option<(i64, Option<Timestamp>, Timestamp)>,
    ) {
        let entry = entry.map(|(in_flight, since, last_active)| Demand {
            gateway: self.name.clone(),
            in_flight,
            since: since.map(Time),
            last_active: Time(last_active),
        });
        let demand: Vec<Demand> = entry.into_iter().collect();
        let patch = json!({
            "apiVersion": "halo.howdify.io/v1alpha1",
            "kind": "HaloSubstrate",
            "status": {"demand": demand},
        });
        let api: Api<HaloSubstrate> = Api::namespaced(self.client.clone(), namespace);
        let manager = PatchParams::apply(&format!("halo-gateway/{}", self.name));
        api.patch_status(substrate, &manager, &Patch::Apply(patch))
            .await
            .unwrap();
    }
}
