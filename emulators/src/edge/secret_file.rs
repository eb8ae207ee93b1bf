//! Files that hold keys: readable by their owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keys::{DeviceKey, KeyError, PairingKey};
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use crate::edge::clock::{self, ClockError};

/// Why a key file cannot be used. Never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A pairing key of another length.
    #[error(
        "{path} holds {found} bytes, and a pairing key has exactly 32; make one with `halo-tier1 pair --out FILE`"
    )]
    PairingLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
    /// A credential that is not what enrolment writes.
    #[error("{path} is no credential: {cause}; make one with `halo-gateway enroll`")]
    Credential {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] ClockError),
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| SecretFileError::Io {
            path: path.to_owned(),
            source,
        })
}

/// Writes a new pairing key, mode 0600. A file that is there is not overwritten.
pub fn create_pairing_key(path: &Path) -> Result<(), SecretFileError> {
    let key = Zeroizing::new(clock::random()?);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| {
        file.write_all(key.as_slice())?;
        file.sync_all()
    })
    .map_err(|source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Reads a pairing key: exactly 32 bytes.
pub fn read_pairing_key(path: &Path) -> Result<PairingKey, SecretFileError> {
    let bytes = read(path)?;
    let key: Result<[u8; 32], _> = bytes.as_slice().try_into();
    let mut key = key.map_err(|_| SecretFileError::PairingLength {
        path: path.to_owned(),
        found: bytes.len(),
    })?;
    let pairing = PairingKey::from_bytes(key);
    key.zeroize();
    Ok(pairing)
}

/// What a device was given when its tenant enrolled it.
pub struct Credential {
    /// The tenant.
    pub tenant: TenantId,
    /// The device.
    pub device: DeviceId,
    /// Which of the device's keys this is.
    pub generation: u32,
    /// DEVICE_KEY.
    pub key: DeviceKey,
}

/// The file, as `halo-gateway enroll` prints it. Further fields are for other readers.
#[derive(Deserialize)]
struct CredentialFile {
    tenant_id: TenantId,
    device_id: DeviceId,
    device_generation: u32,
    device_key: String,
}

/// Reads a credential.
pub fn read_credential(path: &Path) -> Result<Credential, SecretFileError> {
    let bytes = read(path)?;
    // serde's own message could quote the key.
    let file = serde_json::from_slice(&bytes).map_err(|error| unreadable(path, &error))?;
    credential(path, file)
}

/// Reads many credentials: one JSON object after the other, such as one a line.
pub fn read_credentials(path: &Path) -> Result<Vec<Credential>, SecretFileError> {
    let bytes = read(path)?;
    serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .map(|file| credential(path, file.map_err(|error| unreadable(path, &error))?))
        .collect()
}

fn unreadable(path: &Path, error: &serde_json::Error) -> SecretFileError {
    SecretFileError::Credential {
        path: path.to_owned(),
        cause: format!("line {}, column {}", error.line(), error.column()),
    }
}

fn credential(path: &Path, file: CredentialFile) -> Result<Credential, SecretFileError> {
    let key = Zeroizing::new(file.device_key);
    let key = DeviceKey::from_hex(&key).map_err(|error: KeyError| SecretFileError::Credential {
        path: path.to_owned(),
        cause: error.to_string(),
    })?;
    Ok(Credential {
        tenant: file.tenant_id,
        device: file.device_id,
        generation: file.device_generation,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn pairing_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairing.key");
        create_pairing_key(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let key = fs::read(&path).unwrap();
        assert_eq!(read_pairing_key(&path).unwrap().expose().as_slice(), key);
        assert!(
            matches!(create_pairing_key(&path), Err(SecretFileError::Io { .. })),
            "not overwritten"
        );
        fs::write(&path, [1; 33]).unwrap();
        assert!(matches!(
            read_pairing_key(&path),
            Err(SecretFileError::PairingLength { found: 33, .. })
        ));
    }

    #[test]
    fn credentials() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credential.json");
        let good = format!(
            r#"{{"tenant_id":"acme","device_id":"phone-1","device_generation":2,"device_key":"{}"}}"#,
            "ab".repeat(32)
        );
        fs::write(&path, &good).unwrap();
        let read = read_credential(&path).unwrap();
        assert_eq!(
            (read.tenant.as_str(), read.device.as_str(), read.generation),
            ("acme", "phone-1", 2)
        );
        assert_eq!(read.key.expose(), &[0xab; 32]);
        fs::write(
            &path,
            format!("{good}\n{}\n", good.replace("phone-1", "phone-2")),
        )
        .unwrap();
        let all = read_credentials(&path).unwrap();
        let names: Vec<&str> = all.iter().map(|one| one.device.as_str()).collect();
        assert_eq!(names, ["phone-1", "phone-2"]);
        assert!(read_credential(&path).is_err(), "one file, one device");
        for bad in [
            good.replace("acme", "ACME"),
            good.replace("abab", "ABAB"),
            good[..40].to_owned(),
        ] {
            fs::write(&path, bad).unwrap();
            let (one, many) = (read_credential(&path), read_credentials(&path));
            for error in [one.err(), many.err()] {
                let error = error.unwrap().to_string();
                assert!(!error.contains("abab"), "{error}");
            }
        }
    }
}
