//! The gateway's certificate, read again when its files change: it is renewed while sockets are open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use halo_receipts::ids::Hash;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::gateway::GatewayError;

/// What a look at the files came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They hold what they held.
    Same,
    /// Handshakes from now on get another certificate.
    Changed,
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    files: Option<(PathBuf, PathBuf)>,
    held: RwLock<Held>,
}

#[derive(Debug)]
struct Held {
    key: Arc<CertifiedKey>,
    /// The files' content that was looked at last, also one that was refused: it is refused once, not with every look.
    seen: Option<Hash>,
}

fn wrong(cause: impl std::fmt::Display) -> GatewayError {
    GatewayError::Tls(cause.to_string())
}

impl Certificate {
    /// One that stays.
    ///
    /// # Errors
    /// The key is not the certificate's, or is of a kind that is not known.
    pub fn fixed(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, GatewayError> {
        Ok(Arc::new(Self {
            files: None,
            held: RwLock::new(Held {
                key: certified(chain, key)?,
                seen: None,
            }),
        }))
    }

    /// The one in these PEM files.
    ///
    /// # Errors
    /// They cannot be read, hold no certificate and key, or do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, GatewayError> {
        let content = read(certificate, key)?;
        Ok(Arc::new(Self {
            held: RwLock::new(Held {
                key: parse(certificate, key, &content)?,
                seen: Some(content.hash()),
            }),
            files: Some((certificate.to_owned(), key.to_owned())),
        }))
    }

    /// Looks at the files again and takes what they hold now. Between the renewal of one file and of the other they do not belong
    /// together: that is an error here, and the next look finds both.
    ///
    /// # Errors
    /// As [`Certificate::open`], each content once; what was served before still is.
    pub fn refresh(&self) -> Result<Change, GatewayError> {
        let Some((certificate, key)) = &self.files else {
            return Ok(Change::Same);
        };
        let content = read(certificate, key)?;
        let seen = Some(content.hash());
        if seen
            == self
                .held
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .seen
        {
            return Ok(Change::Same);
        }
        let parsed = parse(certificate, key, &content);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.seen = seen;
        held.key = parsed?;
        Ok(Change::Changed)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&held.key))
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, GatewayError> {
    let provider = aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(wrong)?;
    Ok(Arc::new(certified))
}

/// The bytes of both files; the key's are wiped.
struct Content {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Content {
    fn hash(&self) -> Hash {
        let both = [
            Hash::of(&self.certificate).0,
            Hash::of(self.key.as_slice()).0,
        ];
        Hash::of(both.as_flattened())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Content, GatewayError> {
    let bytes = |path: &Path| {
        std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())))
    };
    Ok(Content {
        certificate: bytes(certificate)?,
        key: Zeroizing::new(bytes(key)?),
    })
}

fn parse(
    certificate: &Path,
    key: &Path,
    content: &Content,
) -> Result<Arc<CertifiedKey>, GatewayError> {
    let named = |path: &Path, error: rustls::pki_types::pem::Error| {
        wrong(format!("{}: {error}", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content.certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| named(certificate, error))?;
    if chain.is_empty() {
        return Err(wrong(format!(
            "{}: there is no certificate in it",
            certificate.display()
        )));
    }
    let parsed = PrivateKeyDer::from_pem_slice(&content.key).map_err(|error| named(key, error))?;
    certified(chain, parsed).map_err(|error| match error {
        GatewayError::Tls(cause) => wrong(format!(
            "{} and {}: {cause}",
            certificate.display(),
            key.display()
        )),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn certificate(&self) -> PathBuf {
            self.folder.path().join("tls.crt")
        }

        fn key(&self) -> PathBuf {
            self.folder.path().join("tls.key")
        }

        /// Writes a new pair and returns the certificate.
        fn renew(&self) -> CertificateDer<'static> {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(self.certificate(), made.cert.pem()).unwrap();
            std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
            made.cert.der().clone()
        }
    }

    fn served(certificate: &Certificate) -> CertificateDer<'static> {
        certificate.held.read().unwrap().key.cert[0].clone()
    }

    #[test]
    fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
        let files = Files {
            folder: tempfile::tempdir().unwrap(),
        };
        let first = files.renew();
        let certificate = Certificate::open(&files.certificate(), &files.key()).unwrap();
        assert_eq!(served(&certificate), first);
        assert_eq!(certificate.refresh().unwrap(), Change::Same);
        let second = files.renew();
        assert_eq!(certificate.refresh().unwrap(), Change::Changed);
        assert_eq!(served(&certificate), second);

        // One file of two: the key of another certificate.
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(files.key(), other.signing_key.serialize_pem()).unwrap();
        let error = certificate.refresh().unwrap_err().to_string();
        assert!(error.contains("tls.crt and"), "{error}");
        assert_eq!(certificate.refresh().unwrap(), Change::Same, "told once");
        assert_eq!(served(&certificate), second);
        std::fs::write(files.certificate(), other.cert.pem()).unwrap();
        assert_eq!(certificate.refresh().unwrap(), Change::Changed);

        for (file, content) in [
            (files.certificate(), "no certificate"),
            (files.key(), "no key"),
        ] {
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, content).unwrap();
            let error = certificate.refresh().unwrap_err().to_string();
            assert!(error.contains(&file.display().to_string()), "{error}");
            std::fs::write(&file, whole).unwrap();
            assert_eq!(
                certificate.refresh().unwrap(),
                Change::Changed,
                "it is whole again"
            );
        }
        std::fs::remove_file(files.key()).unwrap();
        assert!(certificate.refresh().is_err());
        assert_eq!(served(&certificate), *other.cert.der());
    }
}
