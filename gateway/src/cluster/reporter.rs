//! Writes this gateway's entries in `status.demand`: one call at a time for a substrate, each with a deadline, tried again with pauses.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_crds::status::Demand as StatusDemand;
use halo_crds::{GROUP, VERSION};
use halo_receipts::ids::TenantId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::demand::{Desk, Entry, Next, Now, Pace, Written, garbage};
use super::hub::Hub;
use super::objects::Key;
use crate::directory::Demand;
use crate::metrics::Metrics;
use crate::system::clock;

/// What field managers of gateways begin with; the gateway's name follows.
const MANAGER: &str = "halo-gateway/";
/// The longest field manager that the API server takes.
const MANAGER_MAX: usize = 128;

/// Where the rest of the gateway leaves what it has.
#[derive(Default)]
pub struct Inbox {
    /// The latest number of each tenant, and whether it had any request since it was looked at.
    news: Mutex<HashMap<TenantId, (Demand, bool)>>,
    wake: Notify,
}

impl Inbox {
    /// Leaves what a tenant has now. Returns at once.
    pub fn put(&self, tenant: &TenantId, demand: Demand) {
        let busy = demand != Demand::default();
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        match news.get_mut(tenant) {
            Some((latest, touched)) => {
                *latest = demand;
                *touched |= busy;
            }
            None => {
                news.insert(tenant.clone(), (demand, busy));
            }
        }
        drop(news);
        self.wake.notify_one();
    }

    fn take(&self) -> HashMap<TenantId, (Demand, bool)> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *news)
    }
}

/// Asks the reporter to take its entries away and to end; answered when it has.
pub type Leave = oneshot::Sender<()>;

/// The task that writes.
pub struct Reporter {
    /// The API server; it must not repeat calls by itself.
    pub client: Client,
    /// This gateway's name.
    pub name: String,
    /// How often.
    pub pace: Pace,
    /// Where demand is left.
    pub inbox: Arc<Inbox>,
    /// What is known of the cluster.
    pub hub: Arc<Hub>,
    /// Counters.
    pub metrics: Metrics,
}

/// What the task remembers.
#[derive(Default)]
struct State {
    tenants: HashMap<TenantId, Demand>,
    desks: HashMap<Key, Desk>,
    /// How long after its last request each substrate sleeps, as far as it was known last.
    idle_after: HashMap<Key, Duration>,
    /// Entries of gateways that ended, which are being removed or were.
    cleaned: HashSet<(Key, String)>,
    inherited: bool,
    leaving: bool,
}

/// A call that ended.
enum Ended {
    Own(Key, Written),
    Garbage,
}

impl Reporter {
    /// Runs until it is asked to leave.
    pub async fn run(self, mut leave: oneshot::Receiver<Leave>) {
        let mut state = State::default();
        let mut calls: JoinSet<Ended> = JoinSet::new();
        let mut changes = self.hub.changes();
        let mut leaving: Option<Leave> = None;
        loop {
            self.look(&mut state);
            let next = self.write(&mut state, &mut calls);
            if let Some(done) = leaving.take_if(|_| state.desks.is_empty()) {
                // Nobody may wait for it any more.
                let _ = done.send(());
                return;
            }
            let until = next.map(|next| Instant::now() + next.saturating_sub(self.hub.now()));
            let timer = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                Some(ended) = calls.join_next() => self.ended(&mut state, &mut calls, ended.ok()),
                asked = &mut leave, if leaving.is_none() => match asked {
                    Ok(done) => {
                        leaving = Some(done);
                        state.leaving = true;
                        state.desks.values_mut().for_each(Desk::leave);
                    }
                    // The gateway ended without asking.
                    Err(_) => return,
                },
                () = timer => {}
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            steady: self.hub.now(),
            clock: clock(),
        }
    }

