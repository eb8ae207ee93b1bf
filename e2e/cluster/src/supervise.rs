//! Child processes that end with the test, however the test ends.
//!
//! Each program runs under a small `sh` that holds the read end of a pipe whose write end only the test process has. When the
//! test ends, panics or is killed with SIGKILL, the kernel closes that pipe, and the shell kills its program. The shells have
//! process groups of their own, so that a signal to the test's group (Ctrl-C, a timeout) does not take them along.

use std::{
    ffi::OsStr,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::error::Error;

/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Starts `"$@"` with its output in the file `$log`; each line read from the pipe is a signal for it, the end of the pipe is KILL.
/// Only a child that was not waited for yet is signalled, so a recycled process id cannot be hit.
const KEEPER: &str = r#"
exec 3<&0
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
{
  while read -r signal <&3; do kill -s "$signal" "$child" 2>/dev/null; done
  kill -s KILL "$child" 2>/dev/null
} &
guard=$!
wait "$child"
code=$?
kill "$guard" 2>/dev/null
exit "$code"
"#;

/// Waits for the end of the pipe, then removes the folders `"$@"`, again while something that is being killed still writes there.
const CLEANER: &str = r#"
while read -r _; do :; done
tries=0
while [ "$tries" -lt 100 ]; do
  rm -rf "$@"
  left=
  for folder in "$@"; do [ ! -e "$folder" ] || left=yes; done
  [ -n "$left" ] || exit 0
  tries=$((tries + 1))
  sleep 0.1
done
"#;

/// A shell that ends when the pipe to it is closed.
struct Shell {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Shell {
    fn start(script: &str, name: &str, arguments: &[&OsStr]) -> Result<Self, Error> {
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .arg(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("start /bin/sh for {name}")))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn close(&mut self) {
        drop(self.pipe.take());
        let deadline = Instant::now() + KILL_DEADLINE;
        while self.exited().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Does nothing to a shell that has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.close();
    }
}

/// A running program. It is killed when this is dropped or when the test process ends.
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    shell: Shell,
}

impl Process {
    /// Starts `program`; its output is appended to `log`.
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[S],
        log: &Path,
    ) -> Result<Self, Error> {
        let mut all = vec![log.as_os_str(), program.as_os_str()];
        all.extend(arguments.iter().map(AsRef::as_ref));
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            shell: Shell::start(KEEPER, name, &all)?,
        })
    }

    /// Fails if the program has ended, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        match self.shell.exited() {
            None => Ok(()),
            Some(status) => Err(Error::Exited {
                program: self.name.clone(),
                status,
                log: log_tail(&self.log),
            }),
        }
    }

    /// The end of what the program printed.
    pub(crate) fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// Sends a signal, named as for `kill -s`.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<(), Error> {
        let name = &self.name;
        match &mut self.shell.pipe {
            Some(pipe) => writeln!(pipe, "{signal}").map_err(Error::io(format!("signal {name}"))),
            None => Ok(()),
        }
    }
}

/// Removes folders when it is dropped or when the test process ends.
pub(crate) struct Cleaner(#[expect(dead_code, reason = "its drop is what counts")] Shell);

impl Cleaner {
    pub(crate) fn start(folders: &[&Path]) -> Result<Self, Error> {
        let folders: Vec<&OsStr> = folders.iter().map(|folder| folder.as_os_str()).collect();
        Shell::start(CLEANER, "cleaner", &folders).map(Self)
    }
}

/// The last lines of a log file, or nothing where there is none.
fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
