//! JSON for people: keys sorted, short lists on one line.

use serde_json::Value;

/// The text of a vector file.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out.push('\n');
    out
}

fn write(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if items.iter().any(|item| item.is_array() || item.is_object()) => {
            let parts = items.iter().map(|item| (None, item));
            block(out, ['[', ']'], parts, depth);
        }
        Value::Object(members) if !members.is_empty() => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let parts = members.into_iter().map(|(key, value)| (Some(key), value));
            block(out, ['{', '}'], parts, depth);
        }
        flat => out.push_str(&flat.to_string()),
    }
}

fn block<'a>(
    out: &mut String,
    [open, close]: [char; 2],
    parts: impl Iterator<Item = (Option<&'a String>, &'a Value)>,
    depth: usize,
) {
    out.push(open);
    for (at, (key, value)) in parts.enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        out.push_str(&" ".repeat(depth + 1));
        if let Some(key) = key {
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push_str(": ");
        }
        write(out, value, depth + 1);
    }
    out.push('\n');
    out.push_str(&" ".repeat(depth));
    out.push(close);
}
