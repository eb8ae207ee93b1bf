//! A request, signed.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;

use super::settings::Endpoint;

/// What is sent, without its signature. Its body may hold secrets, so it has no `Debug`.
pub(super) struct Unsigned<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) region: &'a str,
    pub(super) user_agent: &'a HeaderValue,
    pub(super) content_type: &'static str,
    /// The `X-Amz-Target` of JSON services.
    pub(super) target: Option<&'static str>,
    pub(super) body: Bytes,
}

/// A request could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    #[error("the request cannot be signed")]
    Signing(#[from] aws_sigv4::http_request::SigningError),
    #[error("the request cannot be signed")]
    Parameters(#[from] v4::signing_params::BuildError),
}

/// The request with its signature (SigV4, body included).
pub(super) fn signed(
    unsigned: &Unsigned<'_>,
    credentials: Credentials,
    now: SystemTime,
) -> Result<Request<Full<Bytes>>, SignError> {
    let endpoint = unsigned.endpoint;
    let mut headers = vec![
        ("content-type", unsigned.content_type),
        ("host", endpoint.host.as_str()),
    ];
    if let Some(target) = unsigned.target {
        headers.push(("x-amz-target", target));
    }
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.uri.clone());
    for (name, value) in &headers {
        request = request.header(*name, *value);
    }
    let mut request = request
        .header(header::USER_AGENT, unsigned.user_agent)
        .body(Full::new(unsigned.body.clone()))?;

    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(unsigned.region)
        .name(endpoint.service)
        .time(now)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let uri = endpoint.uri.to_string();
    let signable = SignableRequest::new(
        "POST",
        &uri,
        headers.iter().copied(),
        SignableBody::Bytes(&unsigned.body),
    )?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn request(target: Option<&'static str>, body: &'static str) -> Request<Full<Bytes>> {
        let endpoint = Endpoint::new("ec2", "us-east-2", None).unwrap();
        let unsigned = Unsigned {
            endpoint: &endpoint,
            region: "us-east-2",
            user_agent: &HeaderValue::from_static("halo/0.1.0"),
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            target,
            body: Bytes::from_static(body.as_bytes()),
        };
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "secret",
            Some("session".to_owned()),
            None,
            "test",
        );
        signed(
            &unsigned,
            credentials,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_405),
        )
        .unwrap()
    }

    fn header<'r>(request: &'r Request<Full<Bytes>>, name: &str) -> &'r str {
        request
            .headers()
            .get(name)
            .map(|v| v.to_str().unwrap())
            .unwrap_or_default()
    }

    #[test]
    fn carries_a_signature_over_all_that_matters() {
        let first = request(None, "Action=X");
        assert_eq!(header(&first, "host"), "ec2.us-east-2.amazonaws.com");
        assert_eq!(header(&first, "x-amz-date"), "20261121T120005Z");
        assert_eq!(header(&first, "x-amz-security-token"), "session");
        let signature = header(&first, "authorization");
        assert!(
            signature.starts_with(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/us-east-2/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="
            ),
            "{signature}"
        );
        assert!(!signature.contains("secret"));
        // The same request has the same signature; another body or header has another.
        assert_eq!(
            signature,
            header(&request(None, "Action=X"), "authorization")
        );
        assert_ne!(
            signature,
            header(&request(None, "Action=Y"), "authorization")
        );
        let json = request(Some("AmazonSSM.GetParameter"), "Action=X");
        assert!(header(&json, "authorization").contains("x-amz-target"));
    }
}
