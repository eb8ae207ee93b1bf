//! Nodes without kubelets: their Node objects, their leases, and pods that run without running anything.
//!
//! One task watches the pods and does for those that are bound to its nodes what a kubelet would tell the API server: Running, Ready,
//! gone. With the real scheduler and controllers, Deployments, evictions and disruption budgets work as on a cluster.

mod driver;
mod node;
mod pod;

use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

pub use node::NodeSpec;

use crate::{access, control_plane::ControlPlane, error::Error};
use driver::{Command, Driver};

/// A step that a test can hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A booted node registers: its Node object appears. Matched by the node's name.
    Registration,
    /// A registered node is Ready. A node that was Ready is not any more while this is held. Matched by the node's name.
    NodeReady,
    /// A running pod is Ready. A pod that was Ready is not any more while this is held. Matched by `namespace/name`.
    PodReady,
    /// A pod that was deleted ends. While this is held it stays Terminating. Matched by `namespace/name`.
    PodEnd,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    step: Step,
    prefix: String,
}

/// What is held back now.
#[derive(Clone, Debug, Default)]
struct Holds {
    next: u64,
    entries: Vec<Entry>,
}

impl Holds {
    fn has(&self, step: Step, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.step == step && name.starts_with(&entry.prefix))
    }
}

/// Holds a step back until it is dropped.
#[must_use = "the step is held only as long as this lives"]
pub struct Hold {
    number: u64,
    holds: watch::Sender<Holds>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds
            .send_modify(|holds| holds.entries.retain(|entry| entry.number != self.number));
    }
}

/// The nodes of one test. Dropping it stops them all, as if the machines had lost power: their objects stay.
pub struct FakeNodes {
    commands: mpsc::UnboundedSender<Command>,
    holds: watch::Sender<Holds>,
    task: AbortHandle,
}

impl Drop for FakeNodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeNodes {
    /// Starts without any node, on the current tokio runtime.
    ///
    /// # Errors
    /// The client could not be made.
    pub async fn start(plane: &ControlPlane) -> Result<Self, Error> {
        let config = plane.config_as(access::NODES, &[access::MASTERS]).await?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let holds = watch::Sender::new(Holds::default());
        let driver = Driver::new(
            Client::try_from(config)?,
            plane.has_controllers(),
            receiver,
            holds.subscribe(),
        );
        let task = tokio::spawn(driver.run()).abort_handle();
        Ok(Self {
            commands,
            holds,
            task,
        })
    }

    /// Boots a node: it registers and becomes Ready, unless that is held. A node of this name that was stopped comes back.
    pub fn boot(&self, node: NodeSpec) {
        // The task ends with this struct only, so somebody listens.
        let _ = self.commands.send(Command::Boot(node));
    }

    /// Stops a node without a word, as a machine that loses power: no heartbeat, no change of its pods. Its Node object stays Ready until
    /// the node lifecycle controller misses it (`--node-monitor-grace-period`, 50 s by default).
    pub fn stop(&self, name: &str) {
        let _ = self.commands.send(Command::Stop(name.to_owned()));
    }

    /// Holds a step back for all nodes or pods whose name (`namespace/name` for pods) begins with `prefix`, until the result is dropped.
    /// Effective for all that follows this call; what is already on its way to the API server arrives.
    pub fn hold(&self, step: Step, prefix: &str) -> Hold {
        let mut number = 0;
        self.holds.send_modify(|holds| {
            number = holds.next;
            holds.next += 1;
            holds.entries.push(Entry {
                number,
                step,
                prefix: prefix.to_owned(),
            });
        });
        Hold {
            number,
            holds: self.holds.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_match_their_step_and_prefix() {
        let mut holds = Holds::default();
        assert!(!holds.has(Step::PodReady, "ns/a-1"));
        let prefix = "ns/a".to_owned();
        holds.entries.push(Entry {
            number: 0,
            step: Step::PodReady,
            prefix,
        });
        assert!(holds.has(Step::PodReady, "ns/a-1"));
        assert!(!holds.has(Step::PodReady, "ns/b"));
        assert!(!holds.has(Step::PodEnd, "ns/a-1"));
        let prefix = String::new();
        holds.entries.push(Entry {
            number: 1,
            step: Step::PodEnd,
            prefix,
        });
        assert!(holds.has(Step::PodEnd, "any/pod"));
    }
}