    /// Takes what changed, and adds it up for each substrate.
    fn look(&self, state: &mut State) {
        let (view, now) = (self.hub.view(), self.now());
        if view.synced && !state.inherited {
            state.inherited = true;
            for (key, entry) in self.hub.demand_of(&self.name) {
                let desk = Desk::inherited(entry.last_active);
                state.desks.entry(key).or_insert(desk);
            }
        }
        let mut touched: HashSet<TenantId> = HashSet::new();
        for (tenant, (demand, busy)) in self.inbox.take() {
            if busy {
                touched.insert(tenant.clone());
            }
            state.tenants.insert(tenant, demand);
        }
        let mut sums: HashMap<Key, (Demand, bool)> = HashMap::new();
        for (tenant, demand) in &state.tenants {
            let place = view.tenant(tenant).and_then(|one| one.substrate.as_ref());
            let Some(place) = place else { continue };
            let (sum, busy) = sums.entry(place.key.clone()).or_default();
            sum.waiting = sum.waiting.saturating_add(demand.waiting);
            sum.answering = sum.answering.saturating_add(demand.answering);
            *busy |= touched.contains(tenant);
            state.idle_after.insert(place.key.clone(), place.idle_after);
        }
        for (key, desk) in &mut state.desks {
            let (demand, busy) = sums.remove(key).unwrap_or_default();
            desk.set(demand, busy, now);
        }
        if state.leaving {
            return;
        }
        for (key, (demand, busy)) in sums {
            let mut desk = Desk::default();
            desk.set(demand, busy, now);
            state.desks.insert(key, desk);
        }
        // Tenants without requests, or that are not served any more with them, need no place here.
        state
            .tenants
            .retain(|_, demand| *demand != Demand::default());
    }

    /// Begins the calls that are due; the time of the next one.
    fn write(&self, state: &mut State, calls: &mut JoinSet<Ended>) -> Option<Duration> {
        let now = self.now();
        let mut next: Option<Duration> = None;
        let unknown = Duration::ZERO;
        state.desks.retain(|_, desk| !desk.is_clear());
        for (key, desk) in &mut state.desks {
            let idle_after = state.idle_after.get(key).copied().unwrap_or(unknown);
            match desk.next(&self.pace, idle_after, now) {
                Next::Nothing => {}
                Next::At(time) => next = Some(next.map_or(time, |other| other.min(time))),
                Next::Write(entry) => {
                    desk.begin(entry);
                    let call = self.call(key, &self.name, entry);
                    let key = key.clone();
                    calls.spawn(async move { Ended::Own(key, call.await) });
                }
            }
        }
        let desks = &state.desks;
        state.idle_after.retain(|key, _| desks.contains_key(key));
        next
    }

    fn ended(&self, state: &mut State, calls: &mut JoinSet<Ended>, ended: Option<Ended>) {
        let Some(Ended::Own(key, written)) = ended else {
            return;
        };
        let now = self.now();
        if let Some(desk) = state.desks.get_mut(&key) {
            desk.end(written, &self.pace, super::random_byte(), now);
        }
        // Whoever writes to a substrate takes away what others left behind there.
        let idle_after = state.idle_after.get(&key).copied().unwrap_or_default();
        let entries = self.hub.demand(&key);
        for gateway in garbage(&entries, &self.name, idle_after, now.clock) {
            let name = (key.clone(), gateway.to_owned());
            if state.cleaned.insert(name) {
                tracing::info!(substrate = %key, gateway, "removing the demand of a gateway that ended");
                let call = self.call(&key, gateway, Entry::Removed);
                calls.spawn(async move {
                    call.await;
                    Ended::Garbage
                });
            }
        }
    }

