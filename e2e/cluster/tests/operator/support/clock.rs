//! A clock that can be set forward.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use halo_operator::clock::Clock;
use jiff::{SignedDuration, Timestamp};

/// The machine's clock and a distance to it. Leases run by the machine's own.
#[derive(Default)]
pub struct ShiftedClock {
    milliseconds: AtomicI64,
}

impl ShiftedClock {
    /// Sets it forward. What waits for a time sleeps on all the same: something has to happen for it to be looked at.
    pub fn forward(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        self.milliseconds.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let by = self.milliseconds.load(Ordering::SeqCst);
        Timestamp::now() + SignedDuration::from_millis(by)
    }
}
