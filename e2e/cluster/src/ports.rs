//! Free loopback ports.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use crate::error::Error;

/// Below the range from which Linux takes the local ports of outgoing connections (32768 and up), so that a port stays free while
/// its server is stopped and started again.
const RANGE: std::ops::Range<u16> = 12000..32000;

/// A port that nothing listens on and that this process was not given before.
pub(crate) fn free() -> Result<u16, Error> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Random, so that test processes that run at once rarely try the same port.
    let random = RandomState::new().build_hasher().finish();
    let size = u64::from(RANGE.end - RANGE.start);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for step in 0..500 {
        // The remainder is below the size of the range, so it fits.
        let port =
            RANGE.start + u16::try_from((random.wrapping_add(step * 37)) % size).unwrap_or(0);
        if given.contains(&port) {
            continue;
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => {
                given.insert(port);
                return Ok(port);
            }
            Err(error) => last = error,
        }
    }
    Err(Error::io("find a free loopback port")(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert!(RANGE.contains(&port));
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
