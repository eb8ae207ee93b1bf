//! Points in time as receipts write them, and the UTC month that picks a key.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Epoch, string_serde};

const MICROS_PER_SECOND: u64 = 1_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// 9999-12-31T23:59:59.999999Z, the last time that has four digits for its year.
const LAST_MICROS: u64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

/// Why a time was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2026-01-31T12:00:00.000000Z, with six digits of fraction")]
pub struct TimeError;

/// Microseconds since 1970-01-01T00:00:00Z, leap seconds not counted; before the year 10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999999Z, the last time that can be written.
    pub const LAST: Timestamp = Timestamp(LAST_MICROS);

    /// The time `micros` microseconds after 1970-01-01T00:00:00Z; `None` from the year 10000 on.
    pub const fn from_micros(micros: u64) -> Option<Self> {
        if micros <= LAST_MICROS {
            Some(Self(micros))
        } else {
            None
        }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub const fn seconds(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    /// Writes the 27 characters `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    pub fn encode(self) -> [u8; 27] {
        let (day, second_of_day) = (
            self.seconds() / SECONDS_PER_DAY,
            self.seconds() % SECONDS_PER_DAY,
        );
        let (year, month, day) = civil_from_days(day);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |at: usize, width: usize, mut value: u64| {
            for place in text[at..at + width].iter_mut().rev() {
                *place = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, month);
        put(8, 2, day);
        put(11, 2, second_of_day / 3600);
        put(14, 2, second_of_day / 60 % 60);
        put(17, 2, second_of_day % 60);
        put(20, 6, self.0 % MICROS_PER_SECOND);
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let bytes = text.as_bytes();
        if bytes.len() != 27 {
            return Err(TimeError);
        }
        let number = |at: usize, width: usize| {
            bytes[at..at + width].iter().try_fold(0u64, |sum, &b| {
                if b.is_ascii_digit() {
                    Ok(sum * 10 + u64::from(b - b'0'))
                } else {
                    Err(TimeError)
                }
            })
        };
        let days = days_from_civil(number(0, 4)?, number(5, 2)?, number(8, 2)?).ok_or(TimeError)?;
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
        let time = Self(seconds * MICROS_PER_SECOND + number(20, 6)?);
        // The separators, and fields such as hour 24 or 30 February, are refused by writing the time again.
        if time.encode() == bytes {
            Ok(time)
        } else {
            Err(TimeError)
        }
    }
}
string_serde!(Timestamp);

/// A UTC month, `YYYY-MM`: the part of a tenant's key that changes with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyMonth([u8; 7]);

impl KeyMonth {
    /// The month in which `epoch` began.
    pub fn of(epoch: Epoch) -> Self {
        let (year, month, _) = civil_from_days(u64::from(epoch.0) / SECONDS_PER_DAY);
        let digit = |value: u64| b'0' + (value % 10) as u8;
        Self([
            digit(year / 1000),
            digit(year / 100),
            digit(year / 10),
            digit(year),
            b'-',
            digit(month / 10),
            digit(month),
        ])
    }

    /// The seven ASCII bytes.
    pub fn as_bytes(&self) -> &[u8; 7] {
        &self.0
    }
}

impl fmt::Display for KeyMonth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for KeyMonth {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        format!("{text}-01T00:00:00.000000Z").parse::<Timestamp>()?;
        text.as_bytes().try_into().map(Self).map_err(|_| TimeError)
    }
}
string_serde!(KeyMonth);

/// Year, month and day of the proleptic Gregorian calendar for a number of days since 1970-01-01
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`]; `None` before 1970 and for a month or day out of range.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_700_000_000_123_456, "2023-11-14T22:13:20.123456Z"),
            (LAST_MICROS, "9999-12-31T23:59:59.999999Z"),
        ] {
            let time = Timestamp::from_micros(micros).unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        assert_eq!(Timestamp::from_micros(LAST_MICROS + 1), None);
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:20.123Z",
            "2023-11-14 22:13:20.123456Z",
            "2023-11-14T22:13:20.123456z",
            "2023-11-14T24:00:00.000000Z",
            "2023-02-29T00:00:00.000000Z",
            "2023-13-01T00:00:00.000000Z",
            "1969-12-31T23:59:59.999999Z",
            "2023-11-14T22:13:60.000000Z",
            "2023-11-14T22:13:20.+23456Z",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(TimeError), "{bad}");
        }
    }

    #[test]
    fn months_follow_the_epoch() {
        assert_eq!(KeyMonth::of(Epoch(1_706_745_599)).to_string(), "2024-01");
        assert_eq!(KeyMonth::of(Epoch(1_706_745_600)).to_string(), "2024-02");
        assert_eq!("2024-02".parse(), Ok(KeyMonth::of(Epoch(1_706_745_600))));
        for bad in ["2024-13", "2024-2", "24-02", "2024-02-01"] {
            assert!(bad.parse::<KeyMonth>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn written_times_read_back(micros in 0..=LAST_MICROS) {
            let time = Timestamp::from_micros(micros).unwrap();
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
