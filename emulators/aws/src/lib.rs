//! An EC2 and SSM on loopback that can be trusted to be unkind.
//!
//! The real SDKs talk to it unchanged. It keeps the promises that AWS keeps and breaks the ones that AWS does not make: a client
//! token launches once and remembers its parameters, a new instance is invisible for a while, capacity runs out by type, zone and
//! tenancy, calls are throttled or denied, and a fault may cut a connection before or after the call was done.
//!
//! [`world`] is pure: a request, the state, the time and randomness in; an answer and effects out. [`edge`] has the sockets,
//! files, clocks and child processes. [`Emulator`] is both together, in this process:
//!
//! ```no_run
//! use halo_aws_emulator::{CapacityRule, Config, Emulator};
//!
//! # fn main() -> Result<(), halo_aws_emulator::StartError> {
//! let emulator = Emulator::start(Config::default())?;
//! println!("AWS_ENDPOINT_URL={}", emulator.url());
//! emulator.set_capacity(CapacityRule::of("r7iz.4xlarge", "us-east-2a").slots(0));
//! # Ok(())
//! # }
//! ```

pub mod catalogue;
pub mod edge;
pub mod faults;
pub mod form;
pub mod rules;
pub mod sigv4;
pub mod world;
pub mod xml;

pub use catalogue::Catalogue;
pub use edge::calls::{CallRecord, Outcome};
pub use edge::emulator::{Emulator, StartError, TimedOut, View};
pub use edge::hook::{Boot, InstanceEvent};
pub use edge::{Config, Credentials};
pub use faults::{Fault, FaultAction, When};
pub use rules::{Limits, RateLimit, Rules, SpentToken, Timings};
pub use world::state::{
    CapacityRule, Instance, InstanceState, ParameterKind, State, Volume, VolumeState,
};
pub use world::{Started, Stopped};
