//! The header and the claims of a session.

use std::collections::HashSet;

use crate::attribution;
use crate::evidence::{Claim, ClaimKind, Evidence, Header, Record, SignedRecord};
use crate::ids::{Epoch, SessionId, TenantId, Tier};
use crate::receipt::ReceiptKind;

use super::keys::Ring;
use super::reading::{Mac, Report, Streams, about, overall};
use super::{CheckKind, Code, Finding, Options};

/// What a stored record says, and what became of its MAC.
pub(super) struct Read<'a, R> {
    stored: &'a SignedRecord,
    pub record: Option<R>,
    mac: Mac,
}

/// The header and the claims.
pub(super) struct Records<'a> {
    pub header: Option<Read<'a, Header>>,
    pub claims: Vec<Read<'a, Claim>>,
}

impl<'a> Records<'a> {
    /// Reads them; nothing is judged yet.
    pub(super) fn read(evidence: &'a Evidence) -> Self {
        fn read<R: Record>(stored: &SignedRecord) -> Read<'_, R> {
            Read {
                stored,
                record: stored.parse().ok(),
                mac: Mac::NoKey,
            }
        }
        Self {
            header: evidence.header.as_ref().map(read),
            claims: evidence.claims.iter().map(read).collect(),
        }
    }

    /// The header as it stands, if it can be read.
    pub(super) fn header(&self) -> Option<&Header> {
        self.header.as_ref()?.record.as_ref()
    }

    /// The epochs that are claimed, rising.
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        let claims = self.claims.iter().filter_map(|read| read.record.as_ref());
        let epochs = claims.filter(|claim| claim.kind == ClaimKind::Epoch);
        let mut epochs: Vec<Epoch> = epochs.map(|claim| claim.session_epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    }

    /// Every epoch whose key a record needs.
    pub(super) fn epochs_used(&self) -> impl Iterator<Item = Epoch> + '_ {
        let header = self.header().map(|header| header.session_epoch);
        let claims = self.claims.iter().filter_map(|read| read.record.as_ref());
        header
            .into_iter()
            .chain(claims.map(|claim| claim.session_epoch))
    }

    /// Checks all MACs, and returns for each record that has a key its epoch and whether it verified.
    pub(super) fn check_macs(&mut self, ring: &Ring<'_>) -> Vec<(Epoch, bool)> {
        fn check<R: Record>(
            read: &mut Read<'_, R>,
            ring: &Ring<'_>,
            epoch: Option<Epoch>,
        ) -> Option<(Epoch, bool)> {
            read.mac = Mac::NoKey;
            let epoch = epoch?;
            let good = read
                .stored
                .verify::<R>(ring.get(epoch, Tier::Orchestrator)?);
            read.mac = if good { Mac::Good } else { Mac::Bad };
            Some((epoch, good))
        }
        let mut results = Vec::new();
        if let Some(read) = &mut self.header {
            let epoch = read.record.as_ref().map(|header| header.session_epoch);
            results.extend(check(read, ring, epoch));
        }
        for read in &mut self.claims {
            let epoch = read.record.as_ref().map(|claim| claim.session_epoch);
            results.extend(check(read, ring, epoch));
        }
        results
    }

    /// Judges form, MAC and binding of all records.
    pub(super) fn judge(
        &self,
        session: &SessionId,
        tenant: Option<&TenantId>,
        ring: &Ring<'_>,
        options: &Options,
        report: &mut Report,
    ) {
        // A record whose epoch can no longer be read was signed in one of those that can.
        let mut epochs: Vec<Epoch> = self.epochs_used().collect();
        epochs.sort_unstable();
        epochs.dedup();
        let search = Search {
            ring,
            epochs: &epochs,
            options,
        };
        let mut searches = options.searches;
        match &self.header {
            None => {
                let detail = "the session has receipts and no header";
                report.fail(CheckKind::Header, overall(Code::HeaderMissing, detail));
            }
            Some(read) => {
                report.made(CheckKind::Header, 1);
                let codes = (Code::HeaderForm, Code::HeaderMac);
                let finding = search.judge(read, "the session header", codes, &mut searches);
                let found = finding.is_some();
                if let Some(finding) = finding {
                    report.fail(CheckKind::Header, finding);
                }
                if let (Some(header), false) = (&read.record, found) {
                    self.judge_header(header, session, tenant, report);
                }
            }
        }
        let mut seen = HashSet::new();
        for read in &self.claims {
            report.made(CheckKind::Claims, 1);
            let name = match &read.record {
                Some(claim) => claim_name(claim),
                None => "a claim".to_owned(),
            };
            let codes = (Code::ClaimForm, Code::ClaimMac);
            if let Some(finding) = search.judge(read, &name, codes, &mut searches) {
                report.fail(CheckKind::Claims, finding);
                continue;
            }
            let Some(claim) = &read.record else { continue };
            if claim.session_id != *session {
                let detail = format!("{name} is of session {}", claim.session_id);
                report.fail(CheckKind::Claims, overall(Code::SessionBinding, detail));
            }
            if !seen.insert((claim.kind, claim.session_epoch, claim.link)) {
                let detail = format!("{name} stands twice");
                report.fail(CheckKind::Claims, overall(Code::ClaimDuplicate, detail));
            }
        }
    }

    fn judge_header(
        &self,
        header: &Header,
        session: &SessionId,
        tenant: Option<&TenantId>,
        report: &mut Report,
    ) {
        if header.session_id != *session {
            let detail = format!("the header is of session {}", header.session_id);
            report.fail(CheckKind::Header, overall(Code::SessionBinding, detail));
        }
        if let Some(tenant) = tenant.filter(|tenant| **tenant != header.tenant_id) {
            let detail = format!(
                "the header names tenant {}, and the receipts name {tenant}",
                header.tenant_id
            );
            report.fail(CheckKind::Header, overall(Code::SessionBinding, detail));
        }
        let epochs = self.epochs();
        if epochs.first() != Some(&header.session_epoch) {
            let detail = format!(
                "the header begins with epoch {}, which is not the first one claimed",
                header.session_epoch
            );
            report.fail(CheckKind::Header, overall(Code::EpochUnclaimed, detail));
        }
        if header.demo_root {
            let detail = "DEMO ROOT: this session was keyed from a demo root, and its receipts prove nothing";
            report.add(overall(Code::RootDemo, detail));
        }
    }
}

