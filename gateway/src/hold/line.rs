//! The requests of one tenant that wait for a pod, and those that pods have: who is next, and where it goes.
//!
//! A request that a pod did not take comes back to the place that it had, so a younger one never overtakes it. A pod that does not
//! take requests is tried by one at a time, after pauses that grow; once it takes one, all that may go follow at once.

use std::collections::{BTreeMap, HashMap};

use halo_receipts::ids::SessionId;

use crate::directory::PodAddress;

/// The first pause after a pod took no request; it doubles up to [`PAUSE_MAX_MS`].
pub const PAUSE_MIN_MS: u64 = 20;
/// The longest pause.
pub const PAUSE_MAX_MS: u64 = 250;
/// With more pods than this the less loaded of two is taken, so that gateways do not all choose the same one.
const COMPARED_PODS: usize = 8;
/// Sessions whose pod is remembered, at least; at most twice as many.
const AFFINITY: usize = 8192;

/// A request's place; those of later requests are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What one tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that wait.
    pub count: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Requests that are with pods at once.
    pub at_once: usize,
    /// For how long a request may wait.
    pub age_ms: u64,
}

/// There is no place left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Why a request comes back from a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The pod takes no request now, or could not be reached.
    Refused,
    /// The pod still ends an earlier answer of the same session; others may go to it.
    SessionBusy,
    /// The pod was lost before the answer began.
    Lost,
}

#[derive(Debug, Clone)]
struct Request {
    session: SessionId,
    bytes: usize,
    since_ms: u64,
    /// Not before this.
    from_ms: u64,
    /// How often its session was busy.
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dialing,
    Answering,
    /// The pod is gone, and what becomes of the request is being found out.
    Lost,
}

#[derive(Debug)]
struct Pod {
    address: PodAddress,
    dialing: usize,
    answering: usize,
    /// Whether the last request that was dispatched to it was taken.
    proven: bool,
    /// Not before this.
    from_ms: u64,
    pause_ms: u64,
}

impl Pod {
    fn is_free(&self, now_ms: u64) -> bool {
        self.from_ms <= now_ms && (self.proven || self.dialing == 0)
    }

    fn refused(&mut self, now_ms: u64) {
        self.proven = false;
        if self.from_ms > now_ms {
            // Several were on their way to it: that is one refusal.
            return;
        }
        self.from_ms = now_ms.saturating_add(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
    }

    fn taken(&mut self, now_ms: u64) {
        self.proven = true;
        self.from_ms = self.from_ms.min(now_ms);
        self.pause_ms = PAUSE_MIN_MS;
    }
}

/// The sessions' last pods; the oldest half is forgotten when there are many.
#[derive(Debug, Default)]
struct Affinity {
    young: HashMap<SessionId, PodAddress>,
    old: HashMap<SessionId, PodAddress>,
}

impl Affinity {
    fn of(&self, session: &SessionId) -> Option<&PodAddress> {
        self.young.get(session).or_else(|| self.old.get(session))
    }

    fn set(&mut self, session: SessionId, pod: PodAddress) {
        if self.young.len() >= AFFINITY {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(session, pod);
    }

    fn retain(&mut self, is_listed: impl Fn(&PodAddress) -> bool) {
        self.young.retain(|_, pod| is_listed(pod));
        self.old.retain(|_, pod| is_listed(pod));
    }
}

/// One tenant's requests.
#[derive(Debug)]
pub struct Line {
    bounds: Bounds,
    waiting: BTreeMap<Ticket, Request>,
    bytes: usize,
    out: HashMap<Ticket, (Request, PodAddress, Phase)>,
    pods: Vec<Pod>,
    affinity: Affinity,
}

/// Spreads numbers (the finalizer of splitmix64).
fn spread(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Line {
    /// A line without requests and pods.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: BTreeMap::new(),
            bytes: 0,
            out: HashMap::new(),
            pods: Vec::new(),
            affinity: Affinity::default(),
        }
    }

