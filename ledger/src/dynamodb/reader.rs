//! What is read of sessions. Whatever stands in an item is returned as it is: damage in the data is for the verifier to name, not
//! a reason to return nothing.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use halo_receipts::evidence::{Evidence, Header, StoredBlock, Stream};
use halo_receipts::ids::{Epoch, SessionId};

use super::client::{Client, Query};
use super::item::{self, DEVICE, Item, OPENED, TENANT};
use super::spill::Spill;
use super::{Shared, keys, table};
use crate::{LedgerError, SessionQuery, SessionState, SessionSummary};

/// What names a block's range, without its content.
const RANGE: &str = "sk, receipt_count, ids";

/// How often a session is read again that changes while it is read. Each time only what is new is read.
const LOOKS: u32 = 64;

/// Sessions of a list whose receipts are counted at once.
const COUNTED: usize = 16;

impl Client {
    /// The last block of a stream: its first number and the number behind it.
    pub(super) async fn last_block(
        &self,
        session: &SessionId,
        stream: Stream,
        patience: Duration,
    ) -> Result<Option<(u32, u32)>, LedgerError> {
        let (from, to) = keys::blocks(stream);
        let query = Query::between(&keys::session(session), from, to);
        let items = self.query(query.last().only(RANGE), patience).await?;
        let range = items.first().and_then(item::read_range);
        Ok(range.map(|(_, first, end)| (first, end)))
    }

    /// The block that stands at or before a number.
    pub(super) async fn block_at(
        &self,
        session: &SessionId,
        stream: Stream,
        number: u32,
        patience: Duration,
    ) -> Result<Option<StoredBlock>, LedgerError> {
        let (from, _) = keys::blocks(stream);
        let query = Query::between(&keys::session(session), from, keys::block(stream, number));
        let items = self.query(query.last(), patience).await?;
        Ok(items.first().map(|found| item::read_block(found).0))
    }

    /// The claim of the last epoch behind the first one: its place, and the epoch.
    pub(super) async fn last_epoch(
        &self,
        session: &SessionId,
        patience: Duration,
    ) -> Result<Option<(u32, Option<u32>)>, LedgerError> {
        let query = Query::between(&keys::session(session), keys::EPOCHS.0, keys::EPOCHS.1);
        let items = self.query(query.last(), patience).await?;
        let place = |item: &Item| keys::read_epoch(&item::sort_key(item)).unwrap_or(u32::MAX);
        Ok(items
            .first()
            .map(|item| (place(item), item::read_epoch(item))))
    }

    /// Whether somebody has claimed the epoch; `None`: the session is not there.
    pub(super) async fn is_claimed(
        &self,
        session: &SessionId,
        epoch: u32,
        patience: Duration,
    ) -> Result<Option<bool>, LedgerError> {
        let records = self.records(session, keys::EPOCHS.0, patience).await?;
        let there = records
            .iter()
            .any(|item| item::sort_key(item) == keys::HEADER);
        let claimed = records
            .iter()
            .any(|item| item::read_epoch(item) == Some(epoch));
        Ok(there.then_some(claimed))
    }

    /// The header's item.
    pub(super) async fn header(
        &self,
        session: &SessionId,
        patience: Duration,
    ) -> Result<Option<Item>, LedgerError> {
        self.get(&keys::session(session), keys::HEADER, None, patience)
            .await
    }

    /// The items of claims from a sort key on, and of the header.
    async fn records(
        &self,
        session: &SessionId,
        from: &str,
        patience: Duration,
    ) -> Result<Vec<Item>, LedgerError> {
        let query = Query::between(&keys::session(session), from, keys::RECORDS.1);
        self.query(query, patience).await
    }
}

