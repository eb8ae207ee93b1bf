//! One caller at a time.

use halo_receipts::evidence::{Block, ClaimKind, SignedRecord, StoredReceipt, Stream};
use halo_receipts::ids::{Epoch, SessionId};
use halo_receipts::receipt::{Receipt, ReceiptKind};

use super::{Backend, Failure, Sample, assert_whole};
use crate::{Appended, Ledger, LedgerError, SessionQuery, record};

use ClaimKind::{Connection, SubstrateLink};
use Stream::{Device, Substrate};

pub(super) async fn open(ledger: &dyn Ledger, sample: &Sample) -> Result<(), Failure> {
    Ok(ledger
        .open_session(&sample.header()?, &sample.first_claim()?)
        .await?)
}

pub(super) async fn opening(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("opening").await?;
    let sample = Sample::new(1, 1)?;
    ledger.check().await?;
    assert!(ledger.session(&sample.session).await?.is_none());
    assert!(ledger.snapshot(&sample.session).await?.is_none());

    let (header, epoch) = (sample.header()?, sample.first_claim()?);
    let garbage = SignedRecord {
        body: b"{}".to_vec(),
        mac: [0; 32],
    };
    for (header, claim) in [
        (&garbage, &epoch),
        (&header, &garbage),
        (&epoch, &epoch),
        (&header, &sample.claim(ClaimKind::Epoch, 1, 0)?),
        (&header, &sample.claim(Connection, 0, 0)?),
        (&header, &Sample::new(2, 1)?.first_claim()?),
    ] {
        let refused = ledger.open_session(header, claim).await;
        assert!(
            matches!(refused, Err(LedgerError::Invalid(_))),
            "{refused:?}"
        );
    }
    assert!(
        ledger.snapshot(&sample.session).await?.is_none(),
        "a refused session left something"
    );

    ledger.open_session(&header, &epoch).await?;
    let again = ledger.open_session(&header, &epoch).await;
    assert_eq!(again, Err(LedgerError::SessionExists));
    let state = ledger.session(&sample.session).await?.ok_or("no session")?;
    assert_eq!(state.header, header);
    assert_eq!(state.last_epoch, sample.epoch);
    assert_eq!((state.next_device, state.next_substrate), (0, 0));
    let evidence = ledger
        .snapshot(&sample.session)
        .await?
        .ok_or("no session")?;
    assert_eq!(
        (evidence.header, evidence.claims),
        (Some(header), vec![epoch])
    );
    assert!(evidence.blocks.is_empty() && evidence.attributes.is_empty());
    Ok(())
}

pub(super) async fn claims(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("claims").await?;
    let sample = Sample::new(1, 1)?;
    let connection = sample.claim(Connection, 0, 0)?;
    assert_eq!(
        ledger.claim(&connection).await,
        Err(LedgerError::UnknownSession)
    );
    open(&*ledger, &sample).await?;

    // A claim is no retry, even if it has the same bytes: two connections of one microsecond are two.
    ledger.claim(&connection).await?;
    assert_eq!(ledger.claim(&connection).await, Err(LedgerError::Taken));
    let other = sample.claim_by("gateway-2", Connection, 0, 0)?;
    assert_eq!(ledger.claim(&other).await, Err(LedgerError::Taken));
    for link in [0, 1, 7] {
        ledger.claim(&sample.claim(SubstrateLink, 0, link)?).await?;
    }
    let link = sample.claim_by("pod-2", SubstrateLink, 0, 1)?;
    assert_eq!(ledger.claim(&link).await, Err(LedgerError::Taken));

    let epoch = |later| sample.claim(ClaimKind::Epoch, later, 0);
    assert_eq!(ledger.claim(&epoch(0)?).await, Err(LedgerError::Taken));
    ledger.claim(&epoch(5)?).await?;
    for later in [1, 4, 5] {
        assert_eq!(ledger.claim(&epoch(later)?).await, Err(LedgerError::Taken));
    }
    ledger.claim(&sample.claim(Connection, 5, 0)?).await?;
    for bad in [
        sample.claim(Connection, 3, 0)?,
        sample.claim(SubstrateLink, 6, 0)?,
        sample.claim(Connection, 5, 1)?,
        sample.claim(ClaimKind::Epoch, 9, 1)?,
        SignedRecord {
            body: b"{".to_vec(),
            mac: [0; 32],
        },
        sample.header()?,
    ] {
        let refused = ledger.claim(&bad).await;
        assert!(
            matches!(refused, Err(LedgerError::Invalid(_))),
            "{refused:?}"
        );
    }

    let state = ledger.session(&sample.session).await?.ok_or("no session")?;
    assert_eq!(state.last_epoch, Epoch(sample.epoch.0 + 5));
    let evidence = ledger
        .snapshot(&sample.session)
        .await?
        .ok_or("no session")?;
    let expected = [
        epoch(0)?,
        connection,
        sample.claim(SubstrateLink, 0, 0)?,
        sample.claim(SubstrateLink, 0, 1)?,
        sample.claim(SubstrateLink, 0, 7)?,
        epoch(5)?,
        sample.claim(Connection, 5, 0)?,
    ];
    assert_eq!(
        evidence.claims, expected,
        "claims in the order of epoch, kind and link"
    );
    Ok(())
}

