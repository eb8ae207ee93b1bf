//! Who leads, decided without a clock of its own.
//!
//! No two clocks have to agree. A candidate judges a holder by its own clock alone: the lease has lapsed if it has not changed for its
//! whole term since the candidate first saw it as it is. A holder counts from the moment it asked for a renewal that was granted, and
//! only two thirds of the term: it ends before anybody may follow, as long as no clock runs a fifth faster or slower than another.

use std::time::Duration;

use tokio::time::Instant;

/// A lease as the API server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty if nobody does.
    pub holder: String,
    /// How long it lasts after a renewal.
    pub term: Duration,
    /// Its version: any change makes another.
    pub version: String,
    /// How often it changed hands.
    pub transitions: i32,
}

/// A version of the lease and when this candidate first saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The version.
    pub version: String,
    /// When, by the candidate's own clock.
    pub at: Instant,
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// There is no lease: make it.
    Create,
    /// Nobody holds it, or its holder let it lapse: take it, if it is still this version.
    Take,
    /// It is this candidate's: renew it, if it is still this version.
    Renew,
    /// Another holds it: look again by then at the latest.
    Wait(Instant),
}

/// What to do about a lease. `seen` is the version that this candidate saw before and when it first saw it; `term` is the term that
/// this candidate would ask for.
pub fn evaluate(
    lease: Option<&Record>,
    me: &str,
    seen: Option<&Seen>,
    now: Instant,
    term: Duration,
) -> Decision {
    let Some(lease) = lease else {
        return Decision::Create;
    };
    if lease.holder.is_empty() {
        return Decision::Take;
    }
    if lease.holder == me {
        return Decision::Renew;
    }
    let since = seen
        .filter(|seen| seen.version == lease.version)
        .map_or(now, |seen| seen.at);
    let lapses = since + lease.term.max(term);
    if now >= lapses {
        Decision::Take
    } else {
        Decision::Wait(lapses)
    }
}

/// A candidate's memory.
#[derive(Debug)]
pub struct Candidate {
    me: String,
    term: Duration,
    seen: Option<Seen>,
    leads_until: Option<Instant>,
}

impl Candidate {
    /// A candidate that has seen nothing. No two that run at one time may have one name.
    pub fn new(me: impl Into<String>, term: Duration) -> Self {
        Self {
            me: me.into(),
            term,
            seen: None,
            leads_until: None,
        }
    }

    /// Its name.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Looks at the lease as it was read just now.
    pub fn look(&mut self, lease: Option<&Record>, now: Instant) -> Decision {
        let decision = evaluate(lease, &self.me, self.seen.as_ref(), now, self.term);
        let known = self.seen.as_ref().map(|seen| seen.version.as_str());
        match lease {
            Some(lease) if known != Some(lease.version.as_str()) => {
                self.seen = Some(Seen {
                    version: lease.version.clone(),
                    at: now,
                });
            }
            Some(_) => {}
            None => self.seen = None,
        }
        decision
    }

    /// The lease was granted to this candidate by a call that began at `asked`.
    pub fn granted(&mut self, asked: Instant) {
        self.leads_until = Some(asked + self.term * 2 / 3);
    }

    /// Somebody else holds the lease, or this candidate gave it up.
    pub fn lost(&mut self) {
        self.leads_until = None;
    }

