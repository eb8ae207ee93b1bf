//! The world behind its lock: what every connection, the ticker and the typed verbs share.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use crate::faults::Faults;
use crate::world::state::Moment;
use crate::world::{Effect, Random, Step, World};

use super::Credentials;
use super::calls::Calls;
use super::state_file;

/// The wall clock at the start, moved on by the monotonic one.
#[derive(Debug)]
pub struct Clock {
    base: Moment,
    start: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            base: u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX / 2),
            start: Instant::now(),
        }
    }

    /// Microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX / 2)
    }

    /// Microseconds since 1970.
    pub fn now(&self) -> Moment {
        self.base + self.elapsed_us()
    }
}

/// What the lock guards.
#[derive(Debug)]
pub struct Inner {
    /// The account.
    pub world: World,
    /// Faults that wait.
    pub faults: Faults,
    /// Calls that were received.
    pub calls: Calls,
    /// For new ids.
    pub random: Random,
    saved: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    inner: Mutex<Inner>,
    /// The clock.
    pub clock: Clock,
    changed: watch::Sender<u64>,
    effects: mpsc::UnboundedSender<Effect>,
    state_file: Option<PathBuf>,
    /// The key pair that requests must be signed by.
    pub credentials: Option<Credentials>,
}

impl Shared {
    /// Everything in one place; effects go to the receiver of `effects`.
    pub fn new(
        world: World,
        faults: Faults,
        random: Random,
        effects: mpsc::UnboundedSender<Effect>,
        state_file: Option<PathBuf>,
        credentials: Option<Credentials>,
    ) -> Self {
        let saved = world.revision();
        Self {
            inner: Mutex::new(Inner {
                world,
                faults,
                calls: Calls::default(),
                random,
                saved,
            }),
            clock: Clock::start(),
            changed: watch::Sender::new(0),
            effects,
            state_file,
            credentials,
        }
    }

    /// One step of the world. What it changed is on disk before this returns, its effects are on their way, and who waits is told.
    ///
    /// # Errors
    /// The state file could not be written; the change holds in memory.
    pub fn step<T>(
        &self,
        with: impl FnOnce(&mut World, &mut Faults, &mut Calls, &mut Step<'_>) -> T,
    ) -> Result<T, state_file::StateFileError> {
        let mut guard = self.lock();
        let Inner {
            world,
            faults,
            calls,
            random,
            saved,
        } = &mut *guard;
        let mut step = Step::at(self.clock.now(), random);
        let result = with(world, faults, calls, &mut step);
        let effects = step.effects;
        let stored = match &self.state_file {
            Some(path) if world.revision() != *saved => state_file::write(path, &world.state),
            _ => Ok(()),
        };
        if stored.is_ok() {
            *saved = world.revision();
        }
        for effect in effects {
            // The receiver lives until the emulator ends; then nothing is booted any more.
            let _ = self.effects.send(effect);
        }
        drop(guard);
        self.changed.send_modify(|version| *version += 1);
        stored.map(|()| result)
    }

    /// Reads without changing anything.
    pub fn look<T>(&self, with: impl FnOnce(&World, &Faults, &Calls) -> T) -> T {
        let guard = self.lock();
        with(&guard.world, &guard.faults, &guard.calls)
    }

    /// A number that changes after every step.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A step that panicked has ended its own call only.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
