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
