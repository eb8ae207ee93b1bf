//! Process groups that outlived their emulator because it was killed: found by what it wrote down, ended by the next one.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process_group};

/// Where an instance's folder says which process it is.
fn note_of(folder: &Path) -> PathBuf {
    folder.join("process")
}

/// Writes down which process an instance is. A number alone may be another process's by the time it is read, so the time at
/// which it started goes with it.
///
/// # Errors
/// Writing failed, or the process is gone already.
pub fn note(folder: &Path, pid: Pid) -> std::io::Result<()> {
    let started = started_at(pid).ok_or_else(|| std::io::Error::other("the process is gone"))?;
    std::fs::write(
        note_of(folder),
        format!("{} {started}\n", pid.as_raw_nonzero()),
    )
}

/// The process has ended with its group.
pub fn forget(folder: &Path) {
    // It may never have been written.
    let _ = std::fs::remove_file(note_of(folder));
}

/// Ends every process group that an earlier emulator left behind in this folder of instances.
pub fn end(folder: &Path) {
    let Ok(instances) = std::fs::read_dir(folder) else {
        // Nothing was ever booted here.
        return;
    };
    for instance in instances.flatten() {
        let path = instance.path();
        let Ok(text) = std::fs::read_to_string(note_of(&path)) else {
            continue;
        };
        let mut words = text.split_whitespace();
        let pid = words
            .next()
            .and_then(|word| Pid::from_raw(word.parse().ok()?));
        if let Some(pid) = pid
            && words.next().map(str::to_owned) == started_at(pid)
        {
            tracing::warn!(instance = %path.display(), pid = pid.as_raw_nonzero(), "ending what an earlier emulator left behind");
            // It ended in this very moment.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        forget(&path);
    }
}

/// When a process started, in the kernel's clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
fn started_at(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in field 2 may hold spaces and parentheses; what follows its last one does not.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}
