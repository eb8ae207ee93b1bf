//! What a control plane consists of.

use std::{net::Ipv4Addr, path::PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// How the controller manager runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Controllers {
    /// Not at all. Nothing is collected, a deleted namespace stays Terminating, a Deployment has no pods. The ServiceAccount
    /// admission plugin is off, because nobody makes the default service accounts that it asks for.
    #[default]
    Off,
    /// All that are on by default.
    On,
    /// These, by the names that `--controllers` takes, such as `namespace-controller`.
    Only(Vec<String>),
}

/// What to start. `Options::default()` is etcd and an API server with an audit log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The controller manager.
    pub controllers: Controllers,
    /// Whether a scheduler runs.
    pub scheduler: bool,
    /// Definitions to install before the controllers start. The garbage collector and the quota controller look for new kinds every
    /// 30 s only, so a kind that is installed here spares a test that wait.
    pub crds: Vec<CustomResourceDefinition>,
    /// Feature gates of all programs, such as `("OrderedNamespaceDeletion", true)`.
    pub feature_gates: Vec<(String, bool)>,
    /// Further flags of the API server, such as `--default-not-ready-toleration-seconds=1`. A flag that is given here as well wins.
    pub api_server_flags: Vec<String>,
    /// Further flags of the controller manager.
    pub controller_flags: Vec<String>,
    /// Whether the audit log is written; it takes about 1.5 kB a request on disk.
    pub audit: bool,
    /// Where real nodes reach the API server, an address of this machine; none means that there are none and it listens on loopback only.
    pub address: Option<Ipv4Addr>,
    /// Where its files are made; none means in memory where that is possible.
    pub folder: Option<PathBuf>,
    /// Where to keep the programs' logs and the audit log; none means a folder that is removed at the end.
    pub logs: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: Controllers::Off,
            scheduler: false,
            crds: Vec::new(),
            feature_gates: Vec::new(),
            api_server_flags: Vec::new(),
            controller_flags: Vec::new(),
            audit: true,
            address: None,
            folder: None,
            logs: None,
        }
    }
}

impl Options {
    /// Everything runs: controllers, scheduler, audit log.
    pub fn full() -> Self {
        Self {
            controllers: Controllers::On,
            scheduler: true,
            ..Self::default()
        }
    }

    pub(crate) fn feature_gate_flag(&self) -> Option<String> {
        let gates: Vec<String> = self
            .feature_gates
            .iter()
            .map(|(gate, on)| format!("{gate}={on}"))
            .collect();
        (!gates.is_empty()).then(|| format!("--feature-gates={}", gates.join(",")))
    }

    /// The value of `--controllers`; none means no controller manager.
    pub(crate) fn controllers_flag(&self) -> Option<String> {
        match &self.controllers {
            Controllers::Off => None,
            Controllers::On => Some("--controllers=*".to_owned()),
            Controllers::Only(names) => Some(format!("--controllers={}", names.join(","))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let mut options = Options::default();
        assert_eq!(options.feature_gate_flag(), None);
        assert_eq!(options.controllers_flag(), None);
        options.feature_gates = vec![("A".into(), true), ("B".into(), false)];
        options.controllers = Controllers::Only(vec!["x".into(), "y".into()]);
        assert_eq!(
            options.feature_gate_flag().unwrap(),
            "--feature-gates=A=true,B=false"
        );
        assert_eq!(options.controllers_flag().unwrap(), "--controllers=x,y");
        assert_eq!(
            Options::full().controllers_flag().unwrap(),
            "--controllers=*"
        );
    }
}
