//! What SQLite reports, as a cause that a person can act on.

use std::path::Path;

use rusqlite::Error;
use rusqlite::ffi::{self, ErrorCode};

use crate::LedgerError;

fn code(error: &Error) -> Option<&ffi::Error> {
    match error {
        Error::SqliteFailure(code, _) => Some(code),
        _ => None,
    }
}

/// Whether another connection holds a lock that would be needed.
pub fn is_busy(error: &Error) -> bool {
    code(error).is_some_and(|code| {
        matches!(
            code.code,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked
        )
    })
}

/// Names the file, the cause and what to do.
pub fn storage(path: &Path, error: &Error) -> LedgerError {
    let path = path.display();
    let Some(code) = code(error) else {
        return LedgerError::Storage(format!("{path}: {error}"));
    };
    let advice = match (code.code, code.extended_code) {
        // The shared memory file cannot grow: the same disk, another code.
        (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
            return LedgerError::Full(path.to_string());
        }
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
            return LedgerError::Busy(format!(
                "another program has held {path} for too long; look for one that copies, vacuums or edits it"
            ));
        }
        (ErrorCode::CannotOpen, _) => {
            "check that its folder exists and can be written; a ledger on a read-only disk must be copied first"
        }
        (ErrorCode::NotADatabase, _) => "this is no SQLite file; check the path",
        (ErrorCode::DatabaseCorrupt, _) => {
            "the file's pages are damaged; keep it as evidence, and restore a copy"
        }
        (ErrorCode::ReadOnly | ErrorCode::PermissionDenied, _) => {
            "check the permissions of the file and its folder"
        }
        (ErrorCode::SystemIoFailure, _) => "the disk reports an error; check the system's log",
        (ErrorCode::ConstraintViolation, _) => "the ledger's own rules refuse the write",
        _ => "see the SQLite documentation for this code",
    };
    LedgerError::Storage(format!("{path}: {error}; {advice}"))
}