/// Checks that the connection and the links that receipts came over were claimed.
pub(super) fn connections(records: &Records<'_>, streams: &Streams<'_>, report: &mut Report) {
    let claims = records
        .claims
        .iter()
        .filter_map(|read| read.record.as_ref());
    let claimed: HashSet<(ClaimKind, Epoch)> = claims
        .map(|claim| (claim.kind, claim.session_epoch))
        .collect();
    // A claim that cannot be read was reported, and may be the one that is missing.
    if records.claims.iter().any(|read| read.record.is_none()) {
        return;
    }
    let mut missing = HashSet::new();
    let mut last = None;
    for item in streams.items() {
        let Ok(receipt) = &item.receipt else { continue };
        let kind = match receipt.body.receipt_kind {
            _ if receipt.body.tier != Tier::Substrate => ClaimKind::Connection,
            ReceiptKind::ExpertLoad => ClaimKind::SubstrateLink,
            _ => continue,
        };
        let needed = (kind, receipt.body.session_epoch);
        if last == Some(needed) {
            continue;
        }
        last = Some(needed);
        // An epoch that nobody claimed is reported as such.
        let known = claimed.contains(&(ClaimKind::Epoch, needed.1));
        let came = match kind {
            // A receipt may have been signed in an epoch whose connection never stood, and come over a later one.
            ClaimKind::Connection => claimed
                .iter()
                .any(|(kind, epoch)| *kind == ClaimKind::Connection && *epoch >= needed.1),
            _ => claimed.contains(&needed),
        };
        if known && !came && missing.insert(needed) {
            let detail = match kind {
                ClaimKind::Connection => format!(
                    "no connection to the gateway was claimed in epoch {} or a later one",
                    needed.1
                ),
                _ => format!("no link to the substrate was claimed in epoch {}", needed.1),
            };
            report.fail(
                CheckKind::Claims,
                about(Code::ClaimMissing, item.subject(), detail),
            );
        }
    }
}

fn claim_name(claim: &Claim) -> String {
    match claim.kind {
        ClaimKind::Epoch => format!("the claim of epoch {}", claim.session_epoch),
        ClaimKind::Connection => format!(
            "the claim of the connection of epoch {}",
            claim.session_epoch
        ),
        ClaimKind::SubstrateLink => format!(
            "the claim of link {} to the substrate in epoch {}",
            claim.link, claim.session_epoch
        ),
    }
}

/// What a damaged record is searched with.
struct Search<'a, 'k> {
    ring: &'a Ring<'k>,
    epochs: &'a [Epoch],
    options: &'a Options,
}

impl Search<'_, '_> {
    /// A finding if the record is not canonical or its MAC is bad.
    fn judge<R: Record>(
        &self,
        read: &Read<'_, R>,
        name: &str,
        (form, mac): (Code, Code),
        searches: &mut u32,
    ) -> Option<Finding> {
        let (code, detail) = match (&read.record, read.mac) {
            (None, _) => (form, format!("{name} is not canonical")),
            (Some(_), Mac::Bad) => (mac, format!("the MAC of {name} does not verify")),
            (Some(_), _) => return None,
        };
        let mut finding = overall(code, detail);
        if *searches > 0 {
            *searches -= 1;
            finding.damage = self.epochs.iter().take(4).find_map(|&epoch| {
                let key = self.ring.get(epoch, Tier::Orchestrator)?;
                let stored = read.stored;
                let budget = self.options.search_budget;
                attribution::record(R::DOMAIN, &stored.body, &stored.mac, key, budget)
            });
        }
        Some(finding)
    }
}
