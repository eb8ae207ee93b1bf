//! Where the binaries are: the folder that KUBEBUILDER_ASSETS names, or a cache that is filled once by `go build`. helm has an entry of
//! its own in that cache, so that a new helm does not build Kubernetes again.

use std::{
    env,
    ffi::OsStr,
    fs,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::{error::Error, go_modules};

/// The Kubernetes release that `go/kubernetes/go.mod` pins.
pub const KUBERNETES_VERSION: &str = "v1.35.4";

/// The helm release that `go/helm/go.mod` pins.
pub const HELM_VERSION: &str = "v4.3.1";

/// How often a long build says that it is still at it.
const PROGRESS: Duration = Duration::from_secs(30);

/// One Go module of this crate. The files are part of this library, so that it works wherever its sources were.
struct Module {
    name: &'static str,
    files: [(&'static str, &'static str); 3],
    link_flags: &'static str,
}

/// What is built together and kept in one folder.
struct Set {
    /// The folder's name in the cache.
    name: &'static str,
    modules: &'static [Module],
    /// Links to programs: the link's name, and what it points to.
    links: &'static [(&'static str, &'static str)],
}

static KUBERNETES: Set = Set {
    name: "kubernetes",
    modules: &MODULES,
    links: &[
        ("kube-apiserver", "kubernetes"),
        ("kube-controller-manager", "kubernetes"),
        ("kube-scheduler", "kubernetes"),
        ("kubectl", "kubernetes"),
        ("kubelet", "kubernetes"),
        ("kube-proxy", "kubernetes"),
    ],
};

static HELM: Set = Set {
    name: "helm",
    modules: &[Module {
        name: "helm",
        files: [
            ("go.mod", include_str!("../go/helm/go.mod")),
            ("go.sum", include_str!("../go/helm/go.sum")),
            ("main.go", include_str!("../go/helm/main.go")),
        ],
        link_flags: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
    }],
    links: &[],
};

static MODULES: [Module; 2] = [
    Module {
        name: "etcd",
        files: [
            ("go.mod", include_str!("../go/etcd/go.mod")),
            ("go.sum", include_str!("../go/etcd/go.sum")),
            ("main.go", include_str!("../go/etcd/main.go")),
        ],
        link_flags: "-s -w",
    },
    Module {
        name: "kubernetes",
        files: [
            ("go.mod", include_str!("../go/kubernetes/go.mod")),
            ("go.sum", include_str!("../go/kubernetes/go.sum")),
            ("main.go", include_str!("../go/kubernetes/main.go")),
        ],
        // The binaries report the release that they are: clients and the kubelet's version checks read it.
        link_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35 -X k8s.io/component-base/version.gitTreeState=clean",
    },
];

/// A folder that holds the binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets(PathBuf);

impl Assets {
    /// Finds the binaries, and with Go (`go`, or what the variable GO names) builds them if this machine has not done so before: minutes the first time, milliseconds afterwards.
    /// Other processes that want them meanwhile wait for the same build. Blocks; progress goes to stderr.
    ///
    /// # Errors
    /// [`Error::NoBinaries`] if there is nothing to take and no Go to build with; otherwise what failed.
    pub fn find() -> Result<Self, Error> {
        match env::var_os("KUBEBUILDER_ASSETS") {
            Some(folder) if !folder.is_empty() => Ok(Self(folder.into())),
            _ => KUBERNETES.find(),
        }
    }

    /// The helm program: what the variable HELM names, or one that is built like [`Self::find`] does. Blocks.
    ///
    /// # Errors
    /// [`Error::NoBinaries`] if there is no Go to build with; otherwise what failed.
    pub fn helm() -> Result<PathBuf, Error> {
        match env::var_os("HELM") {
            Some(program) if !program.is_empty() => Ok(program.into()),
            _ => HELM.find()?.program("helm"),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// One binary.
    ///
    /// # Errors
    /// [`Error::MissingBinary`] if the folder does not have it.
    pub fn program(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::MissingBinary {
                name: name.to_owned(),
                folder: self.0.clone(),
            })
        }
    }
}

impl Set {
    /// In the cache, built if it is not there.
    fn find(&self) -> Result<Assets, Error> {
        cached(&cache_root(self.name)?, &go_modules::go(), self)
    }

    /// The version of everything that decides what is built, as a short hex number.
    fn version(&self) -> String {
        let mut hash = Sha256::new();
        for module in self.modules {
            for part in [module.name, module.link_flags] {
                hash.update(part);
                hash.update([0]);
            }
            for (name, text) in module.files {
                hash.update(name);
                hash.update([0]);
                hash.update(text);
                hash.update([0]);
            }
        }
        hash.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn cache_root(name: &str) -> Result<PathBuf, Error> {
    let base = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) if !home.is_empty() => Path::new(&home).join(".cache"),
        _ => env::temp_dir(),
    };
    let root = base.join("halo").join(name);
    fs::create_dir_all(&root).map_err(Error::io(format!("create {}", root.display())))?;
    Ok(root)
}

fn cached(root: &Path, go: &OsStr, set: &Set) -> Result<Assets, Error> {
    let version = set.version();
    let folder = root.join(&version);
    if folder.is_dir() {
        return Ok(Assets(folder));
    }
    // The lock is released when the file is closed, so also when the builder is killed.
    let lock_path = root.join("lock");
    let lock =
        File::create(&lock_path).map_err(Error::io(format!("create {}", lock_path.display())))?;
    lock.lock()
        .map_err(Error::io(format!("lock {}", lock_path.display())))?;
    if !folder.is_dir() {
        let building = root.join(format!("{version}.building"));
        // What a killed builder left.
        remove(&building)?;
        build(&building, go, set)?;
        fs::rename(&building, &folder)
            .map_err(Error::io(format!("rename {}", building.display())))?;
    }
    Ok(Assets(folder))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

fn build(folder: &Path, go: &OsStr, set: &Set) -> Result<(), Error> {
    match Command::new(go)
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
    {
        Ok(status) if status.success() => {}
        _ => return Err(Error::NoBinaries),
    }
    let sources = folder.join("sources");
    for module in set.modules {
        let source = sources.join(module.name);
        fs::create_dir_all(&source).map_err(Error::io(format!("create {}", source.display())))?;
        for (name, text) in module.files {
            let path = source.join(name);
            fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))?;
        }
        go_build(go, module, &source, &folder.join(module.name))?;
    }
    for (name, program) in set.links {
        let link = folder.join(name);
        symlink(program, &link).map_err(Error::io(format!("link {}", link.display())))?;
    }
    remove(&sources)
}

