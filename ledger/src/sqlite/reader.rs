//! Queries. Whatever stands in a row is returned as it is: damage in the data is for the verifier to name, not a reason to
//! return nothing.

use halo_receipts::evidence::{Attributes, Evidence, Header, SignedRecord, StoredBlock, Stream};
use halo_receipts::ids::{Epoch, SessionId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use crate::block;
use crate::record::FIELDS;
use crate::{SessionQuery, SessionState, SessionSummary};

/// A failed query, or a row that cannot be understood.
#[derive(Debug)]
pub enum ReadError {
    /// SQLite's own.
    Sql(rusqlite::Error),
    /// What is wrong with which row.
    Row(String),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        ReadError::Sql(error)
    }
}

/// The column's bytes, whatever type it has.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Vec::new(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        ValueRef::Integer(number) => number.to_string().into_bytes(),
        ValueRef::Real(number) => number.to_string().into_bytes(),
    })
}

/// The column's text, with a replacement character for what is not UTF-8; `None` for NULL.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    if row.get_ref(column)? == ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(
        String::from_utf8_lossy(&bytes(row, column)?).into_owned(),
    ))
}

/// A stream and a number in it; `None` if they are not what a ledger writes.
fn position(
    row: &Row<'_>,
    stream: usize,
    number: usize,
) -> rusqlite::Result<Option<(Stream, u32)>> {
    let letter = text(row, stream)?.unwrap_or_default();
    let stream = Stream::ALL
        .into_iter()
        .find(|s| letter == s.letter().to_string());
    let number = row
        .get_ref(number)?
        .as_i64()
        .ok()
        .and_then(|number| u32::try_from(number).ok());
    Ok(stream.zip(number))
}

/// Where a row stands that names no position: behind all others, so that it is seen and hides none.
const NOWHERE: (Stream, u32) = (Stream::Substrate, u32::MAX);

/// A record; a MAC of another length than 32 stands as zeros, which no key makes.
fn record(row: &Row<'_>) -> rusqlite::Result<SignedRecord> {
    let mac = bytes(row, 1)?.try_into().unwrap_or_default();
    Ok(SignedRecord {
        body: bytes(row, 0)?,
        mac,
    })
}

fn header(db: &Connection, session: &str) -> rusqlite::Result<Option<SignedRecord>> {
    db.prepare_cached("SELECT body, mac FROM session WHERE session_id = ?1")?
        .query_row([session], record)
        .optional()
}

/// The number that follows the last receipt of a stream.
pub fn next_number(db: &Connection, session: &str, stream: Stream) -> rusqlite::Result<u32> {
    let next: Option<i64> = db
        .prepare_cached(
            "SELECT first + count FROM block WHERE session_id = ?1 AND stream = ?2 ORDER BY first DESC LIMIT 1",
        )?
        .query_row(params![session, stream.letter().to_string()], |row| row.get(0))
        .optional()?;
    Ok(next.unwrap_or(0).try_into().unwrap_or(u32::MAX))
}

/// The highest epoch that was claimed.
pub fn last_epoch(db: &Connection, session: &str) -> rusqlite::Result<Option<u32>> {
    db.prepare_cached("SELECT max(epoch) FROM claim WHERE session_id = ?1 AND kind = 'epoch'")?
        .query_row([session], |row| row.get(0))
}

/// Whether the session was opened.
pub fn exists(db: &Connection, session: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM session WHERE session_id = ?1")?
        .exists([session])
}

/// Where a session stands.
pub fn state(db: &mut Connection, session: &SessionId) -> Result<Option<SessionState>, ReadError> {
    let db = db.transaction()?;
    let session = session.to_string();
    let Some(header) = header(&db, &session)? else {
        return Ok(None);
    };
    let last_epoch = match last_epoch(&db, &session)? {
        Some(epoch) => Epoch(epoch),
        // Somebody removed the claims: the header names the first epoch.
        None => match header.parse::<Header>() {
            Ok(header) => header.session_epoch,
            Err(error) => {
                let row =
                    format!("session {session} has no claim, and its header is damaged: {error}");
                return Err(ReadError::Row(row));
            }
        },
    };
    Ok(Some(SessionState {
        header,
        last_epoch,
        next_device: next_number(&db, &session, Stream::Device)?,
        next_substrate: next_number(&db, &session, Stream::Substrate)?,
    }))
}

