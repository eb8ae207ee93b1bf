//! What Linux says of a process: memory and processor time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Linux counts a process's time in hundredths of a second towards programs, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// A process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now, in bytes.
    pub now: u64,
    /// Resident at most so far, in bytes.
    pub peak: u64,
}

/// The memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| {
        kilobytes(&text, name)
            .map(|kb| kb * 1024)
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The processor time that a process has used, in user and kernel mode together.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&text)
        .map(|ticks| TICK * ticks)
        .with_context(|| format!("{path} is not as expected"))
}

/// Fields 14 and 15; the second field is the name in brackets, which may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let kernel: u32 = fields.next()?.parse().ok()?;
    user.checked_add(kernel)
}

/// The process whose program is called `program` and one of whose arguments is or begins with `argument`.
pub fn find(program: &str, argument: &str) -> Result<u32> {
    for entry in fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended meanwhile has no command line.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut parts = line.split('\0');
        let is_program = parts
            .next()
            .is_some_and(|path| Path::new(path).file_name() == Some(program.as_ref()));
        if is_program && parts.any(|part| part.starts_with(argument)) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no {program} with {argument} runs")
}

/// The machine's load average over one minute; empty if it is not known.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Processor time of some processes from one moment on.
pub struct Usage {
    pids: Vec<u32>,
    before: Vec<Duration>,
    since: Instant,
}

impl Usage {
    /// From now on.
    pub fn of(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            pids: pids.to_vec(),
            before: pids
                .iter()
                .map(|pid| cpu(*pid))
                .collect::<Result<Vec<_>>>()?,
            since: Instant::now(),
        })
    }

    /// Cores that each used on average until now, in the order that was given.
    pub fn cores(&self) -> Result<Vec<f64>> {
        let passed = self.since.elapsed().as_secs_f64().max(0.001);
        let used = self.seconds()?;
        Ok(used.into_iter().map(|used| used / passed).collect())
    }

    /// Seconds that each used until now.
    pub fn seconds(&self) -> Result<Vec<f64>> {
        let pairs = self.pids.iter().zip(&self.before);
        pairs
            .map(|(pid, before)| Ok(cpu(*pid)?.saturating_sub(*before).as_secs_f64()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_in_what_linux_says() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1024));
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2048));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 130 0 0 0 250 50 0 0 20 0 4 0 1 2 3";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7"), None);
        let pid = std::process::id();
        let memory = memory(pid).unwrap();
        assert!(memory.now > 0 && memory.peak >= memory.now);
        assert!(cpu(pid).unwrap() < Duration::from_secs(3600));
    }
}