/// Where a session stands in the table.
pub async fn state(
    shared: &Shared,
    session: &SessionId,
) -> Result<Option<SessionState>, LedgerError> {
    let Shared { client, known, .. } = shared;
    let patience = shared.patience;
    let Some(found) = client.header(session, patience).await? else {
        return Ok(None);
    };
    let (epoch, device, substrate) = tokio::try_join!(
        client.last_epoch(session, patience),
        client.last_block(session, Stream::Device, patience),
        client.last_block(session, Stream::Substrate, patience),
    )?;
    let header = item::read_header(&found);
    let last_epoch = epoch
        .and_then(|(_, epoch)| epoch)
        .max(item::read_epoch(&found));
    let last_epoch = last_epoch.ok_or_else(|| {
        LedgerError::Storage(format!("session {session}: header and claims are damaged"))
    })?;
    let next = |last: Option<(u32, u32)>| last.map_or(0, |(_, end)| end);
    known.ends(session, Stream::Device, next(device));
    known.ends(session, Stream::Substrate, next(substrate));
    known.claimed(session, last_epoch);
    Ok(Some(SessionState {
        header,
        last_epoch: Epoch(last_epoch),
        next_device: next(device),
        next_substrate: next(substrate),
    }))
}

/// All of a session as of one moment.
///
/// A query is no transaction: each page is of its own time. But nothing is ever changed, and what is new comes behind the last of
/// its kind. So stream `s` is read between two looks at everything else: if both looks see the same, that is how it stood at the
/// moment at which the end of stream `s` was read. If they differ, only what is new is read, and looked at again.
pub async fn snapshot(
    shared: &Shared,
    session: &SessionId,
) -> Result<Option<Evidence>, LedgerError> {
    let (client, patience) = (&shared.client, shared.patience);
    let pk = keys::session(session);
    let mut reading = Reading {
        records: client.records(session, keys::RECORDS.0, patience).await?,
        ..Reading::default()
    };
    let (from, to) = keys::BLOCKS;
    for item in client
        .query(Query::between(&pk, from, to), patience)
        .await?
    {
        reading.take(item);
    }
    for _ in 0..LOOKS {
        let tail = reading.behind(Stream::Device);
        let tail = Query::between(&pk, tail, keys::blocks(Stream::Device).1);
        let (records, device) = tokio::try_join!(
            client.records(session, keys::RECORDS.0, patience),
            client.query(tail, patience),
        )?;
        if device.is_empty() && records == reading.records {
            return Ok(reading.evidence(shared, session));
        }
        reading.records = records;
        device.into_iter().for_each(|item| reading.take(item));
        let tail = reading.behind(Stream::Substrate);
        let tail = Query::between(&pk, tail, keys::blocks(Stream::Substrate).1);
        let substrate = client.query(tail, patience).await?;
        substrate.into_iter().for_each(|item| reading.take(item));
    }
    let busy = format!("session {session} changes faster than it can be read");
    Err(LedgerError::Busy(busy))
}

/// A session's items as they are read.
#[derive(Default)]
struct Reading {
    records: Vec<Item>,
    /// By stream; what names no stream stands with `s`.
    blocks: [Vec<Item>; 2],
}

impl Reading {
    fn take(&mut self, item: Item) {
        let stream = keys::read_block(&item::sort_key(&item));
        let stream = stream.map_or(Stream::Substrate, |(stream, _)| stream);
        self.blocks[stream as usize].push(item);
    }

    /// The first sort key that the next block of a stream can have.
    fn behind(&self, stream: Stream) -> String {
        let blocks = self.blocks[stream as usize].iter().rev();
        let mut keys = blocks.filter_map(|item| keys::read_block(&item::sort_key(item)));
        match keys.next() {
            Some((stream, first)) => keys::block(stream, first.saturating_add(1)),
            None => keys::blocks(stream).0,
        }
    }

    fn evidence(self, shared: &Shared, session: &SessionId) -> Option<Evidence> {
        let header = self
            .records
            .iter()
            .find(|item| item::sort_key(item) == keys::HEADER);
        let mut evidence = Evidence {
            header: header.map(item::read_header),
            claims: item::read_claims(&self.records),
            ..Evidence::default()
        };
        for item in self.blocks.iter().flatten() {
            let (block, attributes) = item::read_block(item);
            evidence.blocks.push(block);
            evidence.attributes.extend(attributes);
        }
        evidence
            .attributes
            .sort_by_key(|attributes| attributes.position);
        if evidence.header.is_some() {
            for stream in Stream::ALL {
                let last = self.blocks[stream as usize].last();
                let range = last.and_then(item::read_range);
                let end = range.map_or(0, |(_, _, end)| end);
                shared.known.ends(session, stream, end);
            }
        }
        (evidence != Evidence::default()).then_some(evidence)
    }
}

