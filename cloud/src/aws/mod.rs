//! AWS: EC2 (Query API, version 2016-11-15) and SSM's GetParameter (JSON 1.1), spoken by hand.
//!
//! Only the credentials and the signature are the SDK's. An [`AwsSession`] holds what all calls share: credentials, connections, the
//! pace of each class of calls and who watches them. [`AwsCloud`] and [`AwsSecrets`] are what the rest of HALO sees.
//!
//! ```no_run
//! use std::sync::Arc;
//! use halo_cloud::aws::{AwsCloud, AwsSecrets, AwsSession, AwsSettings, NoObserver};
//!
//! # fn main() -> Result<(), halo_cloud::aws::SetupError> {
//! let settings = AwsSettings::new("us-east-2", "prod");
//! let session = AwsSession::new(settings, Arc::new(NoObserver))?;
//! let cloud = AwsCloud::new(&session);
//! let secrets = AwsSecrets::new(&session);
//! # Ok(())
//! # }
//! ```

mod action;
mod answers;
mod batch;
mod cloud;
mod codes;
mod ec2;
mod form;
mod fresh;
mod images;
mod json;
mod keys;
mod observe;
mod pace;
mod permissions;
mod requests;
mod retry;
mod secrets;
mod session;
mod settings;
mod sign;
mod ssm;
mod wire;
mod words;
mod xml;

pub use cloud::AwsCloud;
pub use observe::{CallObserver, NoObserver};
pub use pace::Pace;
pub use secrets::AwsSecrets;
pub use session::AwsSession;
pub use settings::{AwsSettings, Paces, SetupError, Timing, dns_suffix};
