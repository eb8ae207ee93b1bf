//! The state on disk: written whole beside the old one, then renamed over it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::world::state::State;

/// The format that this program writes.
const FORMAT: u32 = 1;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// Reading or writing failed.
    #[error("the state file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a state file.
    #[error("the state file {path} is not one: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another version of this program wrote it.
    #[error(
        "the state file {path} has format {format}, this program reads {FORMAT}: delete it to begin anew"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct Read {
    format: u32,
    state: State,
}

/// Reads a state file; one that does not exist holds an empty state.
///
/// # Errors
/// See [`StateFileError`].
pub fn read(path: &Path) -> Result<State, StateFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
        Err(source) => {
            return Err(StateFileError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    let read: Read = serde_json::from_slice(&bytes).map_err(|source| StateFileError::Json {
        path: path.to_owned(),
        source,
    })?;
    if read.format != FORMAT {
        return Err(StateFileError::Format {
            path: path.to_owned(),
            format: read.format,
        });
    }
    Ok(read.state)
}

/// Writes a state file; a reader sees the old one or the new one. Only its owner may read it: it holds parameters.
///
/// # Errors
/// [`StateFileError::Io`] and [`StateFileError::Json`].
pub fn write(path: &Path, state: &State) -> Result<(), StateFileError> {
    let written = Written {
        format: FORMAT,
        state,
    };
    let bytes = serde_json::to_vec(&written).map_err(|source| StateFileError::Json {
        path: path.to_owned(),
        source,
    })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let store = || -> std::io::Result<()> {
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    store().map_err(|source| StateFileError::Io {
        path: path.to_owned(),
        source,
    })
}
