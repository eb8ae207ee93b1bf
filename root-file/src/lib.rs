//! The root secret of one machine, read from a file, and the flags that name it. In a cluster no program but the operator
//! sees a root; on one machine the gateway, the pod and the auditor read the same file.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use halo_receipts::keys::{KeyError, ROOT_SECRET_MIN, RootKeys, RootSecret};
use zeroize::Zeroizing;

/// The longest root file that is taken; a longer one is not a secret but a mistake.
const ROOT_FILE_MAX: u64 = 64 * 1024;

/// Why a root file is not used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file cannot be read.
    #[error("{}: cannot read the root secret: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The demo root cannot be made.
    #[error("{}: cannot make a demo root: {error}", file.display())]
    Make {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The file is too long to be a secret.
    #[error("{}: {length} bytes are no root secret; at most {ROOT_FILE_MAX} are taken", file.display())]
    Long {
        /// The file.
        file: PathBuf,
        /// Its length.
        length: u64,
    },
    /// No file was named.
    #[error("give --root or --demo-root")]
    None,
    /// The secret is refused.
    #[error("{}: {error}", file.display())]
    Secret {
        /// The file.
        file: PathBuf,
        /// Why.
        error: KeyError,
    },
}

/// The flags that name a root secret.
#[derive(Debug, clap::Args)]
pub struct RootArgs {
    /// The root secret: the exact bytes of this file, at least 32.
    #[arg(long, value_name = "FILE", required_unless_present = "demo_root")]
    root: Option<PathBuf>,
    /// A root secret for trying things out, made if it is missing. Sessions are stamped with it: under it, a receipt
    /// proves nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    demo_root: Option<PathBuf>,
    /// Which root secret this is, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_generation: u32,
}

impl RootArgs {
    /// The keys under the root that the flags name.
    ///
    /// # Errors
    /// A file that cannot be read or made, is too long, or too short to be a secret.
    pub fn keys(&self) -> Result<RootKeys, RootError> {
        match (&self.root, &self.demo_root) {
            (Some(file), _) => read(file, self.root_generation, false),
            (None, Some(file)) => demo(file, self.root_generation),
            (None, None) => Err(RootError::None),
        }
    }
}

/// Reads the demo root, and makes one of 32 random bytes first if there is none. Two programs that start at the same
/// time end up with the same one.
///
/// # Errors
/// As [`read`], and a file that cannot be made.
pub fn demo(file: &Path, generation: u32) -> Result<RootKeys, RootError> {
    if !file.exists() {
        make(file).map_err(|error| RootError::Make {
            file: file.into(),
            error,
        })?;
    }
    read(file, generation, true)
}

/// The keys under the root secret of a file, see [`secret`].
///
/// # Errors
/// As [`secret`].
pub fn read(file: &Path, generation: u32, demo: bool) -> Result<RootKeys, RootError> {
    Ok(RootKeys::new(secret(file)?, generation, demo))
}

/// Reads a root secret: the exact bytes of the file, never trimmed.
///
/// # Errors
/// A file that cannot be read, is too long, or too short to be a secret.
pub fn secret(file: &Path) -> Result<RootSecret, RootError> {
    let failed = |error| RootError::Read {
        file: file.into(),
        error,
    };
    let mut source = std::fs::File::open(file).map_err(failed)?;
    let length = source.metadata().map_err(failed)?.len();
    if length > ROOT_FILE_MAX {
        return Err(RootError::Long {
            file: file.into(),
            length,
        });
    }
    // Reserved at once: a vector that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(ROOT_FILE_MAX as usize + 1));
    std::io::Read::by_ref(&mut source)
        .take(ROOT_FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    RootSecret::new(std::mem::take(&mut *bytes)).map_err(|error| RootError::Secret {
        file: file.into(),
        error,
    })
}

/// Writes the secret beside its place and links it there: it appears whole, and never replaces another one.
fn make(file: &Path) -> std::io::Result<()> {
    let mut secret = Zeroizing::new([0; ROOT_SECRET_MIN]);
    getrandom::fill(secret.as_mut_slice()).map_err(std::io::Error::other)?;
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(name);
    let mut options = std::fs::OpenOptions::new();
    let mut target = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let written = target
        .write_all(secret.as_slice())
        .and_then(|()| target.sync_all());
    let linked = written.and_then(|()| std::fs::hard_link(&draft, file));
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::keys::TenantKeys as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_demo_root_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root");
        let first = demo(&file, 1).unwrap().root();
        assert!(first.demo);
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read(&file).unwrap().len(), 32);
        assert_eq!(demo(&file, 1).unwrap().root(), first);
        assert_eq!(
            read(&file, 2, false).unwrap().root().check_value,
            first.check_value
        );
        assert!(!read(&file, 2, false).unwrap().root().demo);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_root_is_never_trimmed_and_never_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root");
        assert!(read(&file, 1, false).is_err());
        assert!(!file.exists());
        std::fs::write(&file, [b'x'; 32]).unwrap();
        let exact = read(&file, 1, false).unwrap().root().check_value;
        std::fs::write(&file, [[b'x'; 32].as_slice(), b"\n"].concat()).unwrap();
        assert_ne!(read(&file, 1, false).unwrap().root().check_value, exact);
    }

    #[test]
    fn what_is_no_root_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root");
        let message = |file: &Path| read(file, 1, false).err().unwrap().to_string();
        assert!(message(&file).contains("cannot read the root secret"));
        std::fs::write(&file, [1; 31]).unwrap();
        assert!(message(&file).contains("31 bytes"));
        std::fs::write(&file, vec![1; 70_000]).unwrap();
        assert!(message(&file).contains("70000 bytes"));
    }
}