    /// One call under a gateway's field manager, which owns its entry and nothing else.
    fn call(
        &self,
        key: &Key,
        gateway: &str,
        entry: Entry,
    ) -> impl Future<Output = Written> + Send + use<> {
        let path = format!(
            "/apis/{GROUP}/{VERSION}/namespaces/{}/halosubstrates",
            key.namespace
        );
        let params = PatchParams::apply(&manager(gateway)).force();
        let patch = Patch::Apply(document(gateway, entry));
        let request =
            kube::core::Request::new(path).patch_subresource("status", &key.name, &params, &patch);
        let (client, limit, key) = (self.client.clone(), self.pace.call, key.clone());
        let metrics = self.metrics.clone();
        let good = match entry {
            Entry::Removed => "removed",
            Entry::Busy { .. } | Entry::Idle { .. } => "written",
        };
        async move {
            let request = match request {
                Ok(request) => request,
                Err(error) => {
                    tracing::warn!(substrate = %key, %error, "demand cannot be reported");
                    return Written::Failed(None);
                }
            };
            let answer = timeout(limit, client.request_text(request)).await;
            match answer {
                Ok(Ok(_)) => {
                    metrics.demand_written(good);
                    Written::Done
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                    metrics.demand_written("removed");
                    Written::Gone
                }
                Ok(Err(error)) => {
                    metrics.demand_written(match &error {
                        kube::Error::Api(status) if status.code == 409 => "conflict",
                        _ => "failed",
                    });
                    tracing::warn!(substrate = %key, %error, "demand was not reported; trying again");
                    Written::Failed(asked_to_wait(&error))
                }
                Err(_) => {
                    metrics.demand_written("failed");
                    tracing::warn!(substrate = %key, "demand was not reported in time; trying again");
                    Written::Failed(None)
                }
            }
        }
    }
}

fn asked_to_wait(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    Some(Duration::from_secs(seconds.into())).filter(|wait| !wait.is_zero())
}

/// The field manager of a gateway. Of a name that is too long the end counts, which tells pods apart.
fn manager(gateway: &str) -> String {
    let room = MANAGER_MAX - MANAGER.len();
    let from = gateway.len().saturating_sub(room);
    let tail = gateway.get(from..).unwrap_or(gateway);
    format!("{MANAGER}{tail}")
}

/// What is applied. Without an entry it owns nothing, so that the entry goes.
fn document(gateway: &str, entry: Entry) -> serde_json::Value {
    let demand = |in_flight, since: Option<_>, last_active| StatusDemand {
        gateway: gateway.to_owned(),
        in_flight,
        since: since.map(Time),
        last_active: Time(last_active),
    };
    let entry = match entry {
        Entry::Busy {
            in_flight,
            since,
            last_active,
        } => Some(demand(in_flight, Some(since), last_active)),
        Entry::Idle { last_active } => Some(demand(0, None, last_active)),
        Entry::Removed => None,
    };
    let mut document = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "HaloSubstrate",
    });
    if let Some(entry) = entry {
        document["status"] = json!({"demand": [entry]});
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_manager_has_room_and_ends_as_its_gateway() {
        assert_eq!(manager("gateway-0"), "halo-gateway/gateway-0");
        let long = format!("{}-7d9f-x2x4z", "g".repeat(240));
        assert_eq!(manager(&long).len(), MANAGER_MAX);
        assert!(manager(&long).ends_with("-7d9f-x2x4z"));
    }

    #[test]
    fn what_is_applied_holds_the_entry_and_nothing_else() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let busy = Entry::Busy {
            in_flight: 3,
            since: at(10),
            last_active: at(20),
        };
        let expected = json!({
            "apiVersion": "halo.howdify.io/v1alpha1",
            "kind": "HaloSubstrate",
            "status": {"demand": [{
                "gateway": "g", "inFlight": 3, "since": "1970-01-01T00:00:10Z", "lastActive": "1970-01-01T00:00:20Z",
            }]},
        });
        assert_eq!(document("g", busy), expected);
        let idle = document(
            "g",
            Entry::Idle {
                last_active: at(20),
            },
        );
        let expected =
            json!([{"gateway": "g", "inFlight": 0, "lastActive": "1970-01-01T00:00:20Z"}]);
        assert_eq!(idle["status"]["demand"], expected);
        assert!(document("g", Entry::Removed).get("status").is_none());
    }
}