pub(super) async fn appending(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("appending").await?;
    let sample = Sample::new(1, 100)?;
    let id = &sample.session;
    let unknown = ledger.append(id, &sample.block(Device, 0, 1)).await;
    assert_eq!(unknown, Err(LedgerError::UnknownSession));
    open(&*ledger, &sample).await?;

    let early = ledger.append(id, &sample.block(Substrate, 1, 1)).await;
    assert_eq!(
        early,
        Err(LedgerError::Gap {
            stream: Substrate,
            expected: 0,
            found: 1
        })
    );
    // Blocks of any length up to 64, the two streams independent of each other.
    for (stream, first, count) in [
        (Device, 0, 1),
        (Substrate, 0, 64),
        (Device, 1, 1),
        (Substrate, 64, 1),
        (Substrate, 65, 64),
    ] {
        let block = sample.block(stream, first, count);
        assert_eq!(ledger.append(id, &block).await, Ok(Appended::Written));
        let evidence = ledger.snapshot(id).await?.ok_or("no session")?;
        assert_eq!(evidence.next_number(stream) as usize, first + count);
    }
    let gap = ledger.append(id, &sample.block(Substrate, 130, 10)).await;
    assert_eq!(
        gap,
        Err(LedgerError::Gap {
            stream: Substrate,
            expected: 129,
            found: 130
        })
    );
    let state = ledger.session(id).await?.ok_or("no session")?;
    assert_eq!((state.next_device, state.next_substrate), (2, 129));
    let evidence = ledger.snapshot(id).await?.ok_or("no session")?;
    assert_eq!(assert_whole(&evidence)?, [2, 129]);
    Ok(())
}

pub(super) async fn repeating(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("repeating").await?;
    let sample = Sample::new(1, 20)?;
    let other = Sample::telling("acme", 1, 20, "What else?")?;
    let id = &sample.session;
    open(&*ledger, &sample).await?;
    for (first, count) in [(0, 10), (10, 10), (20, 10)] {
        ledger
            .append(id, &sample.block(Substrate, first, count))
            .await?;
    }
    let before = ledger.snapshot(id).await?;
    // A retry is known by its receipts, however they are cut into blocks.
    for (first, count) in [(20, 10), (0, 10), (5, 10), (0, 30), (29, 1), (12, 3)] {
        let again = ledger
            .append(id, &sample.block(Substrate, first, count))
            .await;
        assert_eq!(
            again,
            Ok(Appended::AlreadyThere),
            "{count} receipts from number {first}"
        );
    }
    // What begins as a retry and goes on is refused whole: its writer does not know where the stream ends.
    let longer = ledger.append(id, &sample.block(Substrate, 25, 10)).await;
    assert_eq!(
        longer,
        Err(LedgerError::Gap {
            stream: Substrate,
            expected: 30,
            found: 25
        })
    );
    for (first, count) in [(0, 10), (20, 10), (29, 1), (15, 10), (25, 16)] {
        let fork = ledger
            .append(id, &other.block(Substrate, first, count))
            .await;
        let number = u32::try_from(first)?;
        assert_eq!(
            fork,
            Err(LedgerError::Fork {
                stream: Substrate,
                number
            })
        );
    }
    // The first number that differs is named, not the first of the block.
    let mut mixed = sample.block(Substrate, 8, 4);
    mixed.receipts[3] = other.substrate_receipts[11].clone();
    let fork = ledger.append(id, &mixed).await;
    assert_eq!(
        fork,
        Err(LedgerError::Fork {
            stream: Substrate,
            number: 11
        })
    );
    // A payload is part of what was written.
    let mut bare = sample.block(Substrate, 3, 1);
    bare.receipts[0].payload = None;
    let fork = ledger.append(id, &bare).await;
    assert_eq!(
        fork,
        Err(LedgerError::Fork {
            stream: Substrate,
            number: 3
        })
    );
    assert_eq!(
        ledger.snapshot(id).await?,
        before,
        "a refused or repeated block changed something"
    );
    Ok(())
}

