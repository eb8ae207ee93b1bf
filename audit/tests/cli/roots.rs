//! Sessions of two generations of the root in one run, and what whoever holds the ledger makes of that.

use halo_receipts::keys::{RootSecret, TenantKeys as _};
use serde_json::Value;

use super::golden::{self, Builder};
use super::{Place, broken_open};

const TENANT: [&str; 4] = ["--ledger", "sqlite:ledger.db", "--tenant", "acme-west"];

/// Two sessions under the first root, two under the next one.
fn builders() -> [Builder; 4] {
    let later = |seed| golden::session_under(golden::next_root_keys(), seed, &["x"], &["y"]);
    [
        golden::golden(),
        golden::session(2, &["x"], &["y"]),
        later(3),
        later(4),
    ]
}

/// A ledger with them; the roots are `root`, `next-root` and, of nobody, `other-root`.
fn place(builders: &[Builder; 4]) -> Place {
    let place = Place::new(&builders.each_ref());
    std::fs::write(place.path("next-root"), golden::next_root_bytes()).unwrap();
    place
}

fn check_value(bytes: &[u8]) -> String {
    let root = RootSecret::new(bytes.to_vec()).unwrap();
    root.check_value().to_string()
}

/// The verdicts on all sessions of the tenant, in the order of [`builders`].
fn verdicts(place: &Place, builders: &[Builder; 4], roots: &[&str]) -> (Option<i32>, [Value; 4]) {
    let (code, out, err) = place.run(&[&TENANT[..], roots, &["--json"]].concat());
    let json: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    let all = json["sessions"].as_array().unwrap();
    let of = |builder: &Builder| {
        let id = builder.session_id.to_string();
        all.iter()
            .find(|verdict| verdict["session_id"] == id.as_str())
            .unwrap()
            .clone()
    };
    (code, builders.each_ref().map(of))
}

#[test]
fn one_run_verifies_sessions_of_both_roots() {
    let builders = builders();
    let place = place(&builders);
    for roots in [
        ["--root", "root", "--root", "next-root"],
        ["--root", "next-root", "--root", "root"],
        ["--demo-root", "root", "--demo-root", "next-root"],
    ] {
        let (code, out, err) = place.run(&[&TENANT[..], &roots].concat());
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("4 of 4 sessions passed"), "{out}");
        let (code, verdicts) = verdicts(&place, &builders, &roots);
        assert_eq!(code, Some(0));
        for (verdict, generation) in verdicts.iter().zip([1, 1, 2, 2]) {
            assert_eq!(verdict["root_generation"], generation);
            assert_eq!(
                (&verdict["keys"], &verdict["key_source"]),
                (&"ok".into(), &"root".into())
            );
            assert_eq!(verdict["receipts"]["signed"], verdict["receipts"]["total"]);
        }
    }
}

#[test]
fn a_root_that_is_missing_is_named_with_those_that_are_there() {
    let builders = builders();
    let place = place(&builders);
    let given = ["--root", "root", "--root", "other-root"];
    let said = format!(
        "the header names root generation 2 with check value {}, and nothing in the session verifies under any of the 2 \
         roots given, whose check values are {}, {}; give the root of generation 2",
        check_value(&golden::next_root_bytes()),
        check_value(&golden::root_bytes()),
        check_value(&[7; 40]),
    );
    // Once for all sessions of that root.
    let (code, out, _) = place.run(&[&TENANT[..], &given].concat());
    assert_eq!(code, Some(5), "{out}");
    assert!(
        out.contains(&format!("\nof 2 sessions, {said}\n2 of 4 sessions passed")),
        "{out}"
    );
    let (_, verdicts) = verdicts(&place, &builders, &given);
    let keys = verdicts.each_ref().map(|verdict| verdict["keys"].clone());
    assert_eq!(keys, ["ok", "ok", "unavailable", "unavailable"]);
    let session = builders[2].session_id.to_string();
    let one = [&[session.as_str()], &TENANT[..2], &given].concat();
    let (code, out, _) = place.run(&one);
    assert_eq!(code, Some(5), "{out}");
    assert!(
        out.contains(&said) && out.contains("integrity: ok"),
        "{out}"
    );
    // The keys of another root are never handed out as the session's.
    for more in [
        &["--key-out", "out"][..],
        &["--bundle-out", "out", "--bundle-keys"],
    ] {
        let (code, _, err) = place.run(&[&one[..], more].concat());
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("none of the roots given"), "{err}");
        assert!(!place.path("out").exists());
    }
}

