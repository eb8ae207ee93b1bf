//! Which months and which generations are published at a time, and when that changes. Months are UTC.

use std::time::Duration;

use halo_crds::status::PublishedKeys;
use halo_receipts::time::KeyMonth;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// The months whose keys are published, and when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// The month before, the current one and, from some time before it begins, the next one.
    pub months: Vec<KeyMonth>,
    /// When other months are to be published.
    pub until: Timestamp,
}

impl Calendar {
    /// The months at a time, when the next one is published `ahead` of its beginning.
    pub fn at(now: Timestamp, ahead: Duration) -> Self {
        let today = now.to_zoned(TimeZone::UTC).date();
        let this = today.first_of_month();
        let before = this.checked_sub(1.month()).ok();
        let next = this.checked_add(1.month()).ok();
        let begins = next.and_then(beginning).unwrap_or(Timestamp::MAX);
        let announced = shifted(begins, ahead, true);
        let early = now >= announced;
        let dates = [before, Some(this), next.filter(|_| early)];
        Self {
            months: dates.into_iter().flatten().filter_map(month).collect(),
            until: if early { begins } else { announced },
        }
    }
}

/// Midnight at the beginning of a day.
fn beginning(date: Date) -> Option<Timestamp> {
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The month of a day; none before 1970 and after 9999.
fn month(date: Date) -> Option<KeyMonth> {
    format!("{:04}-{:02}", date.year(), date.month())
        .parse()
        .ok()
}

/// A time, so much earlier or later; at most the last one that can be told.
pub fn shifted(time: Timestamp, by: Duration, earlier: bool) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    if earlier {
        time.checked_sub(by).unwrap_or(Timestamp::MIN)
    } else {
        time.checked_add(by).unwrap_or(Timestamp::MAX)
    }
}

/// A time without its part of a second, as the API server keeps it.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The generation before and until when it is published, when `wanted` is to be the current one: the published one if that changes now,
/// the recorded one while its time lasts.
pub fn previous(
    published: Option<&PublishedKeys>,
    wanted: u32,
    overlap: Duration,
    now: Timestamp,
) -> Option<(u32, Timestamp)> {
    let published = published?;
    if published.generation < wanted {
        let until = whole_seconds(shifted(now, overlap, false));
        return Some((published.generation, until));
    }
    let generation = published.previous_generation?;
    let until = published.previous_until.as_ref()?.0;
    (published.generation == wanted && generation < wanted && now < until)
        .then_some((generation, until))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    const AHEAD: Duration = Duration::from_secs(72 * 3600);

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn months_change_at_their_boundaries() {
        for (now, months, until) in [
            (
                "2026-11-01T00:00:00Z",
                "2026-10 2026-11",
                "2026-11-28T00:00:00Z",
            ),
            (
                "2026-11-27T23:59:59.999Z",
                "2026-10 2026-11",
                "2026-11-28T00:00:00Z",
            ),
            (
                "2026-11-28T00:00:00Z",
                "2026-10 2026-11 2026-12",
                "2026-12-01T00:00:00Z",
            ),
            (
                "2026-11-30T23:59:59.999Z",
                "2026-10 2026-11 2026-12",
                "2026-12-01T00:00:00Z",
            ),
            (
                "2026-12-01T00:00:00Z",
                "2026-11 2026-12",
                "2026-12-29T00:00:00Z",
            ),
            (
                "2026-12-29T00:00:00Z",
                "2026-11 2026-12 2027-01",
                "2027-01-01T00:00:00Z",
            ),
            (
                "2027-01-01T00:00:00Z",
                "2026-12 2027-01",
                "2027-01-29T00:00:00Z",
            ),
            (
                "2027-02-26T00:00:00Z",
                "2027-01 2027-02 2027-03",
                "2027-03-01T00:00:00Z",
            ),
            // A leap year.
            (
                "2028-02-26T23:59:59Z",
                "2028-01 2028-02",
                "2028-02-27T00:00:00Z",
            ),
            (
                "2028-02-27T00:00:00Z",
                "2028-01 2028-02 2028-03",
                "2028-03-01T00:00:00Z",
            ),
        ] {
            let calendar = Calendar::at(time(now), AHEAD);
            let texts: Vec<String> = calendar.months.iter().map(ToString::to_string).collect();
            assert_eq!(texts.join(" "), months, "{now}");
            assert_eq!(calendar.until, time(until), "{now}");
        }
    }

    #[test]
    fn the_last_times_do_not_overflow() {
        assert!(!Calendar::at(Timestamp::MAX, AHEAD).months.is_empty());
        assert!(
            Calendar::at(time("1970-01-01T00:00:00Z"), AHEAD)
                .months
                .len()
                == 1
        );
        assert_eq!(shifted(Timestamp::MAX, AHEAD, false), Timestamp::MAX);
    }

    #[test]
    fn the_generation_before_stays_for_the_overlap() {
        let now = time("2026-11-21T10:00:00.5Z");
        let hour = Duration::from_secs(3600);
        let published = |generation, previous: Option<(u32, &str)>| PublishedKeys {
            generation,
            previous_generation: previous.map(|(generation, _)| generation),
            previous_until: previous.map(|(_, until)| Time(time(until))),
            ..PublishedKeys::default()
        };
        let ask = |published: &PublishedKeys, wanted| previous(Some(published), wanted, hour, now);
        assert_eq!(previous(None, 1, hour, now), None);
        assert_eq!(ask(&published(1, None), 1), None);
        let end = time("2026-11-21T11:00:00Z");
        assert_eq!(ask(&published(1, None), 2), Some((1, end)));
        assert_eq!(ask(&published(1, None), 4), Some((1, end)));
        let later = "2026-11-21T10:30:00Z";
        let during = published(2, Some((1, later)));
        assert_eq!(ask(&during, 2), Some((1, time(later))));
        // A second change during the overlap: the one before that is dropped.
        assert_eq!(ask(&during, 3), Some((2, end)));
        let over = published(2, Some((1, "2026-11-21T10:00:00Z")));
        assert_eq!(ask(&over, 2), None);
        assert_eq!(ask(&published(3, None), 2), None);
    }
}
