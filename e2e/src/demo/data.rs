//! The data folder that the demo leaves behind.

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::DemoError;

/// Marks a folder as the demo's own, and is locked while a demo uses it.
const MARKER: &str = ".halo-demo";

/// The files of the data folder.
pub(super) struct Data {
    folder: PathBuf,
    /// Holds the lock.
    _marker: File,
}

impl Data {
    /// Makes the folder, or empties the one that an earlier demo left. A folder with anything else in it is not touched, nor
    /// one that another demo uses.
    pub(super) fn create(folder: &Path) -> Result<Self, DemoError> {
        let file = |error| DemoError::File {
            path: folder.to_owned(),
            error,
        };
        fs::create_dir_all(folder).map_err(file)?;
        let marker = folder.join(MARKER);
        let is_empty = fs::read_dir(folder).map_err(file)?.next().is_none();
        if !is_empty && !marker.is_file() {
            return Err(DemoError::NotOurs(folder.to_owned()));
        }
        // It will hold a root secret and a device's key.
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(file)?;
        let marker = File::create(marker).map_err(file)?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DemoError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(file(error)),
        }
        for entry in fs::read_dir(folder).map_err(file)? {
            let entry = entry.map_err(file)?;
            let removed = match entry.file_type().map_err(file)?.is_dir() {
                true => fs::remove_dir_all(entry.path()),
                false if entry.file_name() == MARKER => Ok(()),
                false => fs::remove_file(entry.path()),
            };
            removed.map_err(file)?;
        }
        fs::create_dir(folder.join("logs")).map_err(file)?;
        Ok(Self {
            folder: folder.canonicalize().map_err(file)?,
            _marker: marker,
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), DemoError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|error| DemoError::File { path, error })
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, DemoError> {
        let path = self.path(name);
        fs::read(&path).map_err(|error| DemoError::File { path, error })
    }

    pub(super) fn ledger(&self, name: &str) -> String {
        format!("sqlite:{}", self.text(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_of_its_own_is_emptied() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("demo");
        let data = Data::create(&folder).unwrap();
        data.write("ledger.db", "old").unwrap();
        assert!(matches!(Data::create(&folder), Err(DemoError::InUse(_))));
        drop(data);
        let data = Data::create(&folder).unwrap();
        assert!(!data.path("ledger.db").exists());
        let theirs = parent.path().join("thesis");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("chapter-1"), "words").unwrap();
        assert!(matches!(Data::create(&theirs), Err(DemoError::NotOurs(_))));
        assert!(theirs.join("chapter-1").is_file());
    }
}
