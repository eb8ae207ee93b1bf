//! Why there is no control plane.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

/// What went wrong. Its `Debug` form is the same sentence as its `Display` form, so that `unwrap` in a test shows it.
#[derive(thiserror::Error)]
pub enum Error {
    /// Neither ready-made binaries nor Go.
    #[error(
        "tests against a real Kubernetes API server need Go 1.26 or later on PATH (https://go.dev/dl), or KUBEBUILDER_ASSETS naming a folder with etcd, kube-apiserver and kubectl"
    )]
    NoBinaries,
    /// A binary that the options ask for is not in the folder.
    #[error("{folder}: there is no {name} in it; unset KUBEBUILDER_ASSETS to build every binary with Go", folder = .folder.display())]
    MissingBinary {
        /// The binary.
        name: String,
        /// The value of KUBEBUILDER_ASSETS.
        folder: PathBuf,
    },
    /// `go build` failed.
    #[error("go build of {module} failed ({status}):\n{log}")]
    GoBuild {
        /// The module, as in this crate's `go` folder.
        module: &'static str,
        /// How go ended.
        status: ExitStatus,
        /// The end of what it printed.
        log: String,
    },
    /// The files of a Go module.
    #[error("Go module {module}: {why}")]
    GoModule {
        /// Its path and version.
        module: String,
        /// What happened.
        why: String,
    },
    /// A file, folder, socket or process.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended by itself.
    #[error("{program} ended by itself ({status}); its last lines:\n{log}")]
    Exited {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A program runs but is not ready.
    #[error("{program} was not ready after {after:?}: {last}; its last lines:\n{log}")]
    NotReady {
        /// The program.
        program: String,
        /// How long was waited.
        after: Duration,
        /// What it answered last.
        last: String,
        /// The end of its log.
        log: String,
    },
    /// The API server is stopped and the call needs it.
    #[error("the API server is stopped")]
    Stopped,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A client certificate was asked for with too many groups.
    #[error("a client certificate holds at most two groups, not {0}")]
    Groups(usize),
    /// A kubeconfig that this crate wrote was not accepted.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A request to the API server failed.
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    /// A custom resource definition was refused or never established.
    #[error("CustomResourceDefinition {name}: {why}")]
    Crd {
        /// Its name.
        name: String,
        /// What happened.
        why: String,
    },
    /// Another run with real nodes is under way on this machine.
    #[error("another run with real nodes is under way on this machine; wait for it (it holds {0})")]
    InUse(PathBuf),
    /// The audit log was not asked for.
    #[error("requests are counted by the audit log, which Options::audit turns on")]
    NoAudit,
    /// A line of the audit log is not what the API server writes.
    #[error("audit log: {0}")]
    Audit(#[from] serde_json::Error),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// For `map_err` on input and output: `what` completes "cannot ...".
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
