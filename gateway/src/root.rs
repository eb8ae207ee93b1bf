//! The root secret on one machine: a file, read as it is, or a demo root that is made when it is missing.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use halo_receipts::keys::{KeyError, ROOT_SECRET_MIN, RootKeys, RootSecret};

use crate::gateway;

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file cannot be read or made.
    #[error("the root file {path} cannot be {what}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The file does not hold a root.
    #[error("the root file {path}: {error}")]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// There is no randomness to make a demo root of.
    #[error(transparent)]
    Random(#[from] gateway::GatewayError),
}

/// Which root a machine works under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A root secret.
    File(PathBuf),
    /// A root under which a receipt proves nothing; made with 32 random bytes if it is missing.
    Demo(PathBuf),
}

impl RootSource {
    /// Reads the root, the exact bytes of the file.
    pub fn load(&self, generation: u32) -> Result<RootKeys, RootError> {
        let (path, demo) = match self {
            RootSource::File(path) => (path, false),
            RootSource::Demo(path) => {
                create(path)?;
                (path, true)
            }
        };
        let bytes = read(path)?;
        let root = RootSecret::new(bytes).map_err(|error| RootError::Root {
            path: path.clone(),
            error,
        })?;
        Ok(RootKeys::new(root, generation, demo))
    }
}

fn file_error(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> RootError {
    let path = path.to_owned();
    move |error| RootError::File { path, what, error }
}

fn read(path: &Path) -> Result<Vec<u8>, RootError> {
    let mut file = File::open(path).map_err(file_error(path, "read"))?;
    // Room for the whole file, so that no copy of a part of it is left behind by growing.
    let size = file.metadata().map_err(file_error(path, "read"))?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    file.read_to_end(&mut bytes)
        .map_err(file_error(path, "read"))?;
    Ok(bytes)
}

/// Makes a demo root that only its owner can read. Two programs that start at once agree on one: the file appears whole.
fn create(path: &Path) -> Result<(), RootError> {
    if path.exists() {
        return Ok(());
    }
    let secret = zeroize::Zeroizing::new(gateway::random::<ROOT_SECRET_MIN>()?);
    let part = path.with_extension(format!("part-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&part).and_then(|mut file| {
        file.write_all(secret.as_slice())?;
        file.sync_all()
    });
    let linked = written.and_then(|()| match std::fs::hard_link(&part, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    // Whether the link was made or not, the part has done its work.
    let _ = std::fs::remove_file(&part);
    linked.map_err(file_error(path, "made"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::keys::TenantKeys as _;

    #[test]
    fn a_demo_root_is_made_once_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let source = RootSource::Demo(dir.path().join("root"));
        let first = source.load(3).unwrap().root();
        assert_eq!((first.generation, first.demo), (3, true));
        assert_eq!(source.load(3).unwrap().root(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = dir
                .path()
                .join("root")
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_root_file_is_taken_as_it_is_and_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        let source = RootSource::File(path.clone());
        assert!(matches!(source.load(1), Err(RootError::File { .. })));
        assert!(!path.exists());
        std::fs::write(&path, [b'x'; 31]).unwrap();
        assert!(matches!(source.load(1), Err(RootError::Root { .. })));
        std::fs::write(&path, [b'x'; 32]).unwrap();
        let exact = source.load(1).unwrap().root().check_value;
        std::fs::write(&path, [[b'x'; 32].as_slice(), b"\n"].concat()).unwrap();
        assert_ne!(source.load(1).unwrap().root().check_value, exact);
    }
}
