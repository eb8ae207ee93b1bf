//! A real API server, with helm and kubectl beside it.

use std::path::PathBuf;

use halo_e2e_cluster::{ControlPlane, Options};
use serde_json::Value;

use crate::helm::{Answer, helm};

pub struct Cluster {
    pub plane: ControlPlane,
}

impl Cluster {
    pub async fn start(options: Options) -> Self {
        Self {
            plane: ControlPlane::start(options).await.unwrap(),
        }
    }

    /// helm blocks, and the harness's own tasks go on meanwhile.
    pub async fn helm(&self, arguments: &[&str]) -> Answer {
        let kubeconfig: PathBuf = self.plane.kubeconfig_path();
        let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            helm(Some(&kubeconfig), &arguments)
        })
        .await
        .unwrap()
    }

    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.plane.kubectl_with(arguments, input).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        let text = self
            .kubectl(&[arguments, &["-o", "json"]].concat(), "")
            .await;
        serde_json::from_str(&text).unwrap()
    }

    /// Everything of the release is there, as often as its manifest says.
    pub async fn everything_is_there(&self) -> usize {
        let manifest = self
            .helm(&["get", "manifest", "halo", "-n", "halo-system"])
            .await
            .good();
        let names = self
            .kubectl(&["get", "-o", "name", "-f", "-"], &manifest)
            .await;
        assert_eq!(names.lines().count(), manifest.matches("\nkind: ").count());
        names.lines().count()
    }
}
