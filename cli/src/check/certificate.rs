//! Whether the gateway's certificate is one that devices take, today and for a while. Pure.

use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use super::dial::bare;
use super::outcome::Check;

/// A certificate that ends sooner than this should have been replaced: cert-manager's default for one of 90 days is 30.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

const TLS: &str = "docs/install.md#the-gateways-certificate";

/// Judges a chain of PEM certificates, the gateway's own first, at a time.
pub fn judge(says: impl Into<String>, pem: &[u8], now: UnixTime) -> Check {
    let says = says.into();
    let broken = |why: String| {
        Check::fail(says.clone(), why).hint(
            "put a PEM chain into tls.crt, the gateway's own certificate first",
            TLS,
        )
    };
    let chain: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => return broken(format!("it cannot be read: {error}")),
    };
    let Some(own) = chain.first() else {
        return broken("it holds no certificate".to_owned());
    };
    let parsed = match ParsedCertificate::try_from(own) {
        Ok(parsed) => parsed,
        Err(error) => return broken(format!("it cannot be read: {error}")),
    };
    let names = names(&parsed);
    if names.is_empty() {
        return Check::fail(says, "it is for no DNS name and no address").hint(
            "devices check the name: it must stand in subjectAltName",
            TLS,
        );
    }
    let detail = format!("for {}", names.join(", "));
    match refusal(&parsed, now) {
        Some(why @ (CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Check::fail(says, format!("{detail}; {why}"))
                .hint("replace it: no device can connect", TLS)
        }
        Some(
            why @ (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }),
        ) => Check::fail(says, format!("{detail}; {why}"))
            .hint("no device can connect yet; are the clocks right?", TLS),
        Some(why) => Check::fail(says, format!("{detail}; {why}")).hint(
            "devices refuse it. A self-signed one must not be a CA certificate itself (CA:FALSE)",
            TLS,
        ),
        None => {
            let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
            match refusal(&parsed, later) {
                None => Check::ok(says, detail),
                Some(_) => Check::warn(
                    says,
                    format!("{detail}; it ends within {} days", SOON.as_secs() / 86_400),
                )
                .hint("replace it; cert-manager would have by now", TLS),
            }
        }
    }
}

/// What is wrong with the certificate by itself, whoever signed it.
fn refusal(parsed: &ParsedCertificate<'_>, now: UnixTime) -> Option<CertificateError> {
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    // With no root the search for one fails last: everything before is about the certificate itself.
    let result = verify_server_cert_signed_by_trust_anchor(
        parsed,
        &RootCertStore::empty(),
        &[],
        now,
        algorithms.all,
    );
    match result {
        Ok(()) | Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => None,
        Err(Error::InvalidCertificate(why)) => Some(why),
        Err(_) => Some(CertificateError::BadEncoding),
    }
}

/// The names and addresses that it is for, as the check of a name that it is not for tells them.
fn names(parsed: &ParsedCertificate<'_>) -> Vec<String> {
    let Ok(nobody) = ServerName::try_from("nobody.invalid") else {
        return Vec::new();
    };
    match verify_server_name(parsed, &nobody) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => presented.iter().map(|name| bare(name)).collect(),
        // A certificate for every name there is.
        Ok(()) => vec!["*".to_owned()],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::outcome::Status;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    /// 2026-11-21.
    const NOW: u64 = 1_795_219_200;

    fn pem(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        change(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
    }

    #[test]
    fn certificates() {
        let at = |pem: &str| {
            judge(
                "c",
                pem.as_bytes(),
                UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
            )
        };
        let good = at(&pem(|_| {}));
        assert_eq!(
            (good.result, good.detail.as_str()),
            (Status::Ok, "for gateway.example"),
            "{good:?}"
        );
        let table: Vec<(String, Status, &str)> = vec![
            (
                pem(|p| p.not_after = date_time_ymd(2026, 12, 1)),
                Status::Warn,
                "ends within 14 days",
            ),
            (
                pem(|p| p.not_after = date_time_ymd(2026, 11, 20)),
                Status::Fail,
                "expired",
            ),
            (
                pem(|p| p.not_before = date_time_ymd(2026, 12, 1)),
                Status::Fail,
                "not valid yet",
            ),
            (
                pem(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                Status::Fail,
                "CaUsedAsEndEntity",
            ),
            (
                pem(|p| p.subject_alt_names.clear()),
                Status::Fail,
                "no DNS name",
            ),
            (String::new(), Status::Fail, "no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
                Status::Fail,
                "cannot be read",
            ),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned(),
                Status::Fail,
                "cannot be read",
            ),
        ];
        for (pem, status, detail) in table {
            let check = at(&pem);
            assert_eq!(check.result, status, "{detail}: {check:?}");
            assert!(check.detail.contains(detail), "{detail}: {check:?}");
            assert_eq!(check.anchor, TLS);
        }
    }
}