/// All of a session, in one read transaction.
pub fn snapshot(db: &mut Connection, session: &SessionId) -> rusqlite::Result<Option<Evidence>> {
    let db = db.transaction()?;
    let session = session.to_string();
    let header = header(&db, &session)?;
    let claims = db
        .prepare_cached(
            "SELECT body, mac FROM claim WHERE session_id = ?1 ORDER BY epoch,
             CASE kind WHEN 'epoch' THEN 0 WHEN 'connection' THEN 1 ELSE 2 END, link",
        )?
        .query_map([&session], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let blocks = db
        .prepare_cached("SELECT stream, first, ids, content FROM block WHERE session_id = ?1 ORDER BY stream, first")?
        .query_map([&session], stored_block)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let columns = FIELDS.join(", ");
    let attributes = db
        .prepare_cached(&format!(
            "SELECT stream, number, {columns} FROM receipt WHERE session_id = ?1 ORDER BY stream, number"
        ))?
        .query_map([&session], stored_attributes)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let nothing =
        header.is_none() && claims.is_empty() && blocks.is_empty() && attributes.is_empty();
    Ok((!nothing).then_some(Evidence {
        header,
        claims,
        blocks,
        attributes,
    }))
}

fn stored_block(row: &Row<'_>) -> rusqlite::Result<StoredBlock> {
    let position = position(row, 0, 1)?;
    let ids = bytes(row, 2)?;
    let content = match position {
        Some(_) => block::decode(&bytes(row, 3)?, &ids).map_err(|error| error.to_string()),
        None => Err("the block names no stream and number".to_owned()),
    };
    let (stream, first) = position.unwrap_or(NOWHERE);
    Ok(StoredBlock {
        stream,
        first,
        ids: block::read_ids(&ids),
        content,
    })
}

fn stored_attributes(row: &Row<'_>) -> rusqlite::Result<Attributes> {
    let position = position(row, 0, 1)?.unwrap_or(NOWHERE);
    let mut fields = Vec::with_capacity(FIELDS.len());
    for (at, name) in FIELDS.into_iter().enumerate() {
        fields.push((name.to_owned(), text(row, at + 2)?));
    }
    Ok(Attributes { position, fields })
}

/// The receipts of the block that stands at or before `number`, with the number of the first one.
pub fn block_at(
    db: &Connection,
    session: &str,
    stream: Stream,
    number: u32,
) -> rusqlite::Result<Option<StoredBlock>> {
    db.prepare_cached(
        "SELECT stream, first, ids, content FROM block WHERE session_id = ?1 AND stream = ?2 AND first <= ?3
         ORDER BY first DESC LIMIT 1",
    )?
    .query_row(params![session, stream.letter().to_string(), number], stored_block)
    .optional()
}

/// Sessions, newest first.
pub fn sessions(
    db: &mut Connection,
    query: &SessionQuery,
) -> Result<Vec<SessionSummary>, ReadError> {
    let db = db.transaction()?;
    // Times are compared as text: the form has a fixed width, so both orders are the same.
    let conditions = [
        (
            "tenant_id = ?",
            query.tenant.as_ref().map(|tenant| tenant.to_string()),
        ),
        ("opened_at >= ?", query.since.map(|time| time.to_string())),
        ("opened_at < ?", query.until.map(|time| time.to_string())),
    ];
    let (conditions, values): (Vec<_>, Vec<_>) = conditions
        .into_iter()
        .filter_map(|(text, value)| Some((text, value?)))
        .unzip();
    let filter = match conditions.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.join(" AND ")),
    };
    let limit = query.limit.map_or(-1, i64::from);
    let mut statement = db.prepare(&format!(
        "SELECT session_id, tenant_id, device_id, opened_at, body FROM session {filter}
         ORDER BY opened_at DESC, session_id DESC LIMIT {limit}"
    ))?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        sessions.push(summary(&db, row)?);
    }
    Ok(sessions)
}

/// One row of the list. A damaged copy of a name is read from the header itself; a session is never left out.
fn summary(db: &Connection, row: &Row<'_>) -> Result<SessionSummary, ReadError> {
    let column = |column| text(row, column).map(Option::unwrap_or_default);
    let id = column(0)?;
    let parsed = (
        id.parse(),
        column(1)?.parse(),
        column(2)?.parse(),
        column(3)?.parse(),
    );
    let mut summary = match parsed {
        (Ok(session_id), Ok(tenant_id), Ok(device_id), Ok(opened_at)) => SessionSummary {
            session_id,
            tenant_id,
            device_id,
            opened_at,
            receipts: 0,
        },
        _ => {
            let record = SignedRecord {
                body: bytes(row, 4)?,
                mac: [0; 32],
            };
            let header: Header = record.parse().map_err(|error| {
                ReadError::Row(format!(
                    "the row of session {id:?} is damaged, and its header too: {error}"
                ))
            })?;
            SessionSummary {
                session_id: header.session_id,
                tenant_id: header.tenant_id,
                device_id: header.device_id,
                opened_at: header.opened_at,
                receipts: 0,
            }
        }
    };
    for stream in Stream::ALL {
        let next = next_number(db, &id, stream)?;
        summary.receipts = summary.receipts.saturating_add(next);
    }
    Ok(summary)
}
