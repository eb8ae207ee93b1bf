//! The edges to the clock and to randomness.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use halo_receipts::time::Timestamp;

/// The system's clock or its source of randomness does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be read")]
pub struct SystemError(&'static str);

/// Seconds that this program's clock is ahead of the system's.
static CLOCK_OFFSET: AtomicI64 = AtomicI64::new(0);

/// Shifts the clock of this program: what it stamps and compares is so many seconds ahead of the system's clock.
pub fn shift_clock(seconds: i64) {
    CLOCK_OFFSET.store(seconds, Ordering::Relaxed);
}

/// The time.
pub fn now() -> Result<Timestamp, SystemError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    let shift = CLOCK_OFFSET
        .load(Ordering::Relaxed)
        .saturating_mul(1_000_000);
    let shifted = micros.and_then(|micros| u64::try_from(micros.saturating_add(shift)).ok());
    let time = shifted.and_then(Timestamp::from_micros);
    time.ok_or(SystemError("the system's clock"))
}

/// The time as the API server writes it.
pub fn clock() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    let shift = jiff::SignedDuration::from_secs(CLOCK_OFFSET.load(Ordering::Relaxed));
    now.checked_add(shift).unwrap_or(now)
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], SystemError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SystemError("the source of randomness"))?;
    Ok(bytes)
}
