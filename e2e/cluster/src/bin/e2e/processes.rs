//! The run's processes as the system sees them, for ending them unasked.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// Ids of the processes whose program has this name and whose arguments hold `with`.
///
/// # Errors
/// The system does not list them.
pub fn find(name: &str, with: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // One that has ended meanwhile has no arguments.
        let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if matches(&arguments, name, with) {
            found.push(id);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn matches(arguments: &[u8], name: &str, with: &str) -> bool {
    let mut arguments = arguments.split(|&byte| byte == 0);
    let program = String::from_utf8_lossy(arguments.next().unwrap_or_default()).into_owned();
    let named = Path::new(&program)
        .file_name()
        .is_some_and(|file| file == name);
    named
        && (with.is_empty()
            || arguments.any(|argument| String::from_utf8_lossy(argument).contains(with)))
}

/// Grants the container of a process a hundredth of a processor from now on.
///
/// # Errors
/// Its cgroup is not found, or takes no limit.
pub fn slow(id: u32) -> Result<()> {
    let groups = fs::read_to_string(format!("/proc/{id}/cgroup"))
        .with_context(|| format!("the cgroups of process {id}"))?;
    let (file, limit) = limit(&groups).with_context(|| format!("process {id}: {groups}"))?;
    fs::write(&file, limit).with_context(|| file.clone())
}

/// The file that limits the processor, and what limits it to a hundredth, from the lines of /proc/ID/cgroup.
fn limit(groups: &str) -> Option<(String, &'static str)> {
    let mut second = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "cpu") {
            let file = format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us");
            return Some((file, "1000"));
        }
        if controllers.is_empty() {
            second = Some((format!("/sys/fs/cgroup{path}/cpu.max"), "1000 100000"));
        }
    }
    second
}

/// Ends a process without a warning.
///
/// # Errors
/// There is none.
pub async fn kill(id: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-KILL", &id.to_string()])
        .status()
        .await?;
    ensure!(status.success(), "process {id} could not be ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_limited_where_the_hierarchy_says() {
        let first = "5:cpu,cpuacct:/run/pod\n4:memory:/run/pod\n0::/unified\n";
        assert_eq!(
            limit(first),
            Some((
                "/sys/fs/cgroup/cpu/run/pod/cpu.cfs_quota_us".to_owned(),
                "1000"
            ))
        );
        let second = limit("0::/run/pod\n").unwrap();
        assert_eq!(second.0, "/sys/fs/cgroup/run/pod/cpu.max");
        assert_eq!(limit("4:cpuset:/run\n"), None);
    }

    #[test]
    fn a_process_is_told_by_its_program_and_an_argument() {
        let line = b"/usr/bin/kubelet\0--config\0x\0--hostname-override=node0\0";
        assert!(matches(line, "kubelet", ""));
        assert!(matches(line, "kubelet", "=node0"));
        for (name, with) in [("let", ""), ("kubelet", "node1"), ("node0", "")] {
            assert!(!matches(line, name, with), "{name} {with}");
        }
        assert!(!matches(b"", "kubelet", ""));
    }
}
