//! The emulator and the program around it, as others use them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use halo_dynamodb_local::{DynamoDbLocal, Options};

/// One request, signed by nobody in particular: the emulator looks at the key's form only.
fn ask(address: SocketAddr, operation: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: DynamoDB_20120810.{operation}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=local/20260101/us-east-2/dynamodb/aws4_request, SignedHeaders=host, Signature=00\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn gone(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.map_or(true, |status| status.contains(") Z "))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const TABLE: &str = r#"{"TableName":"kept","BillingMode":"PAY_PER_REQUEST",
    "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"}],"KeySchema":[{"AttributeName":"pk","KeyType":"HASH"}]}"#;

#[test]
fn tables_in_a_folder_outlive_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options {
        data: Some(folder.path().join("data")),
        ..Options::default()
    };
    let local = DynamoDbLocal::start(&options).unwrap();
    let (address, pid) = (local.address(), local.pid());
    assert!(ask(address, "CreateTable", TABLE).contains("kept"));
    local.stop().unwrap();
    assert!(gone(pid), "it still runs");
    assert!(TcpStream::connect(address).is_err(), "it still answers");
    options.port = address.port();
    let local = DynamoDbLocal::start(&options).unwrap();
    assert_eq!(local.address(), address);
    assert!(ask(address, "ListTables", "{}").contains("kept"));
    let pid = local.pid();
    drop(local);
    assert!(gone(pid), "it outlives its handle");
}

#[test]
fn a_taken_port_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options {
        port: taken.local_addr().unwrap().port(),
        ..Options::default()
    };
    let error = DynamoDbLocal::start(&options).err().unwrap().to_string();
    assert!(error.contains("is taken"), "{error}");
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(extra: &[&str]) -> (Program, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_halo-dynamodb-local"))
        .args(["--port", "0"])
        .args(extra)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (Program(child), line)
}

fn pid_in(line: &str) -> u32 {
    let (_, pid) = line.split_once(r#""pid":"#).unwrap();
    pid.trim_end().trim_end_matches('}').parse().unwrap()
}

#[test]
fn a_killed_program_leaves_no_emulator() {
    let (mut program, line) = program(&[]);
    let pid = pid_in(&line);
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    program.0.kill().unwrap();
    wait_until("the emulator outlives the program", || gone(pid));
}

#[test]
fn without_java_it_says_what_to_install() {
    let library = halo_dynamodb_local::install().unwrap();
    let cache = library.ancestors().nth(4).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_halo-dynamodb-local"))
        .env("XDG_CACHE_HOME", cache)
        .env("PATH", empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("openjdk-17-jre-headless"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_halo-dynamodb-local"))
        .env("XDG_CACHE_HOME", empty.path())
        .env("PATH", empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("apt-get install maven"), "{said}");
}
