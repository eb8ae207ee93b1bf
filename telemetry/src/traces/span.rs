//! What may leave the program with a span, and what a span becomes.

use std::fmt;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};

/// What values of an attribute look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A UUID.
    Id,
    /// A name: at most [`LONGEST`] letters, digits, or one of `._:/@-`.
    Name,
    /// A whole number.
    Number,
}

/// Fields of spans that are exported, and what they must look like. No other field is; a value of another form is left out.
pub const ATTRIBUTES: [(&str, Form); 17] = [
    ("session", Form::Id),
    ("request", Form::Id),
    ("receipt", Form::Id),
    ("tenant", Form::Name),
    ("substrate", Form::Name),
    ("namespace", Form::Name),
    ("name", Form::Name),
    ("pod", Form::Name),
    ("controller", Form::Name),
    ("operation", Form::Name),
    ("stage", Form::Name),
    ("status", Form::Name),
    ("code", Form::Name),
    ("outcome", Form::Name),
    ("attempt", Form::Number),
    ("tokens", Form::Number),
    ("frames", Form::Number),
];

/// Bytes of the longest name that is exported.
pub const LONGEST: usize = 96;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An id or a name.
    Text(String),
    /// A number.
    Number(i64),
}

/// The attributes of one span, in the order in which they were set first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.0.iter()
    }

    /// The bytes of the request's id.
    pub fn request(&self) -> Option<[u8; 16]> {
        let (_, value) = self.0.iter().find(|(name, _)| *name == "request")?;
        match value {
            Value::Text(text) => id(text),
            Value::Number(_) => None,
        }
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    fn form(field: &Field) -> Option<(&'static str, Form)> {
        let known = |(name, _): &&(&'static str, Form)| *name == field.name();
        ATTRIBUTES.iter().find(known).copied()
    }

    fn text(&mut self, field: &Field, text: &dyn Fn() -> String) {
        let Some((name, form)) = Self::form(field) else {
            return;
        };
        // Only now, as the text of a field that is not on the list is nobody's business.
        let text = text();
        let good = match form {
            Form::Id => id(&text).is_some(),
            Form::Name => is_name(&text),
            Form::Number => return,
        };
        if good {
            self.set(name, Value::Text(text));
        }
    }
}

impl Visit for Attributes {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if let Some((name, Form::Number)) = Self::form(field) {
            self.set(name, Value::Number(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, &|| value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &|| format!("{value:?}"));
    }
}

fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(good)
}

/// The bytes of a UUID in its usual form, `8-4-4-4-12` lower-case digits.
fn id(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let (mut id, mut digits) = ([0; 16], 0);
    for (at, byte) in bytes.iter().enumerate() {
        let digit = match (byte, matches!(at, 8 | 13 | 18 | 23)) {
            (b'-', true) => continue,
            (b'0'..=b'9', false) => byte - b'0',
            (b'a'..=b'f', false) => byte - b'a' + 10,
            _ => return None,
        };
        let whole: &mut u8 = id.get_mut(digits / 2)?;
        *whole = *whole << 4 | digit;
        digits += 1;
    }
    Some(id)
}

/// Names a trace.
pub type TraceId = [u8; 16];
/// Names a span in it.
pub type SpanId = [u8; 8];

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub id: SpanId,
    /// The span around it, of the same trace.
    pub parent: Option<SpanId>,
    /// The span around it, of another trace: a connection's, around that of a request.
    pub link: Option<(TraceId, SpanId)>,
    /// What was done.
    pub name: &'static str,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is known of it.
    pub attributes: Attributes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids() {
        let whole = "df89ef38-9115-49f0-8e2e-cfd0c192e18b";
        assert_eq!(id(whole).map(|id| (id[0], id[15])), Some((0xdf, 0x8b)));
        for wrong in [
            "",
            "df89ef38-9115-49f0-8e2e-cfd0c192e18",
            "df89ef38-9115-49f0-8e2e-cfd0c192e18B",
            "df89ef38x9115-49f0-8e2e-cfd0c192e18b",
            "df89ef38-9115-49f0-8e2e--fd0c192e18b",
            "What is sovereign inference, in one?",
        ] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_not_sentences() {
        assert!(is_name("halo-acme/qwen:8090"));
        let long = "a".repeat(LONGEST + 1);
        for wrong in ["", "two words", "what?", "naïve", &long] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn no_attribute_could_hold_a_text() {
        let mut names: Vec<_> = ATTRIBUTES.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ATTRIBUTES.len(), "one is there twice");
        for text in ["prompt", "text", "answer", "question", "transcript", "key"] {
            assert!(!names.contains(&text), "{text}");
        }
    }
}