fn go_build(go: &OsStr, module: &Module, source: &Path, binary: &Path) -> Result<(), Error> {
    let log_path = source.join("build.log");
    let log =
        File::create(&log_path).map_err(Error::io(format!("create {}", log_path.display())))?;
    let started = Instant::now();
    say(&format!(
        "building {} for tests with go build, once: up to ten minutes with an empty build cache",
        module.name
    ));
    let mut build = Command::new(go)
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags"])
        .arg(module.link_flags)
        .arg("-o")
        .arg(binary)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(Error::io("start go build"))?;
    let mut said = Instant::now();
    let status = loop {
        match build.try_wait().map_err(Error::io("wait for go build"))? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            say(&format!(
                "building {}: {} s",
                module.name,
                started.elapsed().as_secs()
            ));
        }
    };
    if status.success() {
        say(&format!(
            "built {} in {} s",
            module.name,
            started.elapsed().as_secs()
        ));
        return Ok(());
    }
    let log = fs::read_to_string(&log_path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    Err(Error::GoBuild {
        module: module.name,
        status,
        log: lines[lines.len().saturating_sub(15)..].join("\n"),
    })
}

/// Prints to stderr itself: the print macros are captured by the test runner, and a silent wait of minutes looks like a hang.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "halo-e2e-cluster: {text}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_pinned_release_is_the_one_that_is_built_and_named() {
        let module = &MODULES[1];
        let required = format!("k8s.io/kubernetes {KUBERNETES_VERSION}");
        assert!(module.files[0].1.contains(&required));
        assert!(
            module
                .link_flags
                .contains(&format!("gitVersion={KUBERNETES_VERSION} "))
        );
        // Every staging module is the published one of the same release.
        let staging = KUBERNETES_VERSION.replace("v1.", "v0.");
        let replaced: Vec<&str> = module.files[0]
            .1
            .lines()
            .filter(|line| line.contains(" => "))
            .collect();
        assert!(replaced.len() > 25);
        for line in replaced {
            assert!(line.ends_with(&staging), "{line}");
        }
    }

    #[test]
    fn the_pinned_helm_is_the_one_that_is_built_and_named() {
        let module = &HELM.modules[0];
        let required = format!("require helm.sh/helm/v4 {HELM_VERSION}\n");
        assert!(module.files[0].1.contains(&required));
        assert!(
            module
                .link_flags
                .ends_with(&format!("version={HELM_VERSION}"))
        );
    }

    #[test]
    fn helm_has_a_version_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let go = fake_go(root.path(), "touch \"$7\"");
        cached(root.path(), go.as_os_str(), &HELM)
            .unwrap()
            .program("helm")
            .unwrap();
        let builds = fs::read_to_string(root.path().join("builds")).unwrap();
        assert_eq!(builds.lines().count(), 1, "Kubernetes is left alone");
        assert_ne!(HELM.version(), KUBERNETES.version());
    }

    #[test]
    fn a_folder_without_a_binary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Assets(folder.path().to_owned())
            .program("etcd")
            .unwrap_err();
        assert!(error.to_string().contains("there is no etcd in it"));
    }

    #[test]
    fn a_version_that_is_there_is_not_built_again() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(KUBERNETES.version())).unwrap();
        let found = cached(root.path(), OsStr::new("no-such-go"), &KUBERNETES).unwrap();
        assert_eq!(found.folder(), root.path().join(KUBERNETES.version()));
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "no lock was taken"
        );
    }
    /// A program in Go's place: it counts its builds in the file `builds` beside it, and what it builds is empty.
    fn fake_go(folder: &Path, build: &str) -> PathBuf {
        let path = folder.join("go");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = build ] || exit 0\necho build >> {}/builds\n{build}\n",
            folder.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn without_go_one_sentence_says_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        let error = cached(root.path(), OsStr::new("no-such-go"), &KUBERNETES).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("https://go.dev/dl") && text.contains("KUBEBUILDER_ASSETS"));
        assert_eq!(text.lines().count(), 1);
        assert!(!root.path().join(KUBERNETES.version()).exists());
    }

    #[test]
    fn many_at_once_build_once() {
        let root = tempfile::tempdir().unwrap();
        // -o and its value are the sixth and seventh argument.
        let go = fake_go(root.path(), "sleep 0.1; touch \"$7\"");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let assets = cached(root.path(), go.as_os_str(), &KUBERNETES).unwrap();
                    assets.program("etcd").unwrap();
                    assets.program("kube-apiserver").unwrap();
                    assets.program("kubectl").unwrap();
                });
            }
        });
        let builds = fs::read_to_string(root.path().join("builds")).unwrap();
        assert_eq!(builds.lines().count(), MODULES.len());
    }

    #[test]
    fn a_build_that_fails_says_why_and_leaves_nothing_to_use() {
        let root = tempfile::tempdir().unwrap();
        let go = fake_go(root.path(), "echo 'no space left' >&2; exit 1");
        let error = cached(root.path(), go.as_os_str(), &KUBERNETES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("go build of etcd failed") && error.contains("no space left"));
        assert!(!root.path().join(KUBERNETES.version()).exists());
        // The next one tries again.
        let go = fake_go(root.path(), "touch \"$7\"");
        cached(root.path(), go.as_os_str(), &KUBERNETES).unwrap();
    }
}
