//! The real helm, without anything of the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use halo_e2e_cluster::Assets;
use tempfile::TempDir;

/// The folder of the charts.
pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts")
}

/// A file below it.
pub fn chart(path: &str) -> String {
    charts().join(path).to_str().unwrap().to_owned()
}

/// What helm printed, and whether it succeeded.
pub struct Answer {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// What it printed; it must have succeeded.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.success, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it complained of; it must have failed.
    #[track_caller]
    pub fn bad(self) -> String {
        assert!(!self.success, "it succeeded: {}", self.stdout);
        self.stderr
    }
}

/// Runs helm. `kubeconfig` says which cluster; without it there is none.
pub fn helm(kubeconfig: Option<&Path>, arguments: &[&str]) -> Answer {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    static HOME: OnceLock<TempDir> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| Assets::helm().unwrap());
    let home = HOME.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("HELM_CACHE_HOME", home)
        .env("HELM_CONFIG_HOME", home)
        .env("HELM_DATA_HOME", home)
        .env("KUBECONFIG", kubeconfig.unwrap_or(&home.join("none")))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer {
        success: output.status.success(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Renders the chart `halo` with the least values and more flags.
pub fn render(more: &[&str]) -> Answer {
    let (chart_folder, values) = (chart("halo"), chart("halo/ci/minimal-values.yaml"));
    let mut arguments = vec!["template", "halo", &chart_folder, "--values", &values];
    if !more.contains(&"--namespace") {
        arguments.extend(["--namespace", "halo-system"]);
    }
    arguments.extend(more);
    helm(None, &arguments)
}