    /// Other bounds. What waits already may go on waiting.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The pods that are ready now. Nothing more goes to one that is not among them; what it has stays with it.
    pub fn set_pods(&mut self, addresses: &[PodAddress]) {
        let same = self.pods.len() == addresses.len()
            && self
                .pods
                .iter()
                .zip(addresses)
                .all(|(pod, address)| pod.address == *address);
        if same {
            return;
        }
        let mut before: HashMap<PodAddress, Pod> = self
            .pods
            .drain(..)
            .map(|pod| (pod.address.clone(), pod))
            .collect();
        for address in addresses {
            let with = |phase| {
                let out = self.out.values();
                out.filter(|(_, pod, now)| pod == address && *now == phase)
                    .count()
            };
            let (dialing, answering) = (with(Phase::Dialing), with(Phase::Answering));
            let pod = before.remove(address).unwrap_or_else(|| Pod {
                address: address.clone(),
                dialing,
                answering,
                proven: answering > 0,
                from_ms: 0,
                pause_ms: PAUSE_MIN_MS,
            });
            self.pods.push(pod);
        }
        let pods = &self.pods;
        self.affinity
            .retain(|pod| pods.iter().any(|listed| listed.address == *pod));
    }

    /// Whether a pod is listed.
    pub fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// Enters a request. One that may go at once needs no place among those that wait.
    ///
    /// # Errors
    /// As many wait as may, or their bytes and these are too many.
    pub fn enter(
        &mut self,
        ticket: Ticket,
        session: SessionId,
        bytes: usize,
        now_ms: u64,
    ) -> Result<(), Full> {
        let at_once = self.waiting.is_empty() && self.pick(ticket, &session, now_ms).is_some();
        // One that tries a pod for the others waits as they do.
        let tries = self
            .pods
            .iter()
            .filter(|pod| !pod.proven)
            .map(|pod| pod.dialing)
            .sum::<usize>();
        let count_full = self.waiting.len() + tries >= self.bounds.count;
        let bytes_full = self.bytes.saturating_add(bytes) > self.bounds.bytes;
        if !at_once && (count_full || bytes_full) {
            return Err(Full);
        }
        self.wait(
            ticket,
            Request {
                session,
                bytes,
                since_ms: now_ms,
                from_ms: now_ms,
                tries: 0,
            },
        );
        Ok(())
    }

    fn wait(&mut self, ticket: Ticket, request: Request) {
        self.bytes = self.bytes.saturating_add(request.bytes);
        self.waiting.insert(ticket, request);
    }

    fn unwait(&mut self, ticket: Ticket) -> Option<Request> {
        let request = self.waiting.remove(&ticket)?;
        self.bytes = self.bytes.saturating_sub(request.bytes);
        Some(request)
    }

    /// The next request that goes, and where. It counts as dialing from now on.
    pub fn next(&mut self, now_ms: u64) -> Option<(Ticket, PodAddress)> {
        let (ticket, session) = self
            .waiting
            .iter()
            .find(|(_, request)| request.from_ms <= now_ms)
            .map(|(ticket, request)| (*ticket, request.session))?;
        let address = self.pick(ticket, &session, now_ms)?;
        let request = self.unwait(ticket)?;
        self.pod(&address, |pod| pod.dialing += 1);
        self.out
            .insert(ticket, (request, address.clone(), Phase::Dialing));
        Some((ticket, address))
    }

    fn with_pods(&self) -> usize {
        let out = self.out.values();
        out.filter(|(_, _, phase)| *phase != Phase::Lost).count()
    }

    /// The pod that a session's request goes to now, if any.
    fn pick(&self, ticket: Ticket, session: &SessionId, now_ms: u64) -> Option<PodAddress> {
        if self.with_pods() >= self.bounds.at_once {
            return None;
        }
        let free: Vec<&Pod> = self.pods.iter().filter(|pod| pod.is_free(now_ms)).collect();
        let sticky = self.affinity.of(session);
        if let Some(pod) = free.iter().find(|pod| Some(&pod.address) == sticky) {
            return Some(pod.address.clone());
        }
        let random = spread(ticket.0);
        let at = |random: u64| {
            free.get(usize::try_from(random % free.len().max(1) as u64).unwrap_or(0))
                .copied()
        };
        let load = |pod: &&Pod| pod.dialing + pod.answering;
        let pod = if free.len() > COMPARED_PODS {
            [at(random), at(random >> 32)]
                .into_iter()
                .flatten()
                .min_by_key(load)
        } else {
            let least = free.iter().map(load).min()?;
            let equal: Vec<&&Pod> = free.iter().filter(|pod| load(pod) == least).collect();
            equal
                .get(usize::try_from(random % equal.len().max(1) as u64).unwrap_or(0))
                .map(|pod| **pod)
        };
        pod.map(|pod| pod.address.clone())
    }

    fn pod(&mut self, address: &PodAddress, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.iter_mut().find(|pod| pod.address == *address) {
            change(pod);
        }
    }

