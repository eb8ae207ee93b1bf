//! Tier 0: the sensor. `machine` decides; the other modules make captures out of files and connect it to the phone.

pub mod jpeg;
mod key;
pub mod machine;
pub mod run;
pub mod sample;
pub mod sound;
pub mod wav;

#[cfg(test)]
mod machine_tests;
