//! Tier 0 and Tier 1 of HALO, the glasses and the phone, as programs.
//!
//! Each tier is a pure machine with thin edges: [`tier0::machine::Sensor`] and [`tier1::machine::Orchestrator`] take one
//! event, the time and 32 random bytes, and return what is to be done. They open no socket and read no clock, so the
//! programs `halo-tier0` and `halo-tier1`, the tables in the tests and a simulation all drive the same code.

pub mod counters;
mod draw;
pub mod edge;
pub mod tier0;
pub mod tier1;

use halo_receipts::messages::CaptureKind;
use halo_receipts::time::Timestamp;

/// The longest capture that a sensor sends and a phone takes: about 65 s of sound, or a large picture.
pub const CAPTURE_MAX: usize = 2 * 1024 * 1024;

/// The time `milliseconds` after `time`; the last representable time if there is none.
pub(crate) fn after(time: Timestamp, milliseconds: u64) -> Timestamp {
    let micros = time
        .micros()
        .saturating_add(milliseconds.saturating_mul(1000));
    Timestamp::from_micros(micros).unwrap_or(time)
}

/// Milliseconds from `earlier` to `later`; 0 if it is not later.
pub(crate) fn elapsed_ms(earlier: Timestamp, later: Timestamp) -> u64 {
    later.micros().saturating_sub(earlier.micros()) / 1000
}

/// What a capture is called in JSON lines.
pub(crate) fn kind_name(kind: CaptureKind) -> &'static str {
    match kind {
        CaptureKind::Audio => "audio",
        CaptureKind::Image => "image",
        CaptureKind::Gesture => "gesture",
    }
}
