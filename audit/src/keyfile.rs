//! Key files: the SESSION_KEYs of one session, one epoch a line, for an auditor who may open that session and no other.

use halo_receipts::evidence::{Claim, Evidence, Header};
use halo_receipts::ids::{Epoch, SessionId, TenantId};
use halo_receipts::keys::SessionKey;
use halo_receipts::receipt::Receipt;
use halo_receipts::verdict::{SessionKeys, VerifyKeys};
use zeroize::Zeroizing;

/// The number, counted from 1, of the first line that is not `epoch:key`.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine(pub usize);

/// Reads lines of an epoch, a colon and a key. Empty lines and lines that begin with `#` are passed over.
pub fn parse(text: &str) -> Result<SessionKeys, BadLine> {
    let mut keys = SessionKeys::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (epoch, key) = line.split_once(':').ok_or(BadLine(number))?;
        let epoch = epoch.trim().parse().map_err(|_| BadLine(number))?;
        let key = SessionKey::from_hex(key.trim()).map_err(|_| BadLine(number))?;
        keys.insert(Epoch(epoch), key);
    }
    Ok(keys)
}

/// Writes a key file.
pub fn format(session: &SessionId, keys: &SessionKeys) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    text.push_str("# SESSION_KEYs of HALO session ");
    text.push_str(&session.to_string());
    text.push_str("\n# Whoever holds them can read this session and sign for it, and no other.\n");
    for (epoch, key) in keys.iter() {
        text.push_str(&epoch.to_string());
        text.push(':');
        text.push_str(&key.to_hex());
        text.push('\n');
    }
    text
}

/// The SESSION_KEYs of every epoch that the evidence names; none if it does not say whose session it is.
pub fn derive(
    keys: &dyn VerifyKeys,
    session: &SessionId,
    evidence: &Evidence,
) -> Option<SessionKeys> {
    let (tenant, epochs) = named(evidence)?;
    let mut derived = SessionKeys::new();
    for epoch in epochs {
        derived.insert(epoch, keys.session_key(&tenant, session, epoch)?);
    }
    Some(derived)
}

/// The tenant and the epochs that header, claims and receipts name.
fn named(evidence: &Evidence) -> Option<(TenantId, Vec<Epoch>)> {
    let header = evidence
        .header
        .as_ref()
        .and_then(|record| record.parse::<Header>().ok());
    let claims = evidence
        .claims
        .iter()
        .filter_map(|record| record.parse::<Claim>().ok());
    let blocks = evidence
        .blocks
        .iter()
        .filter_map(|block| block.content.as_ref().ok());
    let receipts = blocks
        .flatten()
        .filter_map(|stored| Receipt::parse(&stored.bytes).ok());
    let mut tenant = header.as_ref().map(|header| header.tenant_id.clone());
    let mut epochs: Vec<Epoch> = header.iter().map(|header| header.session_epoch).collect();
    epochs.extend(claims.map(|claim| claim.session_epoch));
    for receipt in receipts {
        tenant.get_or_insert(receipt.body.tenant_id);
        if epochs.last() != Some(&receipt.body.session_epoch) {
            epochs.push(receipt.body.session_epoch);
        }
    }
    epochs.sort_unstable();
    epochs.dedup();
    Some((tenant?, epochs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_keys_read_back() {
        let session = SessionId::from_random([1; 16]);
        let mut keys = SessionKeys::new();
        keys.insert(Epoch(7), SessionKey::from_bytes([0xab; 32]));
        keys.insert(Epoch(9), SessionKey::from_bytes([0xcd; 32]));
        let text = format(&session, &keys);
        let read = parse(&text).unwrap();
        let exposed: Vec<_> = read
            .iter()
            .map(|(epoch, key)| (epoch.0, key.expose()[0]))
            .collect();
        assert_eq!(exposed, [(7, 0xab), (9, 0xcd)]);
    }

    #[test]
    fn bad_lines_are_counted() {
        for (text, line) in [
            ("7", 1),
            ("# a comment\n\n7:00", 3),
            (
                "x:0000000000000000000000000000000000000000000000000000000000000000",
                1,
            ),
        ] {
            assert_eq!(parse(text).err(), Some(BadLine(line)), "{text}");
        }
    }
}
