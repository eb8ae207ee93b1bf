//! Whether a device may open a session or an epoch (protocol section 8). Pure: the clock and the tenants are passed in.
//!
//! Every refusal looks alike and costs alike: the same derivations and the same MAC are computed whatever was wrong, and
//! the reason goes to a counter and a debug log only.

use std::collections::{BTreeMap, HashSet};

use halo_receipts::ids::{DeviceId, TenantId};
use halo_receipts::keyring::MAX_ROOTS;
use halo_receipts::keys::{DeviceKey, EnrollKey, KeyStore};
use halo_receipts::opening::{self, CLOCK_TOLERANCE_S, Nonce, OpenRequest};
use halo_receipts::time::Timestamp;

use crate::directory::Tenant;

/// Why an opening was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The body is not the document, or the signature header is missing or doubled.
    Malformed,
    /// The tenant is not served here.
    Tenant,
    /// The device key did not sign the request.
    Signature,
    /// The device's clock is too far off.
    Clock,
    /// The nonce was used before.
    Replay,
    /// The device is on the tenant's list of revoked devices.
    Revoked,
    /// The device's key is older than the tenant allows.
    Generation,
    /// So many openings at once that nonces cannot be remembered.
    Flooded,
}

impl Refused {
    /// A stable name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Malformed => "malformed",
            Refused::Tenant => "tenant",
            Refused::Signature => "signature",
            Refused::Clock => "clock",
            Refused::Replay => "replay",
            Refused::Revoked => "revoked",
            Refused::Generation => "generation",
            Refused::Flooded => "flooded",
        }
    }
}

/// The nonces of accepted openings, for as long as their timestamps are acceptable.
#[derive(Debug)]
pub struct Nonces {
    seen: HashSet<(TenantId, DeviceId, Nonce)>,
    /// By the second after which the clock refuses a repetition anyway.
    expiring: BTreeMap<u64, Vec<(TenantId, DeviceId, Nonce)>>,
    capacity: usize,
}

impl Nonces {
    /// Remembers at most `capacity` nonces; further openings are refused rather than forgotten.
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: HashSet::new(),
            expiring: BTreeMap::new(),
            capacity,
        }
    }

    fn expire(&mut self, now: u64) {
        while let Some(entry) = self.expiring.first_entry() {
            if *entry.key() >= now {
                break;
            }
            for nonce in entry.remove() {
                self.seen.remove(&nonce);
            }
        }
    }

    /// How many nonces are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

/// A request to open, as it came.
pub struct Attempt<'a> {
    /// Path and query.
    pub path: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The signature header; none if it is missing or there are several.
    pub signature: Option<&'a [u8]>,
}

/// Checks a `POST` that opens a session or an epoch. `tenant_of` finds a tenant that is served here.
pub fn check(
    attempt: &Attempt<'_>,
    now: Timestamp,
    tenant_of: impl FnOnce(&TenantId) -> Option<std::sync::Arc<Tenant>>,
    keys: &dyn KeyStore,
    nonces: &mut Nonces,
) -> Result<OpenRequest, Refused> {
    let parsed = serde_json::from_slice::<OpenRequest>(attempt.body).ok();
    let stand_in = stand_in();
    // A malformed request is worked on as if it had named a device.
    let request = parsed
        .as_ref()
        .or(stand_in.as_ref())
        .ok_or(Refused::Malformed)?;
    let tenant = tenant_of(&request.tenant_id);
    let header = attempt.signature.unwrap_or_default();
    let mut signed = false;
    for (key, held) in device_keys(request, keys) {
        let valid = opening::signature_is_valid(&key, "POST", attempt.path, attempt.body, header);
        signed |= valid & held;
    }
    let (theirs, ours) = (request.timestamp.seconds(), now.seconds());
    nonces.expire(ours);
    let nonce = (
        request.tenant_id.clone(),
        request.device_id.clone(),
        request.nonce,
    );
    let replayed = nonces.seen.contains(&nonce);
    let revoked = tenant
        .as_ref()
        .is_some_and(|t| t.revoked.contains(&request.device_id));
    let old = tenant
        .as_ref()
        .is_some_and(|t| request.device_generation < t.min_device_generation);
    let refused = [
        (
            parsed.is_none() || attempt.signature.is_none(),
            Refused::Malformed,
        ),
        (tenant.is_none(), Refused::Tenant),
        (!signed, Refused::Signature),
        (theirs.abs_diff(ours) > CLOCK_TOLERANCE_S, Refused::Clock),
        (replayed, Refused::Replay),
        (revoked, Refused::Revoked),
        (old, Refused::Generation),
        (nonces.seen.len() >= nonces.capacity, Refused::Flooded),
    ];
    if let Some((_, reason)) = refused.into_iter().find(|(holds, _)| *holds) {
        return Err(reason);
    }
    let until = theirs.saturating_add(CLOCK_TOLERANCE_S);
    nonces.seen.insert(nonce.clone());
    nonces.expiring.entry(until).or_default().push(nonce);
    parsed.ok_or(Refused::Malformed)
}

/// The device's key under each root that its tenant's keys are held for, and stand-ins, which open nothing, up to the most roots that
/// there can be: the time of the search does not tell how many there are.
fn device_keys(request: &OpenRequest, keys: &dyn KeyStore) -> [(DeviceKey, bool); MAX_ROOTS] {
    let nobody = EnrollKey::from_bytes([0; 32]);
    let held = keys.held(&request.tenant_id);
    let (device, generation) = (&request.device_id, request.device_generation);
    std::array::from_fn(|at| {
        let own = held
            .get(at)
            .and_then(|keys| keys.device_key(&request.tenant_id, device, generation));
        match own {
            Some(key) => (key, true),
            None => (nobody.device_key(device, generation), false),
        }
    })
}

fn stand_in() -> Option<OpenRequest> {
    Some(OpenRequest {
        tenant_id: "nobody".parse().ok()?,
        device_id: "nothing".parse().ok()?,
        device_generation: 0,
        timestamp: Timestamp::from_micros(0)?,
        nonce: Nonce([0; 16]),
    })
}
