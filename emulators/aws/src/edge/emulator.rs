//! An emulator in this process: a thread with a server, and the admin endpoint's verbs as methods.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::faults::{Fault, Faults};
use crate::rules::{Limits, RateLimit, Timings};
use crate::world::state::{CapacityRule, Instance, ParameterKind, State, Tags};
use crate::world::{Effect, Random, Step, World};

use super::calls::CallRecord;
use super::hook::{self, Ending};
use super::shared::Shared;
use super::state_file::{self, StateFileError};
use super::{Config, server};

/// Why an emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// The system gives no randomness.
    #[error("no randomness: {0}")]
    Randomness(String),
    /// The system gives no thread or no runtime.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What a predicate of [`Emulator::wait_until`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Everything that exists.
    pub state: &'a State,
    /// Every call, oldest first.
    pub calls: &'a [CallRecord],
}

impl View<'_> {
    /// How many calls of this action were received.
    pub fn count(&self, action: &str) -> usize {
        let of_action = self.calls.iter().filter(|call| call.action == action);
        of_action.count()
    }
}

/// What was waited for did not come to be in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not within {within:?}; instances: {instances:?}; last calls: {calls:?}")]
pub struct TimedOut {
    /// How long it was waited for.
    pub within: Duration,
    /// Ids and states of the instances at the end.
    pub instances: Vec<String>,
    /// The last calls.
    pub calls: Vec<String>,
}

