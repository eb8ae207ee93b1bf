//! Tier 0: the sensor. `machine` decides; the other modules make captures out of files and connect it to the phone.

mod key;
pub mod machine;
