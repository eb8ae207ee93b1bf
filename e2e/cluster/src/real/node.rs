//! One machine that is a node: what it is told, and the files that its containerd and kubelet start with.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::oci::PAUSE;

/// Where Debian's containernetworking-plugins are.
pub(super) const PLUGINS: &str = "/usr/lib/cni";

/// Everything about one machine, as its first process reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The node's name.
    pub(super) name: String,
    /// Its number among the machines of the run: its pods' network and its kubelet's ports follow from it.
    pub(super) index: u8,
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// The cloud's id; empty for none.
    pub(super) provider_id: String,
    /// As `--node-labels` takes them.
    pub(super) labels: String,
    /// As `--register-with-taints` takes them.
    pub(super) taints: String,
    /// Its cgroup, below the root of each hierarchy.
    pub(super) cgroup: String,
    /// Its files; they end with it.
    pub(super) folder: PathBuf,
    /// Where its programs and its pods log; they stay.
    pub(super) logs: PathBuf,
    /// Image archives that it holds from the start.
    pub(super) images: PathBuf,
    /// The kubelet.
    pub(super) kubelet: PathBuf,
    /// Who answers its pods' questions for names.
    pub(super) name_server: Ipv4Addr,
}

impl Machine {
    /// Where containerd listens, as this machine sees it.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// The bridge of its pods.
    pub(super) fn bridge(&self) -> String {
        bridge(self.index)
    }

    pub(super) fn containerd_config(&self) -> String {
        let quoted = |path: &Path| json!(path).to_string();
        format!(
            "version = 2\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [\n  \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\",\n]\n\
             [grpc]\n  address = {socket}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n  path = {opt}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  \
             restrict_oom_score_adj = true\n  \
             netns_mounts_under_state_dir = true\n  \
             sandbox_image = \"{PAUSE}\"\n  \
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"{PLUGINS}\"\n    conf_dir = {cni}\n",
            root = quoted(&self.folder.join("containerd")),
            state = quoted(&self.folder.join("state")),
            socket = quoted(&self.socket()),
            opt = quoted(&self.folder.join("opt")),
            cni = quoted(&self.folder.join("cni")),
        )
    }

    pub(super) fn cni_config(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge(),
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.folder.join("addresses"),
                        "ranges": [[{"subnet": format!("10.88.{}.0/24", self.index)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    pub(super) fn kubelet_config(&self) -> Value {
        let port = 20_000 + u16::from(self.index) * 2;
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.folder.join("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": self.folder.join("kubelet.crt"),
            "tlsPrivateKeyFile": self.folder.join("kubelet.key"),
            "providerID": self.provider_id,
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            // A kubelet deletes every pod's cgroup that it does not know below this one.
            "cgroupRoot": format!("/{}", self.cgroup),
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "oomScoreAdj": 0,
            "clusterDNS": [self.name_server],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": self.logs.join("pods"),
            "port": port,
            "healthzPort": port + 1,
            // Changed Secrets reach pods with the next look at each pod, which is a minute away by default.
            "syncFrequency": "2s",
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            // With the controllers' flags of the cluster: a machine that is gone is missed in 20 s.
            "nodeLeaseDurationSeconds": 16,
            "nodeStatusUpdateFrequency": "4s",
            "volumeStatsAggPeriod": "-1s",
        })
    }
}

/// The bridge of the pods of the machine with this number.
pub(super) fn bridge(index: u8) -> String {
    format!("halo-pods{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(index: u8) -> Machine {
        Machine {
            name: format!("n{index}"),
            index,
            address: Ipv4Addr::new(10, 0, 16, 4),
            provider_id: "aws:///us-east-2a/i-1".to_owned(),
            labels: String::new(),
            taints: String::new(),
            cgroup: format!("run/n{index}"),
            folder: format!("/tmp/n{index}").into(),
            logs: "/tmp/logs".into(),
            images: "/tmp/images".into(),
            kubelet: "/bin/kubelet".into(),
            name_server: Ipv4Addr::new(10, 88, 255, 1),
        }
    }

    #[test]
    fn machines_share_nothing_that_must_be_their_own() {
        let (a, b) = (machine(0), machine(200));
        let (first, second) = (a.kubelet_config(), b.kubelet_config());
        for field in [
            "port",
            "healthzPort",
            "cgroupRoot",
            "containerRuntimeEndpoint",
        ] {
            assert_ne!(first[field], second[field], "{field}");
        }
        assert_ne!(
            first["healthzPort"],
            json!(20_002),
            "the next machine's port"
        );
        let range = |machine: &Machine| {
            machine.cni_config()["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].clone()
        };
        assert_eq!(range(&b), "10.88.200.0/24");
        assert_ne!(range(&a), range(&b));
        assert_ne!(a.containerd_config(), b.containerd_config());
    }

    #[test]
    fn names_of_bridges_are_short_enough_for_the_kernel() {
        assert!(bridge(u8::MAX).len() < 16);
    }
}
