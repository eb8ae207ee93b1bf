//! The answers under way on this gateway. A task writes an answer's tokens into its log; the device's connection reads the
//! log at its own pace, and a new connection can read on where a broken one stopped. The log is short: a task whose device reads
//! too slowly takes no more from its pod, so a slow device slows its own answer and costs no memory.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halo_receipts::ids::{Epoch, RequestId, SessionId};
use tokio::sync::watch;

/// What a connection takes from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The payload of a notice.
    Notice(Arc<[u8]>),
    /// The payload of a token.
    Token(Arc<[u8]>),
    /// The document that ends the answer.
    End(Arc<[u8]>),
}

/// Who reads an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The connection with this number.
    Here(u64),
    /// None: the connection broke, and the device may come back for the rest.
    Away,
    /// None, and none will come: the device closed its connection.
    Gone,
    /// The end was handed over.
    Served,
}

/// The most bytes of tokens that are kept for a connection: those that it has not taken yet, and the last ones that it has, for a
/// device that comes back. What is older comes from the ledger.
pub const KEPT: usize = 32 * 1024;
/// The most that is kept while no connection reads and one is waited for.
pub const KEPT_AWAY: usize = 256 * 1024;
/// What a token takes at most; there is room if one more fits.
const TOKEN: usize = 256;

/// Who asks to read an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAs {
    /// The connection's number.
    pub connection: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The first step that it wants.
    pub from_step: u32,
}

#[derive(Default)]
struct Log {
    tokens: VecDeque<Arc<[u8]>>,
    /// The step of the first one.
    first: usize,
    /// Bytes of all of them, and of those that the reader has not taken.
    bytes: usize,
    unread: usize,
    /// The step that the reader takes next.
    read: usize,
    /// The newest notice, with a number that rises.
    notice: Option<(u64, Arc<[u8]>)>,
    end: Option<Arc<[u8]>>,
}

impl Log {
    fn get(&self, step: usize) -> Option<&Arc<[u8]>> {
        self.tokens.get(step.checked_sub(self.first)?)
    }

    fn push(&mut self, payload: &[u8]) {
        self.bytes += payload.len();
        let step = self.first + self.tokens.len();
        if step >= self.read {
            self.unread += payload.len();
        }
        self.tokens.push_back(payload.into());
        self.trim();
    }

    /// The reader has taken everything before `step`, or is given it elsewhere.
    fn read_to(&mut self, step: usize) {
        self.read = step;
        let from = step.saturating_sub(self.first);
        self.unread = self.tokens.iter().skip(from).map(|token| token.len()).sum();
        self.trim();
    }

    fn take(&mut self, step: usize) {
        self.read = step + 1;
        let len = self.get(step).map_or(0, |token| token.len());
        self.unread = self.unread.saturating_sub(len);
        self.trim();
    }

    /// Forgets what was read, as far as it does not fit.
    fn trim(&mut self) {
        while self.bytes > KEPT && self.first < self.read {
            let Some(token) = self.tokens.pop_front() else {
                return;
            };
            self.bytes -= token.len();
            self.first += 1;
        }
    }
}

