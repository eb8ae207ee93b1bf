//! The cgroups of a run: one parent in every hierarchy, below it one for each node, so that no kubelet deletes another's pods.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What the parents of all runs begin with.
pub(super) const PREFIX: &str = "halo-e2e-";

/// How long processes of a cgroup that were killed may take to be gone.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where cgroups are mounted: each hierarchy of version 1, or the one of version 2 where there are none.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let of = |kind: &str| -> Vec<PathBuf> {
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let (_, point, found) = (fields.next()?, fields.next()?, fields.next()?);
                (found == kind && point.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(point))
            })
            .collect()
    };
    let first = of("cgroup");
    if first.is_empty() {
        of("cgroup2")
    } else {
        first
    }
}

fn mounted() -> io::Result<Vec<PathBuf>> {
    Ok(hierarchies(&fs::read_to_string("/proc/self/mounts")?))
}

/// Also the hierarchy of version 2 beside those of version 1: runc makes cgroups there, too.
fn every() -> io::Result<Vec<PathBuf>> {
    let mut roots = mounted()?;
    let second = Path::new("/sys/fs/cgroup/unified");
    if second.is_dir() && !roots.iter().any(|root| root == second) {
        roots.push(second.to_owned());
    }
    Ok(roots)
}

/// Makes the cgroup `name`, such as `halo-e2e-1/node0`, in every hierarchy.
pub(super) fn make(name: &str) -> io::Result<()> {
    for root in mounted()? {
        let mut at = root.clone();
        for part in Path::new(name) {
            let parent = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            // A new cpuset has neither processors nor memory, and takes no process then.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if root.ends_with("cpuset") {
                    fs::write(at.join(file), fs::read(parent.join(file))?)?;
                }
            }
            // Version 2: children get the controllers that their parent passes on.
            let passed = parent.join("cgroup.subtree_control");
            if passed.exists() {
                let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
                for controller in available.split_whitespace() {
                    // One that cannot be passed on is not needed either: kubelet says which it misses.
                    let _ = fs::write(&passed, format!("+{controller}"));
                }
            }
        }
    }
    Ok(())
}

/// Removes the cgroup `name` and all below it, once their processes are gone. Nothing is killed here.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    for root in every()? {
        let top = root.join(name);
        while top.exists() {
            match remove_below(&top) {
                Ok(()) => {}
                Err(error) if Instant::now() > deadline => {
                    let why = format!("{}: {error}", top.display());
                    return Err(io::Error::new(error.kind(), why));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

fn remove_below(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The parents of runs that there are.
pub(super) fn runs() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for root in every()? {
        for entry in fs::read_dir(root)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.starts_with(PREFIX)
                && !found.contains(&name)
            {
                found.push(name);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_is_taken_where_both_are_there() {
        let mounts = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /elsewhere/cpu cgroup rw,cpu 0 0\n";
        let found = hierarchies(mounts);
        assert_eq!(
            found,
            [
                Path::new("/sys/fs/cgroup/cpu"),
                Path::new("/sys/fs/cgroup/cpuset")
            ]
        );
        let found = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(found, [Path::new("/sys/fs/cgroup")]);
        assert!(hierarchies("").is_empty());
    }
}
