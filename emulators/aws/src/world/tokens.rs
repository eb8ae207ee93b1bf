//! Client tokens: what a request with one is bound to.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::form::Form;

use super::error::ApiError;

/// At most 64 ASCII characters.
pub(super) fn check_token(token: &str) -> Result<(), ApiError> {
    if token.len() <= 64 && token.is_ascii() {
        return Ok(());
    }
    Err(ApiError::value(
        "Invalid value for ClientToken: it must be at most 64 ASCII characters.",
    ))
}

/// A digest of everything that a client token is bound to.
pub(super) fn fingerprint(form: &Form) -> String {
    let mut digest = Sha256::new();
    for (name, value) in form.pairs() {
        if matches!(
            name.as_str(),
            "Action" | "Version" | "ClientToken" | "DryRun"
        ) {
            continue;
        }
        for part in [name, value] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
    }
    let mut out = String::new();
    for byte in digest.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// `IdempotentParameterMismatch`.
pub(super) fn mismatch() -> ApiError {
    ApiError::bad(
        "IdempotentParameterMismatch",
        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
    )
}
