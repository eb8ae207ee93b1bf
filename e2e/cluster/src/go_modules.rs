//! Files that other projects publish in their Go modules, such as their custom resource definitions.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::error::Error;

/// A Go module in one version. Go keeps what it downloads in its module cache.
#[derive(Clone, Copy, Debug)]
pub struct GoModule {
    /// Its path, such as `github.com/cert-manager/cert-manager`.
    pub path: &'static str,
    /// Its version, such as `v1.21.2`.
    pub version: &'static str,
    /// The hash of its files, as a go.sum has it: `h1:...`.
    pub sum: &'static str,
}

/// What `go mod download -json` prints.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Download {
    dir: PathBuf,
    sum: String,
    error: String,
}

/// The Go program: what the variable GO names, or `go`.
pub(crate) fn go() -> OsString {
    env::var_os("GO").unwrap_or_else(|| "go".into())
}

impl GoModule {
    /// The folder with its files, downloaded if this machine does not have them. Blocks.
    ///
    /// # Errors
    /// [`Error::GoModule`]: there is no Go, nothing to download from, or the files are not the pinned ones.
    pub fn folder(&self) -> Result<PathBuf, Error> {
        self.folder_with(&go())
    }

    fn folder_with(&self, go: &OsStr) -> Result<PathBuf, Error> {
        let wanted = format!("{}@{}", self.path, self.version);
        let failed = |why: String| Error::GoModule {
            module: wanted.clone(),
            why,
        };
        let done = Command::new(go)
            .args(["mod", "download", "-json", &wanted])
            // Outside of every module: what another one requires has no say here.
            .current_dir(Path::new("/"))
            .env("GOWORK", "off")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                failed(format!(
                    "cannot run {}: {error}; install Go 1.26 or later (https://go.dev/dl), or name it in the variable GO",
                    go.display()
                ))
            })?;
        let download: Download = serde_json::from_slice(&done.stdout).unwrap_or_default();
        if !done.status.success() || !download.error.is_empty() {
            let said = String::from_utf8_lossy(&done.stderr);
            let said = if download.error.is_empty() {
                said.trim()
            } else {
                &download.error
            };
            return Err(failed(format!("go mod download failed: {said}")));
        }
        if download.sum == self.sum {
            Ok(download.dir)
        } else {
            let Download { sum, .. } = download;
            Err(failed(format!(
                "its files have the hash {sum:?}, not the pinned {:?}: they are not the ones that were reviewed",
                self.sum
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const MODULE: GoModule = GoModule {
        path: "example.com/module",
        version: "v1.2.3",
        sum: "h1:right=",
    };

    /// What comes of a program in Go's place that runs this script.
    fn downloaded(script: &str) -> Result<PathBuf, Error> {
        let folder = tempfile::tempdir().unwrap();
        let go = folder.path().join("go");
        fs::write(&go, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755)).unwrap();
        MODULE.folder_with(go.as_os_str())
    }

    #[test]
    fn the_pinned_files_are_taken_and_no_others() {
        let answer = |sum: &str| {
            format!(
                r#"[ "$*" = "mod download -json example.com/module@v1.2.3" ] && echo '{{"Dir": "/there", "Sum": "{sum}"}}'"#
            )
        };
        assert_eq!(
            downloaded(&answer("h1:right=")).unwrap(),
            Path::new("/there")
        );
        let error = downloaded(&answer("h1:other=")).unwrap_err().to_string();
        for part in ["example.com/module@v1.2.3", "h1:other=", "h1:right="] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_failure_says_what_go_said() {
        for script in [
            r#"echo '{"Error": "403 Forbidden"}'; exit 1"#,
            "echo '403 Forbidden' >&2; exit 1",
        ] {
            let error = downloaded(script).unwrap_err().to_string();
            assert!(error.contains("failed: 403 Forbidden"), "{error}");
        }
        let error = MODULE.folder_with(OsStr::new("no-such-go")).unwrap_err();
        assert!(error.to_string().contains("https://go.dev/dl"), "{error}");
    }
}
