//! The program itself, as a process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use halo_ledger::{Ledger as _, SqliteLedger};
use halo_receipts::evidence::{Block, Stream};

use super::device::Device;
use super::server::{Incoming, connect, soon};
use super::verify::verify;

pub struct Program {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub fn start(folder: &Path, model: &Path) -> Self {
        let root = folder.join("root");
        Self::with(folder, model, &["--demo-root", root.to_str().unwrap()])
    }

    pub fn with(folder: &Path, model: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_halo-substrate"))
            .arg("--model")
            .arg(model)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--tenant",
                "acme",
                "--threads",
                "1",
            ])
            .args(more)
            .arg("--ledger")
            .arg(format!("sqlite:{}", folder.join("ledger.db").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub fn line(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    pub async fn end(&mut self) -> ExitStatus {
        soon(async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model/model")
}

pub fn status(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn it_listens_loads_serves_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &demo_model());
    let listening = program.line();
    assert_eq!(listening["event"], "listening");
    let address = listening["addr"].as_str().unwrap().to_owned();
    assert_eq!(status(&address, "/healthz"), "200");
    let loaded = program.line();
    assert_eq!(loaded["event"], "loaded");
    assert_eq!(loaded["model"], "model");
    assert!(loaded["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(loaded["weights_sha256"].as_str().unwrap().len(), 64);
    let own = std::fs::read(env!("CARGO_BIN_EXE_halo-substrate")).unwrap();
    let digest = halo_receipts::ids::Hash::of(&own).to_string();
    assert_eq!(loaded["build_sha256"], digest);
    soon(async {
        while status(&address, "/readyz") != "200" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    program.terminate();
    assert_eq!(program.end().await.code(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
}

#[tokio::test]
async fn sigterm_in_the_middle_of_an_answer_leaves_it_sealed() {
    for seconds in ["0", "30"] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::write(&root, (0..32).collect::<Vec<u8>>()).unwrap();
        let more = ["--root", root.to_str().unwrap(), "--drain-seconds", seconds];
        let mut program = Program::with(folder.path(), &demo_model(), &more);
        let address = program.line()["addr"].as_str().unwrap().parse().unwrap();
        assert_eq!(program.line()["event"], "loaded");
        let ledger = SqliteLedger::open(folder.path().join("ledger.db")).unwrap();
        let mut device = Device::new(80);
        ledger
            .open_session(&device.header(), &device.epoch_claim())
            .await
            .unwrap();
        let mut link = soon(async {
            loop {
                // Between the announcement and the start of the threads it still refuses.
                match connect(address, &device, 0).await {
                    Ok(link) => return link,
                    Err(status) => assert_eq!(status, 503),
                }
            }
        })
        .await;
        let ask = device.ask("What is sovereign inference, in one sentence?", 100);
        let block = Block {
            stream: Stream::Device,
            first: 0,
            receipts: ask.stored.clone(),
        };
        ledger.append(&device.session, &block).await.unwrap();
        link.send(&ask.document()).await;
        let first = link.token().await;
        program.terminate();
        let (mut tokens, end) = link.answer().await;
        tokens.insert(0, first);
        assert!(matches!(link.next().await, Incoming::Closed(Some(1012))));
        assert_eq!(program.end().await.code(), Some(0));
        let evidence = ledger.snapshot(&device.session).await.unwrap().unwrap();
        let told = verify(&device, &evidence).pop().unwrap();
        told.assert_streamed(&tokens);
        assert_eq!(end.receipts, [told.response_receipt]);
        // The little model may be faster than the signal.
        match seconds {
            "0" => assert!(["draining", "stop"].contains(&told.response.finish.as_str())),
            _ => assert_eq!(told.response.finish, "stop"),
        }
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_named_and_nothing_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(demo_model()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let weights = model.join("model.safetensors");
    let length = std::fs::metadata(&weights).unwrap().len();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&weights)
        .unwrap();
    file.set_len(length - 100).unwrap();
    let mut program = Program::start(folder.path(), &model);
    let listening = program.line();
    assert_eq!(listening["event"], "listening");
    let error = program.line();
    assert_eq!(error["event"], "error");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("model.safetensors") && message.contains("truncated"),
        "{message}"
    );
    assert_eq!(program.end().await.code(), Some(1));
    assert!(TcpStream::connect(listening["addr"].as_str().unwrap()).is_err());
}

#[test]
fn wrong_flags_end_with_two() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_halo-substrate"))
            .args(arguments)
            .output();
        let output = output.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run(&["--model", "m", "--tenant", "acme", "--ledger", "sqlite:l"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--root"), "{text}");
    for with in ["--root", "--demo-root"] {
        let keys = ["--keys", "k", with, "r"];
        let base = ["--model", "m", "--tenant", "acme", "--ledger", "sqlite:l"];
        let (code, text) = run(&[&base[..], &keys].concat());
        assert_eq!(code, Some(2));
        assert!(text.contains("cannot be used with"), "{text}");
    }
    let (code, text) = run(&[
        "--model",
        "m",
        "--model-digest",
        "sha256:12",
        "--tenant",
        "acme",
        "--ledger",
        "sqlite:l",
        "--keys",
        "k",
    ]);
    assert_eq!(code, Some(2));
    assert!(text.contains("64 lower-case"), "{text}");
    let (code, text) = run(&[
        "--model", "m", "--tenant", "Acme", "--ledger", "sqlite:l", "--root", "r",
    ]);
    assert_eq!(code, Some(2));
    assert!(text.contains("tenant id"), "{text}");
}