/// One answer under way.
pub struct Answer {
    /// The request that it answers.
    pub request_id: RequestId,
    /// The newest epoch in which a device asked for it. A pod takes a link in the session's last epoch only.
    epoch: Mutex<Epoch>,
    log: Mutex<Log>,
    /// Rises with every entry of the log.
    version: watch::Sender<u64>,
    /// Rises with every entry that is taken.
    taken: watch::Sender<u64>,
    reader: watch::Sender<Reader>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answer {
    fn new(request_id: RequestId, epoch: Epoch) -> Arc<Self> {
        Arc::new(Self {
            request_id,
            epoch: Mutex::new(epoch),
            log: Mutex::default(),
            version: watch::Sender::new(0),
            taken: watch::Sender::new(0),
            reader: watch::Sender::new(Reader::Away),
        })
    }

    fn write(&self, entry: impl FnOnce(&mut Log)) {
        entry(&mut lock(&self.log));
        self.version.send_modify(|version| *version += 1);
    }

    /// Adds the payload of the next token.
    pub fn push_token(&self, payload: &[u8]) {
        self.write(|log| log.push(payload));
    }

    /// Whether the log has room for another token. Whoever has none should take no more from where tokens come.
    pub fn has_room(&self) -> bool {
        let most = match *self.reader.borrow() {
            Reader::Here(_) => KEPT,
            Reader::Away => KEPT_AWAY,
            Reader::Gone | Reader::Served => return true,
        };
        lock(&self.log).unread + TOKEN <= most
    }

    /// Returns when there is room.
    pub async fn room(&self) {
        let (mut taken, mut reader) = (self.taken.subscribe(), self.reader.subscribe());
        loop {
            taken.mark_unchanged();
            reader.mark_unchanged();
            if self.has_room() {
                return;
            }
            // Both senders live as long as this.
            tokio::select! {
                _ = taken.changed() => {}
                _ = reader.changed() => {}
            }
        }
    }

    /// Replaces the notice that a device sees which waits.
    pub fn set_notice(&self, payload: &[u8]) {
        self.write(|log| {
            let number = log.notice.as_ref().map_or(0, |(number, _)| number + 1);
            log.notice = Some((number, payload.into()));
        });
    }

    /// Adds the end. Only the first one counts.
    pub fn finish(&self, document: &[u8]) {
        self.write(|log| {
            log.end.get_or_insert_with(|| document.into());
        });
    }

    /// The newest epoch in which a device asked for it.
    pub fn epoch(&self) -> Epoch {
        *lock(&self.epoch)
    }

    /// How many tokens came, kept or not.
    pub fn token_count(&self) -> usize {
        let log = lock(&self.log);
        log.first + log.tokens.len()
    }

    /// Bytes of tokens that are kept.
    pub fn kept(&self) -> usize {
        lock(&self.log).bytes
    }

    /// Who reads the answer, with changes.
    pub fn reader(&self) -> watch::Receiver<Reader> {
        self.reader.subscribe()
    }

    fn read(self: &Arc<Self>, reader: ReadAs) -> Reading {
        let ReadAs {
            connection,
            epoch,
            from_step,
        } = reader;
        {
            let mut newest = lock(&self.epoch);
            *newest = epoch.max(*newest);
        }
        self.reader.send_replace(Reader::Here(connection));
        let asked = from_step as usize;
        let next_step = {
            let mut log = lock(&self.log);
            let next = asked.max(log.first);
            log.read_to(next);
            next
        };
        self.taken.send_modify(|taken| *taken += 1);
        Reading {
            answer: Arc::clone(self),
            connection,
            missing: (asked < next_step).then_some(asked..next_step),
            next_step,
            next_notice: 0,
            version: self.version.subscribe(),
        }
    }
}

/// One connection's place in a log. When it is dropped before the end, the device counts as away.
pub struct Reading {
    answer: Arc<Answer>,
    connection: u64,
    /// Steps that were asked for and are not kept any more; the ledger has them.
    missing: Option<Range<usize>>,
    next_step: usize,
    next_notice: u64,
    version: watch::Receiver<u64>,
}

impl Reading {
    /// The request whose answer it is.
    pub fn request_id(&self) -> RequestId {
        self.answer.request_id
    }

    /// The steps that have to come from the ledger first; said once.
    pub fn take_missing(&mut self) -> Option<Range<usize>> {
        self.missing.take()
    }