    /// The pod took the request.
    pub fn linked(&mut self, ticket: Ticket, now_ms: u64) {
        let Some((request, address, phase)) = self.out.get_mut(&ticket) else {
            return;
        };
        if *phase != Phase::Dialing {
            return;
        }
        *phase = Phase::Answering;
        let (session, address) = (request.session, address.clone());
        self.pod(&address, |pod| {
            pod.dialing = pod.dialing.saturating_sub(1);
            pod.answering += 1;
            pod.taken(now_ms);
        });
        if self.pods.iter().any(|pod| pod.address == address) {
            self.affinity.set(session, address);
        }
    }

    /// The pod that has the request is gone. The request is with nobody until it comes back or leaves.
    pub fn lost(&mut self, ticket: Ticket, now_ms: u64) {
        let Some((_, address, phase)) = self.out.get_mut(&ticket) else {
            return;
        };
        let was = std::mem::replace(phase, Phase::Lost);
        let address = address.clone();
        self.part(&address, was);
        self.pod(&address, |pod| pod.refused(now_ms));
    }

    fn part(&mut self, address: &PodAddress, phase: Phase) {
        self.pod(address, |pod| match phase {
            Phase::Dialing => pod.dialing = pod.dialing.saturating_sub(1),
            Phase::Answering => pod.answering = pod.answering.saturating_sub(1),
            Phase::Lost => {}
        });
    }

    /// The request comes back to its old place. Its time starts anew if a pod had taken it.
    pub fn back(&mut self, ticket: Ticket, why: Back, now_ms: u64) {
        let Some((mut request, address, phase)) = self.out.remove(&ticket) else {
            return;
        };
        self.part(&address, phase);
        match why {
            Back::Refused => self.pod(&address, |pod| pod.refused(now_ms)),
            Back::SessionBusy => {
                let pause = (PAUSE_MIN_MS << request.tries.min(8)).min(PAUSE_MAX_MS);
                request.tries = request.tries.saturating_add(1);
                request.from_ms = now_ms.saturating_add(pause);
            }
            Back::Lost => request.since_ms = now_ms,
        }
        self.wait(ticket, request);
    }

    /// The request is over, wherever it was.
    pub fn leave(&mut self, ticket: Ticket, now_ms: u64) {
        self.unwait(ticket);
        if let Some((_, address, phase)) = self.out.remove(&ticket) {
            self.part(&address, phase);
            if phase == Phase::Answering {
                // A pod that was full has room again.
                self.pod(&address, |pod| pod.taken(now_ms));
            }
        }
    }

    /// Takes out the requests that have waited for too long.
    pub fn expired(&mut self, now_ms: u64) -> Vec<Ticket> {
        let age = self.bounds.age_ms;
        let late = |request: &Request| now_ms.saturating_sub(request.since_ms) >= age;
        let tickets: Vec<Ticket> = self
            .waiting
            .iter()
            .filter(|(_, r)| late(r))
            .map(|(t, _)| *t)
            .collect();
        for ticket in &tickets {
            self.unwait(*ticket);
        }
        tickets
    }

    /// Takes out all that wait.
    pub fn dismiss(&mut self) -> Vec<Ticket> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// When something may happen without any other call: a request is late, or a pause is over.
    pub fn due_ms(&self) -> Option<u64> {
        let age = self.bounds.age_ms;
        let requests = self.waiting.values();
        let late = requests
            .clone()
            .map(|request| request.since_ms.saturating_add(age))
            .min()?;
        if self.with_pods() >= self.bounds.at_once {
            return Some(late);
        }
        let ready = requests.map(|request| request.from_ms).min().unwrap_or(0);
        let pods = self
            .pods
            .iter()
            .filter(|pod| pod.proven || pod.dialing == 0);
        let tried = pods.map(|pod| pod.from_ms.max(ready)).min();
        Some(tried.map_or(late, |tried| tried.min(late)))
    }

    /// How many requests wait before this one.
    pub fn position(&self, ticket: Ticket) -> usize {
        self.waiting.range(..ticket).count()
    }

    /// Requests that no pod has, and those that one answers.
    pub fn counts(&self) -> (usize, usize) {
        let with = |phase| {
            self.out
                .values()
                .filter(|(_, _, now)| *now == phase)
                .count()
        };
        (
            self.waiting.len() + with(Phase::Dialing),
            with(Phase::Answering),
        )
    }

    /// Bytes of those that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when the oldest of those that wait does.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.waiting.values().map(|request| request.since_ms).min()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.out.is_empty()
    }
}
