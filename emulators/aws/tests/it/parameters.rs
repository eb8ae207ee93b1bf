//! SSM parameters.

use serde_json::{Value, json};

use crate::account::Account;

const NAME: &str = "/halo/root";

fn put(account: &mut Account, value: &str, overwrite: bool) -> Result<Value, String> {
    let body =
        json!({ "Name": NAME, "Value": value, "Type": "SecureString", "Overwrite": overwrite });
    account.ssm("PutParameter", body)
}

fn get(account: &mut Account, name: &str, decrypt: bool) -> Result<Value, String> {
    account.ssm(
        "GetParameter",
        json!({ "Name": name, "WithDecryption": decrypt }),
    )
}

#[test]
fn versions_are_kept_and_selected() {
    let mut account = Account::new();
    assert_eq!(
        get(&mut account, NAME, true).unwrap_err(),
        "ParameterNotFound"
    );
    assert_eq!(put(&mut account, "first", false).unwrap()["Version"], 1);
    assert_eq!(
        put(&mut account, "second", false).unwrap_err(),
        "ParameterAlreadyExists"
    );
    assert_eq!(put(&mut account, " second\n", true).unwrap()["Version"], 2);
    for (selector, value, version) in [
        (NAME, " second\n", 2),
        ("/halo/root:1", "first", 1),
        ("/halo/root:2", " second\n", 2),
    ] {
        let parameter = get(&mut account, selector, true).unwrap()["Parameter"].clone();
        assert_eq!(parameter["Value"], value, "{selector}");
        assert_eq!(parameter["Version"], version, "{selector}");
        assert_eq!(parameter["Name"], NAME);
        assert_eq!(parameter["Type"], "SecureString");
    }
    assert_eq!(
        get(&mut account, "/halo/root:3", true).unwrap_err(),
        "ParameterVersionNotFound"
    );
}

#[test]
fn without_decryption_nothing_is_shown() {
    let mut account = Account::new();
    put(&mut account, "a very secret value", false).unwrap();
    let sealed = get(&mut account, NAME, false).unwrap()["Parameter"]["Value"].clone();
    let sealed = sealed.as_str().unwrap();
    assert!(!sealed.contains("secret"));
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(sealed)
        .unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    // The state that the admin endpoint shows holds it no more than the ciphertext does.
    let shown = serde_json::to_string(&account.world.state_shown()).unwrap();
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!format!("{:?}", account.world.state).contains("secret"));
}

#[test]
fn several_at_once_name_what_is_missing() {
    let mut account = Account::new();
    put(&mut account, "x", false).unwrap();
    let names = json!({ "Names": [NAME, "/none", "/halo/root:9"], "WithDecryption": true });
    let found = account.ssm("GetParameters", names).unwrap();
    assert_eq!(found["Parameters"].as_array().unwrap().len(), 1);
    assert_eq!(found["InvalidParameters"], json!(["/none", "/halo/root:9"]));
}

#[test]
fn images_of_eks_are_public() {
    let mut account = Account::new();
    let path = "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/standard/recommended";
    let found = get(&mut account, &format!("{path}/image_id"), false).unwrap();
    let image = found["Parameter"]["Value"].as_str().unwrap().to_owned();
    assert!(account.world.rules.catalogue.image(&image).is_some());
    let whole = get(&mut account, path, false).unwrap()["Parameter"]["Value"].clone();
    let whole: Value = serde_json::from_str(whole.as_str().unwrap()).unwrap();
    assert_eq!(whole["image_id"], image);
    let other = get(&mut account, &format!("{path}/release"), false);
    assert_eq!(other.unwrap_err(), "ParameterNotFound");
}

#[test]
fn denials_name_the_action_or_the_key() {
    let mut account = Account::new();
    put(&mut account, "x", false).unwrap();
    account
        .world
        .set_denied(vec!["ssm:GetParameter".to_owned()]);
    assert_eq!(
        get(&mut account, NAME, false).unwrap_err(),
        "AccessDeniedException"
    );
    account.world.set_denied(vec!["kms:Decrypt".to_owned()]);
    assert_eq!(
        get(&mut account, NAME, true).unwrap_err(),
        "AccessDeniedException"
    );
    get(&mut account, NAME, false).unwrap();
    account.world.set_denied(vec!["kms:Encrypt".to_owned()]);
    assert_eq!(
        put(&mut account, "y", true).unwrap_err(),
        "AccessDeniedException"
    );
    account.world.set_denied(vec!["ssm:*".to_owned()]);
    assert_eq!(
        put(&mut account, "y", true).unwrap_err(),
        "AccessDeniedException"
    );
}

#[test]
fn what_cannot_be_put() {
    for (body, code) in [
        (
            json!({ "Value": "x", "Type": "String" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/a", "Type": "String" }),
            "ValidationException",
        ),
        (json!({ "Name": "/a", "Value": "x" }), "ValidationException"),
        (
            json!({ "Name": "/a", "Value": "", "Type": "String" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/a", "Value": "x".repeat(4_097), "Type": "String" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/a", "Value": "x", "Type": "Number" }),
            "UnsupportedParameterType",
        ),
        (
            json!({ "Name": "a/b", "Value": "x", "Type": "String" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/a b", "Value": "x", "Type": "String" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/aws/a", "Value": "x", "Type": "String" }),
            "AccessDeniedException",
        ),
        (
            json!({ "Name": "/a", "Value": "x", "Type": "String", "KeyId": "k" }),
            "ValidationException",
        ),
        (
            json!({ "Name": "/a", "Value": 1, "Type": "String" }),
            "SerializationException",
        ),
        (
            json!({ "Name": "/a", "Value": "x", "Typ": "String" }),
            "SerializationException",
        ),
        (json!([]), "SerializationException"),
    ] {
        let mut account = Account::new();
        assert_eq!(
            account.ssm("PutParameter", body.clone()).unwrap_err(),
            code,
            "{body}"
        );
        assert_eq!(account.world.revision(), 0, "{body}");
    }
    let other = Account::new().ssm("DeleteParameter", json!({}));
    assert_eq!(other.unwrap_err(), "UnknownOperationException");
}
