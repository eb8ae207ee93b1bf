//! What both programs need of the machine they run on: time, randomness, key files, logs.

pub mod clock;
pub mod logs;
pub mod secret_file;
