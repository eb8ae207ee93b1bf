//! The program as a person runs it: output, exit codes, other names.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs `halo` with nothing in its environment but what is told.
pub fn halo(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    as_name("halo", arguments, environment)
}

fn as_name(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halo"));
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .env("RUST_LOG", "warn")
        .envs(environment.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ran {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

#[test]
fn usage() {
    let wrong: &[&[&str]] = &[
        &["chek"],
        &["check", "--ledger", "mysql:x"],
        &["check", "--component", "nobody"],
        &["check", "--wait", "soon"],
        &["session-test"],
        &["ledger", "create"],
    ];
    for arguments in wrong {
        assert_eq!(halo(arguments, &[]).code, 2, "{arguments:?}");
    }
    let help = halo(&["check", "--help"], &[]);
    assert_eq!(help.code, 0);
    for part in [
        "--pre",
        "--wait",
        "--isolated",
        "Exit codes:",
        "3  it could not be told",
    ] {
        assert!(help.out.contains(part), "{part}: {}", help.out);
    }
    let plugin = as_name("kubectl-halo", &["check", "--help"], &[]);
    assert!(
        plugin.out.contains("Usage: kubectl halo check"),
        "{}",
        plugin.out
    );
}

#[test]
fn definitions_as_the_operator_has_them() {
    let ran = halo(&["crds"], &[]);
    assert_eq!(ran.code, 0);
    let parts: Vec<&str> = ran.out.split("---\n").skip(1).collect();
    let expected: Vec<String> = halo_crds::all()
        .iter()
        .map(|one| halo_crds::yaml(one).unwrap())
        .collect();
    assert_eq!(parts, expected);
}

#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = halo(&["completions", shell], &[]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("session-test"), "{shell}");
    }
}

#[test]
fn nothing_to_go_by() {
    // No region, no cluster: both are failures that say what to do.
    let ran = halo(
        &["check", "--kubeconfig", "/nonexistent/config"],
        &[("HOME", "/nonexistent")],
    );
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(
        ran.out.contains("× a cluster is configured\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("hint: name it with --region or AWS_REGION"),
        "{}",
        ran.out
    );
    assert!(
        !ran.out.contains('\u{1b}'),
        "no colours into a pipe: {}",
        ran.out
    );
}

#[test]
fn a_table_needs_dynamodb() {
    let ran = halo(&["ledger", "create", "--ledger", "sqlite:x.db"], &[]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("only a DynamoDB table"), "{}", ran.err);
}
