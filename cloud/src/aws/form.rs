//! The form that an EC2 Query request is.

use std::fmt::Write as _;

/// Version of the EC2 API that is spoken.
const VERSION: &str = "2016-11-15";

/// Names and values in the order in which they were added. Holds user data, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Form {
    encoded: String,
}

impl Form {
    /// The form of an action.
    pub(super) fn new(action: &'static str) -> Self {
        let mut form = Self {
            encoded: String::with_capacity(256),
        };
        form.add("Action", action);
        form.add("Version", VERSION);
        form
    }

    /// Adds a parameter.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if !self.encoded.is_empty() {
            self.encoded.push('&');
        }
        escape_into(&mut self.encoded, name);
        self.encoded.push('=');
        escape_into(&mut self.encoded, value);
    }

    /// Adds a parameter that prints as it should be sent.
    pub(super) fn add_number(&mut self, name: &str, value: u32) {
        self.add(name, &value.to_string());
    }

    /// Adds a parameter if there is one.
    pub(super) fn add_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// The body to send.
    pub(super) fn into_body(self) -> bytes::Bytes {
        self.encoded.into()
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn escape_into(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

/// A filter's value that matches exactly this text: `*` and `?` would match anything.
pub(super) fn exactly(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes a form as a server does; `None` if it is not one.
    pub(in crate::aws) fn decode(body: &[u8]) -> Option<Vec<(String, String)>> {
        let text = std::str::from_utf8(body).ok()?;
        let unescape = |part: &str| {
            let mut bytes = Vec::new();
            let mut rest = part.bytes();
            while let Some(byte) = rest.next() {
                match byte {
                    b'%' => {
                        let hex = [rest.next()?, rest.next()?];
                        let hex = std::str::from_utf8(&hex).ok()?;
                        bytes.push(u8::from_str_radix(hex, 16).ok()?);
                    }
                    b'+' => bytes.push(b' '),
                    _ => bytes.push(byte),
                }
            }
            String::from_utf8(bytes).ok()
        };
        text.split('&')
            .map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((unescape(name)?, unescape(value)?))
            })
            .collect()
    }

    #[test]
    fn begins_with_action_and_version() {
        let mut form = Form::new("RunInstances");
        form.add("a b", "1+2&3=4/~ü\n");
        form.add_some("no", None);
        form.add_some("yes", Some(""));
        form.add_number("n", 7);
        let body = form.into_body();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "Action=RunInstances&Version=2016-11-15&a%20b=1%2B2%263%3D4%2F~%C3%BC%0A&yes=&n=7"
        );
    }

    #[test]
    fn wildcards_are_escaped() {
        assert_eq!(exactly(r"a*b?c\d"), r"a\*b\?c\\d");
        assert_eq!(exactly("plain/ü"), "plain/ü");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(pairs in proptest::collection::vec((".*", ".*"), 0..8)) {
            let mut form = Form::new("X");
            for (name, value) in &pairs {
                form.add(name, value);
            }
            let body = form.into_body();
            prop_assert!(body.iter().all(|b| b.is_ascii_graphic()));
            let decoded = decode(&body).unwrap();
            prop_assert_eq!(&decoded[2..], &pairs[..]);
        }
    }
}