/// Whoever can write the ledger's file and has no key makes the header name another root.
#[test]
fn a_header_that_is_made_to_name_another_root_fails() {
    let own = golden::next_root_keys().root().check_value.to_string();
    for named in [
        check_value(&golden::root_bytes()),
        check_value(&[7; 40]),
        "0102030405060708".to_owned(),
    ] {
        let builders = builders();
        let place = place(&builders);
        let session = builders[2].session_id.to_string();
        let changed = broken_open(&place).execute(
            "UPDATE session SET body = CAST(replace(CAST(body AS TEXT), ?1, ?2) AS BLOB) WHERE session_id = ?3",
            [&own, &named, &session],
        );
        assert_eq!(changed.unwrap(), 1);
        for given in [
            &["--root", "root", "--root", "next-root"][..],
            &[
                "--root",
                "other-root",
                "--root",
                "next-root",
                "--root",
                "root",
            ],
        ] {
            let (code, verdicts) = verdicts(&place, &builders, given);
            assert_eq!(code, Some(1), "{named}");
            let codes = verdicts.each_ref().map(|verdict| {
                let code = verdict["findings"][0]["code"].as_str().unwrap_or_default();
                (verdict["exit_code"].as_u64(), code.to_owned())
            });
            let pass = (Some(0), String::new());
            let failed = (Some(1), "header.mac.mismatch".to_owned());
            assert_eq!(codes, [pass.clone(), pass.clone(), failed, pass], "{named}");
            // The receipts are under the root that signed them.
            let receipts = &verdicts[2]["receipts"];
            assert_eq!(receipts["signed"], receipts["total"]);
        }
    }
}

#[test]
fn one_session_of_several_roots_can_be_read_watched_and_handed_on() {
    let builders = builders();
    let place = place(&builders);
    let roots = ["--root", "root", "--root", "next-root"];
    for builder in [&builders[0], &builders[3]] {
        let session = builder.session_id.to_string();
        let one = [&[session.as_str()], &TENANT[..2]].concat();
        let (key, bundle) = (format!("{session}.key"), format!("{session}.json"));
        let files = [
            "--key-out",
            &key,
            "--bundle-out",
            &bundle,
            "--bundle-keys",
            "--replay",
        ];
        let (code, out, err) = place.run(&[&one[..], &roots, &files].concat());
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains("\"It is one minute past midnight.\""), "{out}");
        for more in [
            &[&one[..], &["--key", &key]].concat()[..],
            &["--bundle", &bundle],
            &[&["--bundle", &bundle], &roots[..]].concat(),
        ] {
            let (code, out, err) = place.run(more);
            assert_eq!(code, Some(0), "{more:?}: {out}{err}");
        }
        let (code, out, _) = place.run(&[&one[..], &roots, &["--watch", "--jsonl"]].concat());
        assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}");
    }
}

#[test]
fn roots_are_each_given_once_and_of_one_kind() {
    let place = place(&builders());
    std::fs::copy(place.path("root"), place.path("copy")).unwrap();
    for (flags, expected) in [
        (
            &["--root", "root", "--root", "next-root", "--root", "copy"][..],
            "root and copy hold the same root secret",
        ),
        (
            &["--root", "next-root", "--root", "root", "--root", "copy"],
            "root and copy hold",
        ),
        (&["--root", "root", "--root", "missing"], "missing"),
        (
            &["--root", "root", "--demo-root", "next-root"],
            "cannot be used with",
        ),
        (
            &["--root", "root", "--root-generation", "2"],
            "unexpected argument '--root-generation'",
        ),
    ] {
        let (code, out, err) = place.verify(flags);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{flags:?}");
        assert!(err.contains(expected), "{flags:?}: {err}");
    }
}
