//! The emulator's process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::LocalError;
use crate::install::last;

/// Prints the emulator's process id, and ends the emulator when standard input is closed: the system closes it when the program
/// that holds the other end is gone, however that ended.
const KEEPER: &str = r#"
exec 3<&0 </dev/null
log=$1
shift
"$@" 3<&- >"$log" 2>&1 &
child=$!
echo $child
{ cat <&3 >/dev/null; kill -9 $child 2>/dev/null; } >/dev/null &
wait $child
"#;

/// How long a start may take: a second on an idle machine.
const START: Duration = Duration::from_secs(90);
/// How long an end in peace may take.
const END: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Running {
    keeper: Child,
    /// Closing it ends the emulator.
    held: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(
        library: &Path,
        address: SocketAddr,
        data: Option<&Path>,
    ) -> Result<Self, LocalError> {
        let port = address.port();
        let log = std::env::temp_dir().join(format!(
            "halo-dynamodb-local-{}-{port}.log",
            std::process::id()
        ));
        // Made here, so that an error names the file.
        File::create(&log).map_err(LocalError::io(format!("making {}", log.display())))?;
        check_java()?;
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "halo-dynamodb-local"])
            .arg(&log);
        command.args(["java", "-Xms32m", "-Xmx512m", "-XX:+UseSerialGC"]);
        command.arg("-XX:TieredStopAtLevel=1");
        command.arg(format!("-Djava.library.path={}", library.display()));
        command.arg("-cp").arg(library.join("*"));
        command.arg("com.amazonaws.services.dynamodbv2.local.main.ServerRunner");
        command.args(["-sharedDb", "-disableTelemetry", "-port"]);
        command.arg(port.to_string());
        match data {
            Some(folder) => {
                let making = LocalError::io(format!("making {}", folder.display()));
                std::fs::create_dir_all(folder).map_err(making)?;
                command.arg("-dbPath").arg(folder);
            }
            None => {
                command.arg("-inMemory");
            }
        }
        let mut keeper = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(LocalError::io("starting sh"))?;
        let held = keeper.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.map_err(LocalError::io("reading the emulator's process id"))?;
        }
        let mut running = Self {
            keeper,
            held,
            pid: line.trim().parse().unwrap_or(0),
            log,
        };
        running.wait(address)?;
        Ok(running)
    }

    /// Waits until the emulator answers; whatever goes wrong ends it, because `self` is dropped then.
    fn wait(&mut self, address: SocketAddr) -> Result<(), LocalError> {
        let begun = Instant::now();
        loop {
            if !self.is_running() {
                return Err(LocalError::Ended {
                    port: address.port(),
                    output: self.output(),
                });
            }
            if answers(address) {
                return Ok(());
            }
            if begun.elapsed() > START {
                return Err(LocalError::Silent {
                    address,
                    seconds: START.as_secs(),
                    output: self.output(),
                });
            }
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.keeper.try_wait(), Ok(None))
    }

    pub(crate) fn stop(mut self) -> Result<(), LocalError> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_running()) {
            let ended = kill_process(pid, Signal::TERM);
            ended.map_err(|error| LocalError::io("ending DynamoDB Local")(error.into()))?;
        }
        let begun = Instant::now();
        while self.is_running() && begun.elapsed() < END {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn output(&self) -> String {
        let said = std::fs::read(&self.log).unwrap_or_default();
        last(&String::from_utf8_lossy(&said)).to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.held.take());
        // The keeper has nothing else to wait for; nothing can be done if it cannot be waited for.
        let _ = self.keeper.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

fn check_java() -> Result<(), LocalError> {
    let mut java = Command::new("java");
    java.arg("-version").stdin(Stdio::null());
    java.stdout(Stdio::null()).stderr(Stdio::null());
    match java.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(LocalError::NoJava),
        Err(error) => Err(LocalError::io("starting java")(error)),
    }
}

/// Whether something at the address speaks DynamoDB's errors: another program could have taken the port.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("com.amazonaws.dynamodb"))
}