/// Sessions, newest first, with the receipts that wait in this program's spill. An index lags behind the table, by less than a
/// second as a rule.
pub async fn sessions(
    shared: &Shared,
    spill: Option<&Spill>,
    query: &SessionQuery,
) -> Result<Vec<SessionSummary>, LedgerError> {
    if query.limit == Some(0) {
        return Ok(Vec::new());
    }
    let (index, partition) = match &query.tenant {
        Some(tenant) => (table::BY_TENANT, (TENANT, tenant.as_str())),
        None => (table::BY_TIME, (item::LISTING, item::LISTED)),
    };
    let (name, value) = partition;
    // What is behind the time in `opened` sorts behind the bare time: so `since` is included, and `until` is not.
    let times = [(":since", query.since), (":until", query.until)];
    let times = times
        .into_iter()
        .filter_map(|(name, time)| Some((name, time?.to_string())));
    let mut values: Vec<_> = times.collect();
    let range = match (query.since, query.until) {
        (Some(_), Some(_)) => " AND opened BETWEEN :since AND :until",
        (Some(_), None) => " AND opened >= :since",
        (None, Some(_)) => " AND opened < :until",
        (None, None) => "",
    };
    if query
        .since
        .zip(query.until)
        .is_some_and(|(since, until)| since >= until)
    {
        return Ok(Vec::new());
    }
    values.push((":partition", value.to_owned()));
    let condition = format!("{name} = :partition{range}");
    let request = Query {
        index: Some(index),
        condition: &condition,
        values,
        backward: true,
        limit: query
            .limit
            .map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)),
        ..Query::default()
    };
    let items = shared.client.query(request, shared.patience).await?;
    let summaries = items.into_iter().map(|item| summary(shared, spill, item));
    futures_util::stream::iter(summaries)
        .buffered(COUNTED)
        .try_collect()
        .await
}

/// One item of an index. A damaged copy of a name is read from the header itself; a session is never left out.
async fn summary(
    shared: &Shared,
    spill: Option<&Spill>,
    listed: Item,
) -> Result<SessionSummary, LedgerError> {
    let patience = shared.patience;
    let pk = item::read_text(&listed, keys::PK).unwrap_or_default();
    let text = |name| item::read_text(&listed, name).unwrap_or_default();
    let opened = text(OPENED);
    let parsed = (
        pk.strip_prefix("S#").and_then(|id| id.parse().ok()),
        text(TENANT).parse(),
        text(DEVICE).parse(),
        opened.split('#').next().unwrap_or_default().parse(),
    );
    let mut summary = match parsed {
        (Some(session_id), Ok(tenant_id), Ok(device_id), Ok(opened_at)) => SessionSummary {
            session_id,
            tenant_id,
            device_id,
            opened_at,
            receipts: 0,
        },
        _ => {
            let damaged = |cause: String| {
                LedgerError::Storage(format!(
                    "the item of {pk:?} is damaged, and its header too: {cause}"
                ))
            };
            let item = shared.client.get(&pk, keys::HEADER, None, patience).await?;
            let item = item.ok_or_else(|| damaged("it is missing".to_owned()))?;
            let header: Header = item::read_header(&item)
                .parse()
                .map_err(|error| damaged(error.to_string()))?;
            SessionSummary {
                session_id: header.session_id,
                tenant_id: header.tenant_id,
                device_id: header.device_id,
                opened_at: header.opened_at,
                receipts: 0,
            }
        }
    };
    let id = summary.session_id;
    // Before the table is read: what leaves the spill meanwhile stands in the table then.
    let waiting = spill.map_or([0, 0], |spill| spill.ends(&id));
    let (device, substrate) = tokio::try_join!(
        shared.client.last_block(&id, Stream::Device, patience),
        shared.client.last_block(&id, Stream::Substrate, patience),
    )?;
    let [device, substrate] = [device, substrate].map(|last| last.map_or(0, |(_, end)| end));
    let [waiting_device, waiting_substrate] = waiting;
    summary.receipts = device
        .max(waiting_device)
        .saturating_add(substrate.max(waiting_substrate));
    Ok(summary)
}
