//! The form of an EC2 Query request: `application/x-www-form-urlencoded` pairs whose names spell lists and structures,
//! such as `Filter.1.Value.2`.

use std::collections::BTreeMap;

/// The most pairs of one form.
const MAX_PAIRS: usize = 10_000;

/// Why bytes are not a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A `%` without two hexadecimal digits.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    Percent,
    /// The decoded bytes are not UTF-8.
    #[error("a name or value is not UTF-8")]
    Utf8,
    /// One name twice.
    #[error("a parameter is given twice")]
    Twice,
    /// More than 10,000 pairs.
    #[error("more than {MAX_PAIRS} parameters")]
    TooMany,
}

/// Decoded pairs, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    pairs: BTreeMap<String, String>,
}

impl Form {
    /// Decodes a request body or a query string.
    ///
    /// # Errors
    /// See [`FormError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormError> {
        let mut pairs = BTreeMap::new();
        for part in bytes.split(|byte| *byte == b'&') {
            if part.is_empty() {
                continue;
            }
            let (name, value) = match part.iter().position(|byte| *byte == b'=') {
                Some(at) => (&part[..at], &part[at + 1..]),
                None => (part, &part[part.len()..]),
            };
            if pairs.insert(decode(name)?, decode(value)?).is_some() {
                return Err(FormError::Twice);
            }
            if pairs.len() > MAX_PAIRS {
                return Err(FormError::TooMany);
            }
        }
        Ok(Self { pairs })
    }

    /// A form of these pairs; the last of one name wins.
    pub fn of<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self {
            pairs: pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }

    /// The bytes that [`Form::parse`] reads this form from.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.pairs {
            if !out.is_empty() {
                out.push('&');
            }
            percent_encode(name, &mut out);
            out.push('=');
            percent_encode(value, &mut out);
        }
        out
    }

    /// All pairs, sorted by name.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.pairs
    }

    /// One value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.get(name).map(String::as_str)
    }

    /// The values of `PREFIX.1`, `PREFIX.2`, ... in the order of their numbers.
    pub fn list<'a>(&'a self, prefix: &str) -> Vec<&'a str> {
        let mut found: Vec<(u64, &'a str)> = self
            .under(prefix)
            .filter_map(|(rest, value)| Some((rest.parse().ok()?, value)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The structures `PREFIX.1.x`, `PREFIX.2.x`, ... in the order of their numbers.
    pub fn structures(&self, prefix: &str) -> Vec<Self> {
        let mut found: BTreeMap<u64, Self> = BTreeMap::new();
        for (rest, value) in self.under(prefix) {
            if let Some((number, name)) = rest.split_once('.')
                && let Ok(number) = number.parse()
            {
                let form = found.entry(number).or_default();
                form.pairs.insert(name.to_owned(), value.to_owned());
            }
        }
        found.into_values().collect()
    }

    /// The structure `PREFIX.x`; empty if there is none.
    pub fn structure(&self, prefix: &str) -> Self {
        Self::of(self.under(prefix))
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn under<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let prefix = format!("{prefix}.");
        self.pairs
            .range(prefix.clone()..)
            .map_while(move |(name, value)| Some((name.strip_prefix(&prefix)?, value.as_str())))
    }
}

fn decode(bytes: &[u8]) -> Result<String, FormError> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    rest.next()
                        .and_then(|byte| char::from(*byte).to_digit(16))
                        .and_then(|digit| u8::try_from(digit).ok())
                        .ok_or(FormError::Percent)
                };
                let high = digit()?;
                high << 4 | digit()?
            }
            other => *other,
        });
    }
    String::from_utf8(out).map_err(|_| FormError::Utf8)
}

/// Percent-encodes all but the unreserved characters of RFC 3986, as signatures do.
pub fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}