    /// The next entry, as soon as there is one. Nothing is lost when the future is dropped. After the end it never returns.
    pub async fn next(&mut self) -> Item {
        loop {
            self.version.mark_unchanged();
            if let Some(item) = self.ready() {
                return item;
            }
            if self.version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn ready(&mut self) -> Option<Item> {
        let mut log = lock(&self.answer.log);
        if let Some(token) = log.get(self.next_step).cloned() {
            if *self.answer.reader.borrow() == Reader::Here(self.connection) {
                log.take(self.next_step);
            }
            self.next_step += 1;
            // Tokens make every earlier notice untrue.
            self.next_notice = log.notice.as_ref().map_or(0, |(number, _)| number + 1);
            drop(log);
            self.answer.taken.send_modify(|taken| *taken += 1);
            return Some(Item::Token(token));
        }
        if let Some(end) = &log.end {
            let end = Arc::clone(end);
            drop(log);
            self.leave(Reader::Served);
            return Some(Item::End(end));
        }
        match &log.notice {
            Some((number, notice)) if *number >= self.next_notice => {
                self.next_notice = number + 1;
                Some(Item::Notice(Arc::clone(notice)))
            }
            _ => None,
        }
    }

    /// The device closed its connection: it asks no longer.
    pub fn cancel(self) {
        self.leave(Reader::Gone);
    }

    fn leave(&self, to: Reader) {
        let mine = Reader::Here(self.connection);
        self.answer.reader.send_if_modified(|reader| {
            let leaves = *reader == mine;
            if leaves {
                *reader = to;
            }
            leaves
        });
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.leave(Reader::Away);
    }
}

/// The answers under way, at most one in each session.
#[derive(Default)]
pub struct Answers {
    running: Mutex<HashMap<SessionId, Arc<Answer>>>,
}

impl Answers {
    /// Begins an answer, unless one of the session is under way.
    pub fn begin(
        &self,
        session: SessionId,
        request_id: RequestId,
        reader: ReadAs,
    ) -> Option<(Arc<Answer>, Reading)> {
        let mut running = lock(&self.running);
        if running.contains_key(&session) {
            return None;
        }
        let answer = Answer::new(request_id, reader.epoch);
        running.insert(session, Arc::clone(&answer));
        let reading = answer.read(reader);
        Some((answer, reading))
    }

    /// Whether an answer of the session is under way.
    pub fn is_running(&self, session: &SessionId) -> bool {
        lock(&self.running).contains_key(session)
    }

    /// Reads an answer that is under way, from a step on; takes it over from an earlier connection.
    pub fn attach(
        &self,
        session: &SessionId,
        request_id: RequestId,
        reader: ReadAs,
    ) -> Option<Reading> {
        let running = lock(&self.running);
        let answer = running.get(session)?;
        (answer.request_id == request_id).then(|| answer.read(reader))
    }

    /// Forgets an answer; a later one of the same session stays.
    pub fn remove(&self, session: &SessionId, answer: &Arc<Answer>) {
        let mut running = lock(&self.running);
        if running
            .get(session)
            .is_some_and(|current| Arc::ptr_eq(current, answer))
        {
            running.remove(session);
        }
    }

    /// How many answers are under way.
    pub fn len(&self) -> usize {
        lock(&self.running).len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (SessionId, RequestId) {
        (
            SessionId::from_random([1; 16]),
            RequestId::from_random([2; 16]),
        )
    }

    fn by(connection: u64, from_step: u32) -> ReadAs {
        ReadAs {
            connection,
            epoch: Epoch(u32::try_from(connection).unwrap()),
            from_step,
        }
    }

    fn bytes(item: Item) -> Vec<u8> {
        match item {
            Item::Notice(bytes) | Item::Token(bytes) | Item::End(bytes) => bytes.to_vec(),
        }
    }

    #[tokio::test]
    async fn a_second_connection_reads_on_where_the_first_stopped() {
        let (session, request) = ids();
        let answers = Answers::default();
        let (answer, mut first) = answers.begin(session, request, by(1, 0)).unwrap();
        assert!(answers.begin(session, request, by(2, 0)).is_none());
        answer.set_notice(b"waking");
        assert_eq!(bytes(first.next().await), b"waking");
        answer.set_notice(b"queued");
        answer.push_token(b"t0");
        answer.push_token(b"t1");
        // The notice is outdated by the tokens.
        assert_eq!(bytes(first.next().await), b"t0");
        let reader = answer.reader();
        assert_eq!(*reader.borrow(), Reader::Here(1));
        drop(first);
        assert_eq!(*reader.borrow(), Reader::Away);
        answer.push_token(b"t2");
        assert!(
            answers
                .attach(&session, RequestId::from_random([3; 16]), by(2, 1))
                .is_none()
        );
        let mut second = answers.attach(&session, request, by(2, 1)).unwrap();
        assert_eq!(answer.epoch(), Epoch(2));
        assert_eq!(bytes(second.next().await), b"t1");
        assert_eq!(bytes(second.next().await), b"t2");
        answer.finish(b"end");
        answer.finish(b"another end");
        assert_eq!(second.next().await, Item::End(b"end"[..].into()));
        assert_eq!(*reader.borrow(), Reader::Served);
        answers.remove(&session, &answer);
        assert!(answers.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_was_taken_over_does_not_end_the_answer() {
        let (session, request) = ids();
        let answers = Answers::default();
        let (answer, first) = answers.begin(session, request, by(1, 0)).unwrap();
        let second = answers.attach(&session, request, by(2, 0)).unwrap();
        first.cancel();
        assert_eq!(*answer.reader().borrow(), Reader::Here(2));
        second.cancel();
        assert_eq!(*answer.reader().borrow(), Reader::Gone);
    }

    #[tokio::test]
    async fn a_log_is_short_and_says_what_it_no_longer_has() {
        let (session, request) = ids();
        let answers = Answers::default();
        let (answer, mut reading) = answers.begin(session, request, by(1, 0)).unwrap();
        let mut pushed = 0;
        while answer.has_room() {
            answer.push_token(&[7; 200]);
            pushed += 1;
        }
        assert!(answer.kept() <= KEPT && pushed > 100);
        let waits = tokio::spawn({
            let answer = Arc::clone(&answer);
            async move { answer.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        for _ in 0..pushed {
            reading.next().await;
        }
        waits.await.unwrap();
        for _ in 0..pushed {
            answer.push_token(&[8; 200]);
            reading.next().await;
            assert!(answer.kept() <= KEPT);
        }
        assert_eq!(answer.token_count(), 2 * pushed);
        // What was read last is kept for a device that comes back; what is older is not.
        drop(reading);
        let from = u32::try_from(pushed + 10).unwrap();
        let mut again = answers.attach(&session, request, by(2, from)).unwrap();
        assert_eq!(again.take_missing(), None);
        assert_eq!(bytes(again.next().await), [8; 200]);
        drop(again);
        let mut again = answers.attach(&session, request, by(3, 2)).unwrap();
        let missing = again.take_missing().unwrap();
        assert_eq!(missing.start, 2);
        assert!(missing.end > 10 && missing.end <= pushed + 10);
        // While nobody reads, more is kept; once nobody will, there is no bound that would stop the answer.
        drop(again);
        while answer.has_room() {
            answer.push_token(&[9; 200]);
        }
        assert!(answer.kept() > 4 * KEPT && answer.kept() <= KEPT_AWAY + KEPT);
        answers
            .attach(&session, request, by(4, 0))
            .unwrap()
            .cancel();
        assert!(answer.has_room());
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken() {
        let (session, request) = ids();
        let answers = Answers::default();
        let (answer, mut reading) = answers.begin(session, request, by(1, 0)).unwrap();
        let waiting = tokio::spawn(async move { reading.next().await });
        tokio::task::yield_now().await;
        answer.push_token(b"t0");
        assert_eq!(waiting.await.unwrap(), Item::Token(b"t0"[..].into()));
    }
}
