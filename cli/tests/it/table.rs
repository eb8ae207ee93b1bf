//! The ledger's table, in DynamoDB Local.

use halo_dynamodb_local::{DynamoDbLocal, Options};
use serde_json::Value;

use crate::program::halo;
use crate::servers;

const LEDGER: &str = "dynamodb:howdify-receipts@us-east-2";

#[test]
fn a_table_is_made_once_and_can_be_used() {
    let local = DynamoDbLocal::start(&Options::default()).unwrap();
    let closed = format!("http://{}", servers::closed());
    let mut variables: Vec<(&str, &str)> = vec![("AWS_ENDPOINT_URL", &closed)];
    let environment = local.environment();
    variables.extend(
        environment
            .iter()
            .map(|(name, value)| (*name, value.as_str())),
    );
    let check = |more: &[&str]| {
        let arguments = [
            &[
                "check",
                "--ledger",
                LEDGER,
                "-o",
                "json",
                "--timeout",
                "20s",
            ],
            more,
        ]
        .concat();
        let ran = halo(&arguments, &variables);
        let report: Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err));
        (ran.code, report)
    };
    let results = |report: &Value, category: &str| {
        let categories = report["categories"].as_array().unwrap();
        let found = categories
            .iter()
            .find(|one| one["categoryName"] == category);
        let checks = found.unwrap_or_else(|| panic!("no {category} in {report:#}"))["checks"]
            .as_array()
            .unwrap();
        let result = |check: &Value| check["result"].as_str().unwrap().to_owned();
        checks.iter().map(result).collect::<Vec<_>>()
    };

    // No table yet: that is what is said, and how to make it.
    let (code, report) = check(&["--only", "ledger"]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(results(&report, "ledger-table"), ["fail"]);
    assert!(report.to_string().contains("halo ledger create"));

    let made = halo(&["ledger", "create", "--ledger", LEDGER], &variables);
    assert!(made.out.contains("is made"), "{}{}", made.out, made.err);
    let again = halo(&["ledger", "create", "--ledger", LEDGER], &variables);
    assert!(
        again.out.contains("is there already"),
        "{}{}",
        again.out,
        again.err
    );

    // Every permission that a gateway needs, asked of the table that this program's ledger made: the names of its keys agree.
    let (_, report) = check(&["--only", "aws", "--component", "gateway"]);
    assert_eq!(
        results(&report, "aws-permissions"),
        ["ok", "ok", "ok"],
        "{report:#}"
    );
    // Asking wrote nothing.
    let (_, report) = check(&["--only", "aws", "--component", "auditor"]);
    assert_eq!(
        results(&report, "aws-permissions"),
        ["ok", "ok"],
        "{report:#}"
    );

    let (_, report) = check(&["--only", "ledger"]);
    let found = results(&report, "ledger-table");
    assert_eq!(found.len(), 4, "{report:#}");
    assert_eq!(found[0], "ok", "{report:#}");
    assert_eq!(found[3], "ok", "{report:#}");
    local.stop().unwrap();
}

#[test]
fn nobody_answers() {
    let closed = format!("http://{}", servers::closed());
    let variables = [
        ("AWS_ENDPOINT_URL", closed.as_str()),
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ];
    let ran = halo(
        &["check", "--only", "ledger", "--ledger", LEDGER],
        &variables,
    );
    assert!(
        ran.out.contains("× dynamodb answers at 127.0.0.1\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("- the table howdify-receipts is ready\n    dynamodb was not reached"),
        "{}",
        ran.out
    );
    assert_eq!(ran.code, 1);
}