pub(super) async fn refusing(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("refusing").await?;
    let sample = Sample::new(1, 40)?;
    let foreign = Sample::new(2, 40)?;
    let id = &sample.session;
    open(&*ledger, &sample).await?;
    let before = ledger.snapshot(id).await?;
    let good = &sample.substrate_receipts[0];
    let mut spelled = good.clone();
    spelled.bytes.push(b'\n');
    let fat = StoredReceipt {
        payload: Some(vec![b'x'; 1 << 20]),
        ..good.clone()
    };
    let block = |stream, first, receipts| Block {
        stream,
        first,
        receipts,
    };
    for (what, bad) in [
        ("no receipts", block(Substrate, 0, vec![])),
        ("65 receipts", sample.block(Substrate, 0, 65)),
        ("the wrong stream", block(Device, 0, vec![good.clone()])),
        (
            "a device's receipt in stream s",
            block(Substrate, 0, vec![sample.device_receipts[0].clone()]),
        ),
        ("another session's receipt", foreign.block(Substrate, 0, 10)),
        (
            "bytes that are no receipt",
            block(Substrate, 0, vec![good.clone(), spelled]),
        ),
        (
            "a number beyond 32 bits",
            block(Substrate, u32::MAX, vec![good.clone()]),
        ),
        (
            "more than a block holds",
            block(Substrate, 0, vec![good.clone(), fat]),
        ),
    ] {
        let refused = ledger.append(id, &bad).await;
        assert!(
            matches!(refused, Err(LedgerError::Invalid(_))),
            "{what}: {refused:?}"
        );
    }
    assert_eq!(
        ledger.snapshot(id).await?,
        before,
        "a refused block left something"
    );
    Ok(())
}

pub(super) async fn reading(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("reading").await?;
    let (sample, beside) = (Sample::new(1, 50)?, Sample::new(2, 3)?);
    for sample in [&sample, &beside] {
        open(&*ledger, sample).await?;
    }
    let blocks = [sample.blocks(Device, 2), sample.blocks(Substrate, 64)].concat();
    for block in &blocks {
        ledger.append(&sample.session, block).await?;
    }
    ledger
        .append(&beside.session, &beside.block(Substrate, 0, 7))
        .await?;
    let evidence = ledger
        .snapshot(&sample.session)
        .await?
        .ok_or("no session")?;
    assert_eq!(assert_whole(&evidence)?, [3, 101]);
    assert_eq!(evidence.header, Some(sample.header()?));
    let contents: Vec<_> = evidence
        .blocks
        .iter()
        .map(|block| (block.stream, block.first, block.content.clone()))
        .collect();
    let expected: Vec<_> = blocks
        .iter()
        .map(|block| (block.stream, block.first, Ok(block.receipts.clone())))
        .collect();
    assert_eq!(
        contents, expected,
        "blocks by stream and number, byte for byte"
    );

    // Copies for searching: tiers 0 and 1 and the answers, all eleven fields as the receipt spells them.
    let positions: Vec<_> = evidence.attributes.iter().map(|a| a.position).collect();
    assert_eq!(
        positions,
        [(Device, 0), (Device, 1), (Device, 2), (Substrate, 100)]
    );
    for attributes in &evidence.attributes {
        let (stream, number) = attributes.position;
        let mut receipts = evidence.receipts(stream);
        let (_, stored) = receipts
            .find(|(at, _)| *at == number)
            .ok_or("no such receipt")?;
        let receipt = Receipt::parse(&stored.bytes)?;
        assert_eq!(attributes.fields, record::fields(&receipt));
        let text = |name: &str| {
            let field = attributes.fields.iter().find(|(field, _)| field == name);
            field.and_then(|(_, text)| text.as_deref())
        };
        assert_eq!(
            text("receipt_id"),
            Some(&*receipt.body.receipt_id.to_string())
        );
        assert_eq!(text("tier"), Some(&*receipt.body.tier.to_string()));
        let first = receipt.body.receipt_kind == ReceiptKind::SensorCapture;
        assert_eq!(text("parent_receipt_id").is_none(), first);
        assert_eq!(attributes.fields.len(), 11);
    }
    Ok(())
}

