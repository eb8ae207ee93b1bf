//! How many devices of a tenant are connected at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halo_receipts::ids::{SessionId, TenantId};

/// Places for devices, counted by tenant. A device that comes back while its older connection has not ended sits down beside itself.
#[derive(Default)]
pub struct Seats(Mutex<HashMap<TenantId, HashMap<SessionId, usize>>>);

/// A device's place; free again when it is dropped.
pub struct Seat {
    seats: Arc<Seats>,
    tenant: TenantId,
    session: SessionId,
}

impl Seats {
    /// A place for a session of a tenant that may have `most`; `None` if all are taken.
    pub fn take(
        self: &Arc<Self>,
        tenant: &TenantId,
        session: SessionId,
        most: usize,
    ) -> Option<Seat> {
        let mut taken = self.lock();
        let sessions = taken.entry(tenant.clone()).or_default();
        if sessions.len() >= most && !sessions.contains_key(&session) {
            if sessions.is_empty() {
                taken.remove(tenant);
            }
            return None;
        }
        *sessions.entry(session).or_default() += 1;
        Some(Seat {
            seats: Arc::clone(self),
            tenant: tenant.clone(),
            session,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, HashMap<SessionId, usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        let Some(sessions) = taken.get_mut(&self.tenant) else {
            return;
        };
        if let Some(count) = sessions.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                sessions.remove(&self.session);
            }
        }
        if sessions.is_empty() {
            taken.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_places_and_each_session_one() {
        let seats: Arc<Seats> = Arc::default();
        let (acme, other): (TenantId, TenantId) =
            ("acme".parse().unwrap(), "other".parse().unwrap());
        let session = |byte| SessionId::from_random([byte; 16]);
        let take = |tenant: &TenantId, byte, most| seats.take(tenant, session(byte), most);
        let first = take(&acme, 1, 2).unwrap();
        let _second = take(&acme, 2, 2).unwrap();
        assert!(take(&acme, 3, 2).is_none());
        assert!(
            take(&other, 3, 1).is_some(),
            "tenants have places of their own"
        );
        // Back before its older connection ended: still one place.
        let again = take(&acme, 1, 2).unwrap();
        drop(first);
        assert!(take(&acme, 3, 2).is_none());
        drop(again);
        let third = take(&acme, 3, 2).unwrap();
        // Fewer are allowed meanwhile: who is there stays.
        assert!(take(&acme, 4, 1).is_none());
        drop(third);
        drop(_second);
        assert!(take(&acme, 4, 0).is_none());
        assert!(seats.lock().is_empty());
    }
}
