//! What a watch of tenants and substrates has brought, and waiting for it.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::StreamExt as _;
use halo_crds::status::Phase;
use halo_crds::{HaloSubstrate, HaloTenant, condition};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::objects::Key;

/// A substrate as the watch brought it last.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its resource version.
    pub version: String,
    /// When it came.
    pub at: Instant,
    /// Its phase.
    pub phase: Option<Phase>,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// Slots that have an instance.
    pub instances: usize,
    /// Slots.
    pub slots: usize,
}

/// Everything that the watches brought.
#[derive(Debug, Default)]
pub struct State {
    /// Substrates.
    pub substrates: HashMap<Key, Seen>,
    /// Tenants that are ready.
    pub ready_tenants: HashSet<String>,
}

impl State {
    /// How many substrates are ready and asleep, with no slot left.
    pub fn asleep(&self) -> usize {
        let all = self.substrates.values();
        all.filter(|seen| is_asleep(seen)).count()
    }

    /// Whether these substrates are ready and asleep, with no slot left.
    pub fn are_asleep(&self, keys: &[Key]) -> bool {
        keys.iter()
            .all(|key| self.substrates.get(key).is_some_and(is_asleep))
    }
}

fn is_asleep(seen: &Seen) -> bool {
    seen.ready && seen.phase == Some(Phase::Asleep) && seen.slots == 0
}

/// Two watches. Dropping it ends them.
pub struct Board {
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<u64>,
    tasks: [AbortHandle; 2],
}

impl Drop for Board {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Board {
    /// Begins to watch.
    pub fn start(client: &Client) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let (tell, changed) = watch::channel(0);
        let tell = Arc::new(tell);
        let substrates = follow(
            Api::<HaloSubstrate>::all(client.clone()),
            state.clone(),
            tell.clone(),
            take_substrate,
        );
        let tenants = follow(
            Api::<HaloTenant>::all(client.clone()),
            state.clone(),
            tell,
            take_tenant,
        );
        let tasks = [
            tokio::spawn(substrates).abort_handle(),
            tokio::spawn(tenants).abort_handle(),
        ];
        Self {
            state,
            changed,
            tasks,
        }
    }

    /// What there is now.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// It does not within this time; `what` says what was waited for.
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T> {
        let mut changed = self.changed.clone();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&self.state()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(within, found).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => bail!("the watches ended while waiting for {what}"),
            Err(_) => bail!("not within {within:?}: {what}"),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow<K>(
    api: Api<K>,
    state: Arc<Mutex<State>>,
    tell: Arc<watch::Sender<u64>>,
    take: fn(&mut State, K, bool),
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                take(&mut lock(&state), object, true);
            }
            Ok(Event::Delete(object)) => take(&mut lock(&state), object, false),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => eprintln!("halo-bench-operator: a watch broke: {error}"),
        }
        tell.send_modify(|version| *version += 1);
    }
}

fn take_substrate(state: &mut State, substrate: HaloSubstrate, there: bool) {
    let at = Instant::now();
    let key = Key {
        namespace: substrate.namespace().unwrap_or_default(),
        name: substrate.name_any(),
    };
    if !there {
        state.substrates.remove(&key);
        return;
    }
    let status = substrate.status.unwrap_or_default();
    let instances = status.nodes.iter().filter(|slot| slot.instance.is_some());
    let seen = Seen {
        version: substrate.metadata.resource_version.unwrap_or_default(),
        at,
        phase: status.phase,
        ready: condition::is_true(&status.conditions, "Ready"),
        instances: instances.count(),
        slots: status.nodes.len(),
    };
    state.substrates.insert(key, seen);
}

fn take_tenant(state: &mut State, tenant: HaloTenant, there: bool) {
    let name = tenant.name_any();
    let conditions = tenant.status.map(|status| status.conditions);
    if there && condition::is_true(&conditions.unwrap_or_default(), "Ready") {
        state.ready_tenants.insert(name);
    } else {
        state.ready_tenants.remove(&name);
    }
}
