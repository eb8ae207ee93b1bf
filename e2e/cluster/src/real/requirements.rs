//! What a cluster with real nodes needs of the machine, and how to install it on Debian.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A program or file and the Debian package that has it.
const NEEDED: [(&str, &str); 15] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("prometheus", "prometheus"),
    ("java", "default-jre-headless"),
    ("mvn", "maven"),
];

/// What is missing, as a sentence for each thing that a person does about it; empty if nothing is.
pub fn missing() -> Vec<String> {
    let mut sentences = Vec::new();
    if !is_root(&fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        sentences.push(
            "real nodes need root: containers, mounts, cgroups and network namespaces are made; run it with sudo"
                .to_owned(),
        );
    }
    if !cfg!(target_arch = "x86_64") {
        sentences.push("the images are for x86-64 Linux, and this machine is another".to_owned());
    }
    let packages = missing_packages(&search_path());
    if !packages.is_empty() {
        sentences.push(format!(
            "programs are missing; on Debian: apt-get install --yes {}",
            packages.join(" ")
        ));
    }
    sentences
}

/// Folders of programs: PATH, and those of the system's own that an ordinary PATH leaves out.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).collect()
}

fn missing_packages(path: &[PathBuf]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for (program, package) in NEEDED {
        let found = if program.starts_with('/') {
            Path::new(program).exists()
        } else {
            path.iter().any(|folder| folder.join(program).is_file())
        };
        if !found && !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// Whether the effective user of `/proc/self/status` is root.
fn is_root(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_named_once() {
        let packages = missing_packages(&[]);
        assert!(packages.contains(&"containerd"), "{packages:?}");
        let mut unique = packages.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), packages.len());
    }

    #[test]
    fn a_program_in_any_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("runc"), "").unwrap();
        let packages = missing_packages(&["/nonexistent".into(), folder.path().to_owned()]);
        assert!(!packages.contains(&"runc"));
        assert!(packages.contains(&"socat"));
    }

    #[test]
    fn the_effective_user_counts() {
        assert!(is_root("Name:\tx\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_root("Uid:\t0\t1000\t0\t0\n"));
        assert!(!is_root(""));
    }
}
