//! Damage on purpose, to a copy of a ledger: what somebody with write access to the file could do.

use std::path::Path;

use halo_ledger::block;
use halo_receipts::evidence::StoredReceipt;
use halo_receipts::ids::ReceiptId;
use rusqlite::{Connection, params};

/// Why the copy could not be damaged.
#[derive(Debug, thiserror::Error)]
pub enum TamperError {
    /// The file could not be copied.
    #[error("the ledger could not be copied: {0}")]
    Copy(#[from] std::io::Error),
    /// The copy could not be changed.
    #[error("the copy could not be changed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A block that does not decode.
    #[error("a block of the ledger does not decode: {0}")]
    Block(String),
    /// There is no such receipt.
    #[error("receipt {0} is not in the ledger")]
    Missing(ReceiptId),
}

/// Where in a stored receipt a byte is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the receipt's own bytes.
    Receipt,
    /// In its event payload.
    Payload,
}

/// Copies a ledger, its write-ahead log included, without disturbing whoever uses it.
pub fn copy(from: &Path, to: &Path) -> Result<(), TamperError> {
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let source = Connection::open(from)?;
    source.execute("VACUUM INTO ?1", params![to.to_string_lossy()])?;
    Ok(())
}

/// Changes one byte at `offset` of one receipt, or of its payload, in the ledger at `path`: a digit becomes another digit,
/// so that only a hash or a MAC can tell. The triggers that refuse such a change are dropped first, as whoever owns the
/// file can do. Returns old and new byte.
pub fn change_byte(
    path: &Path,
    id: &ReceiptId,
    place: Place,
    offset: usize,
) -> Result<(u8, u8), TamperError> {
    let ledger = Connection::open(path)?;
    drop_triggers(&ledger)?;
    let mut statement =
        ledger.prepare("SELECT session_id, stream, first, ids, content FROM block")?;
    let rows = statement.query_map([], |row| {
        let key: (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((key, row.get::<_, Vec<u8>>(3)?, row.get::<_, Vec<u8>>(4)?))
    })?;
    for row in rows {
        let ((session, stream, first), ids, content) = row?;
        let found = ids
            .chunks_exact(16)
            .position(|found| found == id.as_bytes());
        let Some(index) = found else { continue };
        let damaged = |error: block::BlockError| TamperError::Block(error.to_string());
        let mut receipts = block::decode(&content, &ids).map_err(damaged)?;
        let stored = receipts.get_mut(index).ok_or(TamperError::Missing(*id))?;
        let byte = byte_at(stored, place, offset).ok_or(TamperError::Missing(*id))?;
        let old = *byte;
        let new = another(old);
        *byte = new;
        let content = block::encode(&receipts, &ids).map_err(damaged)?;
        ledger.execute(
            "UPDATE block SET content = ?1 WHERE session_id = ?2 AND stream = ?3 AND first = ?4",
            params![content, session, stream, first],
        )?;
        return Ok((old, new));
    }
    Err(TamperError::Missing(*id))
}

/// A byte that looks as right as `byte` did.
fn another(byte: u8) -> u8 {
    match byte {
        b'0'..=b'8' | b'a'..=b'e' => byte + 1,
        b'9' => b'a',
        b'f' => b'0',
        _ => byte ^ 1,
    }
}

fn byte_at(stored: &mut StoredReceipt, place: Place, offset: usize) -> Option<&mut u8> {
    match place {
        Place::Receipt => stored.bytes.get_mut(offset),
        Place::Payload => stored.payload.as_mut()?.get_mut(offset),
    }
}

fn drop_triggers(ledger: &Connection) -> Result<(), TamperError> {
    let mut statement = ledger.prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    for name in names {
        ledger.execute_batch(&format!("DROP TRIGGER \"{}\"", name?.replace('"', "\"\"")))?;
    }
    Ok(())
}
