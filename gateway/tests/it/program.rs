//! The program: its subcommands, what it prints, and how it ends.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use halo_receipts::keys::{DeviceKey, RootKeys, RootSecret, TenantKeys as _};

fn gateway() -> Command {
    Command::new(env!("CARGO_BIN_EXE_halo-gateway"))
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn write_config(folder: &Path) -> std::path::PathBuf {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let path = folder.join("gateway.toml");
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nledger = \"sqlite:{}\"\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n[[tenants]]\nid = \"acme\"\n",
        at("ledger.db"),
        at("cert.pem"),
        at("key.pem"),
    );
    std::fs::write(&path, config).unwrap();
    path
}

#[test]
fn enrolment_prints_the_credential_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::write(&root, [7; 40]).unwrap();
    let mut command = gateway();
    command.args([
        "enroll",
        "--tenant",
        "acme",
        "--device",
        "phone-1",
        "--device-generation",
        "3",
    ]);
    let output = run(command
        .arg("--root")
        .arg(&root)
        .args(["--root-generation", "2"]));
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = RootKeys::new(RootSecret::new(vec![7; 40]).unwrap(), 2, false);
    let key = keys
        .device_key(&"acme".parse().unwrap(), &"phone-1".parse().unwrap(), 3)
        .unwrap();
    let expected = serde_json::json!({
        "tenant_id": "acme",
        "device_id": "phone-1",
        "device_generation": 3,
        "device_key": key.to_hex().as_str(),
    });
    assert_eq!(printed, expected);
    assert!(DeviceKey::from_hex(printed["device_key"].as_str().unwrap()).is_ok());
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn wrong_usage_and_wrong_files_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path());
    let enroll = ["enroll", "--tenant", "acme", "--device", "phone-1"];
    let code = |command: &mut Command| run(command).status.code();
    assert_eq!(code(gateway().args(enroll)), Some(2));
    assert_eq!(
        code(
            gateway()
                .args(enroll)
                .args(["--root", "a", "--demo-root", "b"])
        ),
        Some(2)
    );
    assert_eq!(
        code(gateway().args(["enroll", "--tenant", "Acme", "--device", "x"])),
        Some(2)
    );
    let missing = folder.path().join("missing");
    assert_eq!(
        code(gateway().args(enroll).arg("--root").arg(&missing)),
        Some(1)
    );
    assert_eq!(
        code(gateway().arg("check-config").arg("--config").arg(&config)),
        Some(0)
    );
    assert_eq!(
        code(gateway().arg("check-config").arg("--config").arg(&missing)),
        Some(1)
    );
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.example.toml");
    assert_eq!(
        code(gateway().args(["check-config", "--config", example])),
        Some(0)
    );
}

/// A server that is stopped however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path());
    let child = gateway()
        .args(["--log-format", "json", "serve", "--config"])
        .arg(&config)
        .arg("--demo-root")
        .arg(folder.path().join("root"))
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let log = running.0.stderr.take().unwrap();
    let log = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    let mut events = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&events.next().unwrap().unwrap()).unwrap() };
    let listening = next();
    assert_eq!(listening["event"], "listening");
    for port in ["addr", "admin_addr"] {
        std::net::TcpStream::connect(listening[port].as_str().unwrap()).unwrap();
    }
    let stopped = Command::new("kill")
        .arg(running.0.id().to_string())
        .status()
        .unwrap();
    assert!(stopped.success());
    assert_eq!(
        next(),
        serde_json::json!({"event": "drained", "whole": true})
    );
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    // The log is JSON too, and says loudly what root is in use.
    let log = log.join().unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let warned = |line: &serde_json::Value| {
        line["level"] == "WARN" && line["fields"]["message"].to_string().contains("demo root")
    };
    assert!(lines.into_iter().any(|line| warned(&line)));
    assert!(folder.path().join("ledger.db").exists());
}
