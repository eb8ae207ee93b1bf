//! Lengths of time as people write them in YAML: `90s`, `15m`, `1h30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time in whole seconds, written as hours, minutes and seconds in this order: `1h30m`, `90s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// Text that is not a [`Period`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPeriod(String);

impl fmt::Display for BadPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a length of time; write one such as 90s, 15m or 1h30m",
            self.0
        )
    }
}

impl std::error::Error for BadPeriod {}

impl Period {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many minutes.
    pub const fn from_minutes(minutes: u64) -> Self {
        Self::from_secs(minutes * 60)
    }

    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        let bad = || BadPeriod(text.to_owned());
        let mut rest = text;
        let mut seconds = 0u64;
        for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((number, after)) = rest.split_once(unit) else {
                continue;
            };
            if number.is_empty() || number.len() > 9 || !number.bytes().all(|b| b.is_ascii_digit())
            {
                return Err(bad());
            }
            let number: u64 = number.parse().map_err(|_| bad())?;
            seconds += number * length;
            rest = after;
        }
        if rest.is_empty() && !text.is_empty() {
            Ok(Self::from_secs(seconds))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if h > 0 {
            write!(f, "{h}h")?;
        }
        if m > 0 {
            write!(f, "{m}m")?;
        }
        if s > 0 || seconds == 0 {
            write!(f, "{s}s")?;
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 24,
            "pattern": "^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("1h30m", 5400),
            ("2h0m1s", 7201),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Period::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "1d",
            "1m1h",
            "-1s",
            "1.5h",
            " 1s",
            "9999999999s",
            "1s1s",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn writes_the_shortest_form() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3600, "1h"), (5430, "1h30m30s")] {
            assert_eq!(Period::from_secs(seconds).to_string(), text);
        }
    }
}