pub(super) async fn listing(backend: &dyn Backend) -> Result<(), Failure> {
    let ledger = backend.open("listing").await?;
    assert!(ledger.sessions(&SessionQuery::default()).await?.is_empty());
    // Seeds are seconds: a session of seed 3 is opened after one of seed 1. They are written in another order.
    let mut samples = Vec::new();
    for (tenant, seed) in [
        ("globex", 2),
        ("acme", 3),
        ("acme", 1),
        ("acme-west", 5),
        ("acme", 4),
    ] {
        let sample = Sample::of(tenant, seed, 4)?;
        open(&*ledger, &sample).await?;
        samples.push(sample);
    }
    ledger
        .append(&samples[0].session, &samples[0].block(Device, 0, 2))
        .await?;
    ledger
        .append(&samples[0].session, &samples[0].block(Substrate, 0, 8))
        .await?;
    let at = |seed: u64| {
        let sample = samples.iter().find(|s| s.session == id_of(seed, &samples));
        sample.map(|sample| sample.opened_at)
    };
    let acme = Some("acme".parse()?);
    let query = |tenant, since, until, limit| SessionQuery {
        tenant,
        since,
        until,
        limit,
    };
    for (query, seeds) in [
        (query(None, None, None, None), &[5, 4, 3, 2, 1][..]),
        (query(acme.clone(), None, None, None), &[4, 3, 1]),
        (query(acme.clone(), None, None, Some(2)), &[4, 3]),
        (query(None, at(2), at(5), None), &[4, 3, 2]),
        (query(acme.clone(), at(2), at(4), None), &[3]),
        (query(None, None, at(2), None), &[1]),
        (query(None, at(5), None, Some(9)), &[5]),
        (query(None, None, None, Some(0)), &[]),
        (query(acme, at(5), None, None), &[]),
        (query(Some("nobody".parse()?), None, None, None), &[]),
    ] {
        let listed: Vec<_> = ledger
            .sessions(&query)
            .await?
            .into_iter()
            .map(|summary| summary.session_id)
            .collect();
        let expected: Vec<_> = seeds.iter().map(|seed| id_of(*seed, &samples)).collect();
        assert_eq!(listed, expected, "{query:?}");
    }
    let all = ledger.sessions(&SessionQuery::default()).await?;
    let globex = all
        .iter()
        .find(|s| s.session_id == samples[0].session)
        .ok_or("not listed")?;
    assert_eq!(globex.tenant_id, samples[0].tenant);
    assert_eq!(globex.device_id, samples[0].device);
    assert_eq!(globex.opened_at, samples[0].opened_at);
    assert_eq!(globex.receipts, 10);
    assert_eq!(all.iter().map(|summary| summary.receipts).sum::<u32>(), 10);
    Ok(())
}

/// The session that was opened `seed` seconds after the fixed time.
fn id_of(seed: u64, samples: &[Sample]) -> SessionId {
    let offset = |sample: &Sample| sample.opened_at.seconds() - u64::from(sample.epoch.0);
    let found = samples.iter().find(|sample| offset(sample) == seed);
    found.map_or(SessionId::from_random([0; 16]), |sample| sample.session)
}

pub(super) async fn reopening(backend: &dyn Backend) -> Result<(), Failure> {
    let sample = Sample::new(1, 10)?;
    let ledger = backend.open("reopening").await?;
    open(&*ledger, &sample).await?;
    ledger
        .append(&sample.session, &sample.block(Substrate, 0, 8))
        .await?;
    let before = ledger.snapshot(&sample.session).await?;
    drop(ledger);
    let ledger = backend.open("reopening").await?;
    assert_eq!(ledger.snapshot(&sample.session).await?, before);
    assert_eq!(
        ledger
            .append(&sample.session, &sample.block(Substrate, 0, 8))
            .await?,
        Appended::AlreadyThere
    );
    ledger
        .append(&sample.session, &sample.block(Substrate, 8, 8))
        .await?;
    let evidence = ledger
        .snapshot(&sample.session)
        .await?
        .ok_or("no session")?;
    assert_eq!(evidence.next_number(Substrate), 16);
    Ok(())
}