    /// Until when it leads, if it does not renew; `None` if it does not lead.
    pub fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// Whether it leads.
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERM: Duration = Duration::from_secs(15);

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            term: TERM,
            version: version.to_owned(),
            transitions: 0,
        }
    }

    #[test]
    fn a_lease_lapses_when_it_was_seen_unchanged_for_its_term() {
        let now = Instant::now();
        let seen = |version: &str, ago| Seen {
            version: version.to_owned(),
            at: now - Duration::from_secs(ago),
        };
        let other = record("other", "7");
        for (lease, seen, decision) in [
            (None, None, Decision::Create),
            (Some(record("", "1")), None, Decision::Take),
            (Some(record("me", "1")), None, Decision::Renew),
            (Some(other.clone()), None, Decision::Wait(now + TERM)),
            (
                Some(other.clone()),
                Some(seen("6", 100)),
                Decision::Wait(now + TERM),
            ),
            (
                Some(other.clone()),
                Some(seen("7", 5)),
                Decision::Wait(now + Duration::from_secs(10)),
            ),
            (Some(other.clone()), Some(seen("7", 15)), Decision::Take),
            (
                Some(Record {
                    term: TERM * 4,
                    ..other.clone()
                }),
                Some(seen("7", 15)),
                Decision::Wait(now + Duration::from_secs(45)),
            ),
            (
                Some(Record {
                    term: Duration::from_secs(1),
                    ..other
                }),
                Some(seen("7", 5)),
                Decision::Wait(now + Duration::from_secs(10)),
            ),
        ] {
            assert_eq!(
                evaluate(lease.as_ref(), "me", seen.as_ref(), now, TERM),
                decision,
                "{lease:?} {seen:?}"
            );
        }
    }

    #[test]
    fn a_leader_ends_before_its_term_does() {
        let now = Instant::now();
        let mut candidate = Candidate::new("me", TERM);
        assert!(!candidate.leads(now));
        candidate.granted(now);
        assert!(candidate.leads(now + Duration::from_millis(9_999)));
        assert!(!candidate.leads(now + Duration::from_secs(10)));
        candidate.granted(now + Duration::from_secs(5));
        candidate.lost();
        assert!(!candidate.leads(now));
    }

    /// A candidate in a world of its own: its clock and what is under way.
    struct Player {
        candidate: Candidate,
        start: Instant,
        /// Local milliseconds for each thousand true ones.
        rate: u64,
        /// A write that waits to arrive at the server: version it was read at, when it was asked for, and when it arrives.
        write: Option<(Option<u64>, Instant, u64)>,
        /// Answers on their way: when they arrive, and when the call that was granted had begun.
        answer: Option<(u64, Option<Instant>)>,
    }

    impl Player {
        fn clock(&self, true_millis: u64) -> Instant {
            self.start + Duration::from_millis(true_millis * self.rate / 1000)
        }
    }

    #[derive(Debug, Clone)]
    struct Moment {
        player: usize,
        /// How long the request travels, in milliseconds.
        out: u64,
        /// How long the answer travels; `None` if it is lost.
        back: Option<u64>,
        /// Whether the candidate is asleep now, as a stopped process is.
        asleep: bool,
        pause: u64,
    }

    fn moment() -> impl Strategy<Value = Moment> {
        (
            0usize..3,
            prop_oneof![9 => 0u64..300, 1 => 0u64..40_000],
            prop::option::weighted(0.8, 0u64..3000),
            prop::bool::weighted(0.2),
            prop_oneof![4 => 0u64..2000, 1 => 0u64..20_000],
        )
            .prop_map(|(player, out, back, asleep, pause)| Moment {
                player,
                out,
                back,
                asleep,
                pause,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        // Three candidates with clocks that start anywhere and run up to a seventh faster or slower; requests arrive late, answers
        // late or never; processes stop for a while and go on. Never do two lead.
        #[test]
        fn never_two_leaders(
            rates in prop::array::uniform3(860u64..1140),
            offsets in prop::array::uniform3(0u64..100_000),
            moments in prop::collection::vec(moment(), 1..150),
        ) {
            let origin = Instant::now();
            let mut players: Vec<Player> = (0..3).map(|n| Player {
                candidate: Candidate::new(format!("player-{n}"), TERM),
                start: origin + Duration::from_millis(offsets[n]),
                rate: rates[n],
                write: None,
                answer: None,
            }).collect();
            let mut holder: Option<(usize, u64)> = None;
            let mut version = 0u64;
            let mut now = 0u64;
            let mut granted = 0u32;
            for Moment { player, out, back, asleep, pause } in moments {
                // Time passes in small steps, so that what arrives does so in order.
                let until = now + pause;
                while now <= until {
                    for (n, one) in players.iter_mut().enumerate() {
                        if let Some((read, asked, arrives)) = one.write && arrives <= now {
                            one.write = None;
                            let fits = holder.map(|(_, version)| version) == read;
                            if fits {
                                version += 1;
                                holder = Some((n, version));
                            }
                            one.answer = back.map(|back| (now + back, fits.then_some(asked)));
                        }
                        if let Some((arrives, asked)) = one.answer && arrives <= now {
                            one.answer = None;
                            // A call that took longer than it may is not believed: the caller has given it up.
                            if let Some(asked) = asked {
                                one.candidate.granted(asked);
                                granted += 1;
                            }
                        }
                    }
                    let leaders = players.iter().filter(|one| one.candidate.leads(one.clock(now))).count();
                    prop_assert!(leaders <= 1, "{leaders} lead at {now}");
                    now += 50;
                }
                if asleep {
                    continue;
                }
                let one = &mut players[player];
                if one.write.is_some() {
                    continue;
                }
                let local = one.clock(now);
                let seen = holder.map(|(holder, version)| record(&format!("player-{holder}"), &version.to_string()));
                match one.candidate.look(seen.as_ref(), local) {
                    Decision::Create => one.write = Some((None, local, now + out)),
                    Decision::Take | Decision::Renew => {
                        one.write = Some((holder.map(|(_, version)| version), local, now + out));
                    }
                    Decision::Wait(_) => one.candidate.lost(),
                }
            }
            // The world is not empty: somebody led in most of them.
            prop_assume!(granted > 0);
        }
    }
}
