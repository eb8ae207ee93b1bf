//! Time for the machines: the wall clock when the program started, and what has passed since, so that it never jumps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use halo_receipts::time::Timestamp;

/// The system's clock or random source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// Before 1970 or after 9999.
    #[error("the system's clock is not between 1970 and 9999; set it")]
    Wall,
    /// No random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A clock that only goes forward.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    pub fn start() -> Result<Self, ClockError> {
        Self::shifted(0)
    }

    /// Reads the wall clock once, and goes `offset` seconds before it, for tests of what happens at another time.
    pub fn shifted(offset: i64) -> Result<Self, ClockError> {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|_| ClockError::Wall)?;
        let micros = u64::try_from(wall.as_micros()).map_err(|_| ClockError::Wall)?;
        let offset = offset.checked_mul(1_000_000).ok_or(ClockError::Wall)?;
        let micros = micros.checked_add_signed(offset).ok_or(ClockError::Wall)?;
        let wall = Timestamp::from_micros(micros).ok_or(ClockError::Wall)?;
        Ok(Self {
            wall,
            started: Instant::now(),
        })
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let passed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let micros = self.wall.micros().saturating_add(passed);
        Timestamp::from_micros(micros).unwrap_or(self.wall)
    }

    /// How long it is until `time`; zero if that is past. A little is added so that the time has come when it is over.
    pub fn until(&self, time: Timestamp) -> Duration {
        Duration::from_micros(
            time.micros()
                .saturating_sub(self.now().micros())
                .saturating_add(100),
        )
    }
}

/// Milliseconds since 1970 by the machine's own clock, whatever the phone's is shifted by: what events are stamped with.
pub fn wall_ms() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(wall.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// 32 random bytes for one step of a machine.
pub fn random() -> Result<[u8; 32], ClockError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(ClockError::Random)?;
    Ok(bytes)
}
