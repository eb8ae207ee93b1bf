//! The program: its subcommands, what it prints, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use halo_receipts::keyring::KeyRing;
use halo_receipts::keys::{DeviceKey, RootKeys, RootSecret, TenantKeys as _};
use halo_receipts::opening::{Nonce, OpenRequest, SESSIONS_PATH, signature};
use halo_receipts::time::Timestamp;

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

/// A keyring of the tenant under the second root.
fn keyring(with_enroll: bool) -> Vec<u8> {
    let root = RootSecret::new(vec![7; 40]).unwrap();
    let months = ["2026-11".parse().unwrap()];
    let tenant = "acme".parse().unwrap();
    let ring = KeyRing::derive(&tenant, &[(2, &root)], &months, with_enroll);
    ring.unwrap().encode().to_vec()
}

#[test]
fn enrolment_takes_the_secret_of_a_cluster_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let enroll = |tenant: &str, file: &Path| {
        let mut command = gateway();
        command
            .args(["enroll", "--tenant", tenant, "--device", "phone-1"])
            .arg("--keyring")
            .arg(file);
        command
    };
    let root = RootSecret::new(vec![7; 40]).unwrap();
    let key = root.enroll_key(&"acme".parse().unwrap(), 2);
    let key = key.device_key(&"phone-1".parse().unwrap(), 1).to_hex();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "halo-keys-acme"},
        "data": {"keyring.json": BASE64.encode(keyring(true))},
    });
    let secret = secret.to_string();
    for file in [
        write("keyring.json", &keyring(true)),
        write("secret.json", secret.as_bytes()),
    ] {
        let output = run(&mut enroll("acme", &file));
        assert!(output.status.success(), "{output:?}");
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed["device_key"], key.as_str());
        assert_eq!(printed["device_generation"], 1);
    }
    // As kubectl writes it into a pipe.
    let mut piped = enroll("acme", Path::new("-"));
    let piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    let mut pipe = piped.stdin.take().unwrap();
    pipe.write_all(secret.as_bytes()).unwrap();
    drop(pipe);
    let output = piped.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(key.as_str()));

    // Of another tenant, for pods, without keys, no keys at all, and not there.
    let pods = write("pods.json", &keyring(false));
    let empty = write("empty.json", b"{\"data\": {}}");
    let root = write("root", &[7; 40]);
    let (good, missing) = (
        folder.path().join("keyring.json"),
        folder.path().join("none"),
    );
    for (mut command, words) in [
        (enroll("other", &good), "halo-keys-TENANT"),
        (enroll("acme", &pods), "halo-keys-TENANT"),
        (enroll("acme", &empty), "no keyring.json"),
        (enroll("acme", &root), "holds no keys"),
        (enroll("acme", &missing), "cannot be read"),
    ] {
        let output = run(&mut command);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(words), "{log}");
        assert!(output.stdout.is_empty());
    }
    let mut both = enroll("acme", &pods);
    assert_eq!(run(both.arg("--root").arg(&root)).status.code(), Some(2));
}

#[test]
fn keys_come_from_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_config(folder.path());
    let text = std::fs::read_to_string(&file).unwrap();
    let cluster = folder.path().join("cluster.toml");
    let tenants = text.find("[[tenants]]").unwrap();
    std::fs::write(&cluster, format!("{}[cluster]\n", &text[..tenants])).unwrap();
    // Offline: nothing is asked of a cluster.
    let mut check = gateway();
    let check = check.args(["check-config", "--config"]).arg(&cluster);
    assert!(run(check).status.success());
    let serve = |config: &Path| {
        let mut command = gateway();
        command
            .args(["serve", "--config"])
            .arg(config)
            .env_remove("POD_NAMESPACE")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("KUBECONFIG", folder.path().join("none"))
            .env("HOME", folder.path());
        command
    };
    let root = folder.path().join("root");
    std::fs::write(&root, [7; 40]).unwrap();
    let fails = |command: &mut Command, words: &str| {
        let output = run(command);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(words), "{log}");
    };
    fails(
        serve(&cluster).arg("--root").arg(&root),
        "give no root secret",
    );
    fails(&mut serve(&file), "--demo-root");
    fails(&mut serve(&cluster), "POD_NAMESPACE");
    let mut homeless = serve(&cluster);
    fails(homeless.env("POD_NAMESPACE", "halo-system"), "kubeconfig");
}

#[test]
fn the_clock_can_be_shifted() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path());
    let text = std::fs::read_to_string(&config).unwrap();
    let (tls, tenants) = (
        text.find("[tls]").unwrap(),
        text.find("[[tenants]]").unwrap(),
    );
    let (head, tail) = (&text[..tls], &text[tenants..]);
    std::fs::write(&config, format!("{head}insecure_plaintext = true\n{tail}")).unwrap();
    let root = folder.path().join("root");
    std::fs::write(&root, [7; 40]).unwrap();
    let day = 24 * 3600;
    let child = gateway()
        .args(["serve", "--clock-offset-seconds", &format!("-{day}")])
        .arg("--config")
        .arg(&config)
        .arg("--root")
        .arg(&root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut events = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let listening = events.next().unwrap().unwrap();
    let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
    let open = |timestamp: Timestamp| {
        let request = OpenRequest {
            tenant_id: "acme".parse().unwrap(),
            device_id: "phone-1".parse().unwrap(),
            device_generation: 1,
            timestamp,
            nonce: Nonce([9; 16]),
        };
        let body = serde_json::to_vec(&request).unwrap();
        let keys = RootKeys::new(RootSecret::new(vec![7; 40]).unwrap(), 1, false);
        let key = keys.device_key(&request.tenant_id, &request.device_id, 1);
        let signed = signature(&key.unwrap(), "POST", SESSIONS_PATH, &body);
        let head = format!(
            "POST {SESSIONS_PATH} HTTP/1.1\r\nhost: g\r\nhalo-signature: {signed}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let address = listening["addr"].as_str().unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(&[head.as_bytes(), &body].concat())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let now = halo_gateway::system::now().unwrap();
    let yesterday = Timestamp::from_micros(now.micros() - day * 1_000_000).unwrap();
    assert_eq!(open(now), "401");
    assert_eq!(open(yesterday), "201");
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
