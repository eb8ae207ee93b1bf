//! Whether a request is signed as AWS asks (Signature Version 4, header form), and by the one key that is known.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::form::percent_encode;

/// Why a signature is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("Request is missing Authentication Token")]
    Missing,
    /// It is not one.
    #[error("The authorization header is malformed")]
    Malformed,
    /// It is for another region or service.
    #[error("Credential should be scoped to a valid region and to the correct service")]
    Scope,
    /// The key is unknown.
    #[error("The security token included in the request is invalid")]
    UnknownKey,
    /// The signature is not the one that this request has.
    #[error("The request signature we calculated does not match the signature you provided")]
    Mismatch,
}

/// The parts of a request that are signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Such as `POST`.
    pub method: &'a str,
    /// The path as it was sent.
    pub path: &'a str,
    /// The query as it was sent.
    pub query: &'a str,
    /// Headers, names in lower case.
    pub headers: &'a [(String, String)],
    /// The body.
    pub body: &'a [u8],
}

/// Checks that a request is signed for this region and service; with a key pair (id, secret), also that it is signed right.
///
/// # Errors
/// See [`Refusal`].
pub fn check(
    request: &Signed<'_>,
    region: &str,
    service: &str,
    key: Option<(&str, &str)>,
) -> Result<(), Refusal> {
    let header = find(request.headers, "authorization").ok_or(Refusal::Missing)?;
    let rest = header
        .strip_prefix("AWS4-HMAC-SHA256")
        .ok_or(Refusal::Malformed)?;
    let (mut credential, mut names, mut signature) = (None, None, None);
    for part in rest.split(',') {
        match part.trim().split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => names = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(Refusal::Malformed),
        }
    }
    let (Some(credential), Some(names), Some(signature)) = (credential, names, signature) else {
        return Err(Refusal::Malformed);
    };
    let scope: Vec<&str> = credential.split('/').collect();
    let [id, day, signed_region, signed_service, "aws4_request"] = scope[..] else {
        return Err(Refusal::Malformed);
    };
    let names: Vec<&str> = names.split(';').collect();
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let well_formed = signature.len() == 64
        && signature.bytes().all(hexadecimal)
        && day.len() == 8
        && names.contains(&"host")
        && find(request.headers, "x-amz-date").is_some_and(|date| date.starts_with(day));
    if !well_formed {
        return Err(Refusal::Malformed);
    }
    if signed_region != region || signed_service != service {
        return Err(Refusal::Scope);
    }
    let Some((known, secret)) = key else {
        return Ok(());
    };
    if id != known {
        return Err(Refusal::UnknownKey);
    }
    let date = find(request.headers, "x-amz-date").unwrap_or_default();
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical(request, &names)?.as_bytes()))
    );
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    if hex(&hmac(&key, to_sign.as_bytes())) == signature {
        Ok(())
    } else {
        Err(Refusal::Mismatch)
    }
}

fn canonical(request: &Signed<'_>, names: &[&str]) -> Result<String, Refusal> {
    let mut out = format!("{}\n", request.method);
    // A path is encoded once more when it is signed; that changes only what is not plain already.
    for (index, part) in request.path.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        percent_encode(part, &mut out);
    }
    out.push('\n');
    let mut query: Vec<&str> = request
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .collect();
    query.sort_unstable();
    out.push_str(&query.join("&"));
    out.push('\n');
    for name in names {
        let value = find(request.headers, name).ok_or(Refusal::Malformed)?;
        let spaced: Vec<&str> = value.split_whitespace().collect();
        let _ = writeln!(out, "{name}:{}", spaced.join(" "));
    }
    let _ = write!(out, "\n{}\n", names.join(";"));
    match find(request.headers, "x-amz-content-sha256") {
        Some("UNSIGNED-PAYLOAD") => out.push_str("UNSIGNED-PAYLOAD"),
        _ => out.push_str(&hex(&Sha256::digest(request.body))),
    }
    Ok(out)
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