/// A running emulator. It ends, and so does everything that it booted, when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    ending: watch::Sender<Ending>,
    done: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Listens, and boots again what an earlier emulator left running in the state file.
    ///
    /// The server has a thread and a runtime of its own: it answers even if the caller's runtime is busy, paused or absent.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        let state = match &config.state_file {
            Some(path) => state_file::read(path)?,
            None => State::default(),
        };
        let seed = match config.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|error| StartError::Randomness(error.to_string()))?,
        };
        let listen = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let (effects, to_carry_out) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(
            World::new(config.rules, state),
            Faults::new(config.faults),
            Random(seed),
            effects,
            config.state_file,
            config.credentials,
        ));
        shared.step(|world, _, _, step| world.boot_again(step))?;
        let (ending, to_end) = watch::channel(Ending::No);
        let (tell_done, done) = watch::channel(false);
        let serving = Arc::clone(&shared);
        let boot = config.boot;
        let thread = std::thread::Builder::new()
            .name("aws-emulator".to_owned())
            .spawn(move || {
                runtime.block_on(life(serving, listener, boot, to_carry_out, to_end));
                // Connections that still wait for an answer end here.
                runtime.shutdown_background();
                tell_done.send_replace(true);
            })
            .map_err(StartError::Thread)?;
        Ok(Self {
            address,
            shared,
            ending,
            done,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint of both EC2 and SSM, such as `http://127.0.0.1:34567`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The region that requests must be signed for.
    pub fn region(&self) -> String {
        self.shared
            .look(|world, _, _| world.rules.catalogue.region.clone())
    }

    /// Ends it: what was booted gets SIGTERM, its grace, and SIGKILL.
    pub async fn stop(mut self) {
        self.ending.send_replace(Ending::Graceful);
        // The sender lives as long as the thread; an error means that it has ended too.
        let _ = self.done.wait_for(|done| *done).await;
        self.join();
    }

    /// Waits until a predicate holds, looking again after every change and every call. The predicate must not call this
    /// emulator: it runs under the world's lock. `within` is on the caller's tokio clock, which must not be paused.
    ///
    /// # Errors
    /// [`TimedOut`] with what there is instead.
    pub async fn wait_until(
        &self,
        within: Duration,
        mut predicate: impl FnMut(&View<'_>) -> bool,
    ) -> Result<(), TimedOut> {
        let mut changes = self.shared.changes();
        let holds = async {
            loop {
                changes.borrow_and_update();
                if self.look(&mut predicate) {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, holds)
            .await
            .map_err(|_| self.look(|view| timed_out(view, within)))
    }

    /// Looks at everything at one moment.
    pub fn look<T>(&self, with: impl FnOnce(&View<'_>) -> T) -> T {
        self.shared.look(|world, _, calls| {
            with(&View {
                state: &world.state,
                calls: calls.records(),
            })
        })
    }

    /// A copy of everything that exists.
    pub fn state(&self) -> State {
        self.look(|view| view.state.clone())
    }

    /// One instance.
    pub fn instance(&self, id: &str) -> Option<Instance> {
        self.look(|view| view.state.instances.get(id).cloned())
    }

    /// Instances that have neither ended nor are about to.
    pub fn living(&self) -> Vec<Instance> {
        self.look(|view| view.state.living().cloned().collect())
    }

    /// Every call that was received, oldest first.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.look(|view| view.calls.to_vec())
    }

    /// Every call of one action.
    pub fn calls_of(&self, action: &str) -> Vec<CallRecord> {
        self.look(|view| {
            let calls = view.calls.iter();
            calls
                .filter(|call| call.action == action)
                .cloned()
                .collect()
        })
    }

    /// Forgets the calls so far; their numbers go on.
    pub fn clear_calls(&self) {
        self.step(|_, _, calls, _| calls.clear());
    }

    /// One more fault, after those that wait already.
    pub fn add_fault(&self, fault: Fault) {
        self.step(|_, faults, _, _| faults.push(fault));
    }

    /// No faults any more.
    pub fn clear_faults(&self) {
        self.step(|_, faults, _, _| faults.clear());
    }

    /// Faults that wait or go on.
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.look(|_, faults, _| faults.waiting().to_vec())
    }

    /// Sets, replaces or takes away the capacity of one place.
    pub fn set_capacity(&self, rule: CapacityRule) {
        self.step(|world, _, _, _| world.set_capacity(rule));
    }

    /// Replaces the list of denied IAM actions, such as `ec2:RunInstances`, `ssm:*`, `kms:Decrypt`, `iam:PassRole`.
    pub fn deny<S: Into<String>>(&self, actions: impl IntoIterator<Item = S>) {
        let actions = actions.into_iter().map(Into::into).collect();
        self.step(|world, _, _, _| world.set_denied(actions));
    }

    /// Ends an instance behind everybody's back; `reason` is the code and message of its state reason, or the user's own
    /// doing. Whether there is such an instance.
    pub fn terminate(&self, id: &str, reason: Option<(&str, &str)>) -> bool {
        self.step(|world, _, _, step| world.terminate_out_of_band(id, reason, step))
    }

    /// Stops a running instance behind everybody's back. Whether it was running.
    pub fn stop_instance(&self, id: &str) -> bool {
        self.step(|world, _, _, step| world.stop_out_of_band(id, step))
    }

    /// Adds tags to an instance or volume behind everybody's back. Whether it is there.
    pub fn tag(&self, id: &str, tags: &Tags) -> bool {
        self.step(|world, _, _, step| world.tag_out_of_band(id, tags, step))
    }

    /// Puts a parameter, or a new version of it; returns the version.
    pub fn put_parameter(&self, name: &str, value: &str, kind: ParameterKind) -> u64 {
        self.step(|world, _, _, step| world.put_parameter_out_of_band(name, value, kind, step))
    }

    /// Takes a parameter away; whether it was there.
    pub fn remove_parameter(&self, name: &str) -> bool {
        self.step(|world, _, _, _| world.remove_parameter(name))
    }

    /// Other delays from now on.
    pub fn set_timings(&self, timings: Timings) {
        self.step(|world, _, _, _| world.set_timings(timings));
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.step(|world, _, _, _| world.set_limits(limits));
    }

    /// Other budgets of calls from now on.
    pub fn set_rate_limits(&self, limits: Vec<RateLimit>) {
        self.step(|world, _, _, _| world.set_rate_limits(limits));
    }

    /// An empty account without faults and calls; what was booted is ended.
    pub fn reset(&self) {
        self.step(|world, faults, calls, step| {
            world.reset(step);
            faults.clear();
            calls.clear();
        });
    }

    fn step<T: Default>(
        &self,
        with: impl FnOnce(&mut World, &mut Faults, &mut super::calls::Calls, &mut Step<'_>) -> T,
    ) -> T {
        self.shared.step(with).unwrap_or_else(|error| {
            tracing::error!(%error, "the state is not stored");
            T::default()
        })
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there was logged by its hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.ending.send_replace(Ending::Now);
        self.join();
    }
}

async fn life(
    shared: Arc<Shared>,
    listener: TcpListener,
    boot: hook::Boot,
    effects: mpsc::UnboundedReceiver<Effect>,
    ending: watch::Receiver<Ending>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener cannot be used");
            return;
        }
    };
    let ticking = tokio::spawn(server::tick(Arc::clone(&shared)));
    let hooks = tokio::spawn(hook::run(boot, effects, ending.clone()));
    server::serve(shared, listener, ending).await;
    ticking.abort();
    let _ = hooks.await;
}

fn timed_out(view: &View<'_>, within: Duration) -> TimedOut {
    let last = view.calls.len().saturating_sub(20);
    TimedOut {
        within,
        instances: view
            .state
            .instances
            .values()
            .map(|instance| format!("{} {}", instance.id, instance.state.name()))
            .collect(),
        calls: view.calls[last..]
            .iter()
            .map(|call| format!("{} {:?}", call.action, call.outcome))
            .collect(),
    }
}
