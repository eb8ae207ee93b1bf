//! values.yaml with its comments, and the table of the README: the defaults of the types in their order, beside the types' doc comments.

use std::fmt::Write as _;

use serde_json::Value;

use crate::Error;
use crate::schema::{KUBERNETES, one_line, schema};
use crate::values::Values;

/// Comments are wrapped so that their lines are at most so long.
const WIDTH: usize = 120;

/// One value as it stands in values.yaml.
struct Entry {
    /// The keys from the top.
    path: Vec<String>,
    /// How far it is indented.
    indent: usize,
    /// The line and what belongs to it, such as the lines of a list.
    text: String,
}

/// What the types say about a value.
struct About {
    /// The doc comment.
    sentence: String,
    /// The words that it may be, if there is a list of them.
    words: Vec<String>,
}

/// values.yaml.
///
/// # Errors
/// A value has no doc comment.
pub fn values_yaml() -> Result<String, Error> {
    let schema = schema();
    let mut text = String::from(
        "# The values of the chart halo and their defaults. Generated from the types of charts/src/values; README.md has them as a \
         table.\n",
    );
    for entry in entries()? {
        let Some(about) = about(&schema, &entry.path)? else {
            text.push_str(&entry.text);
            continue;
        };
        if entry.path.len() == 1 {
            text.push('\n');
        }
        let margin = " ".repeat(entry.indent);
        for line in wrap(&about.sentence, WIDTH - entry.indent - 2) {
            let _ = writeln!(text, "{margin}# {line}");
        }
        text.push_str(&entry.text);
    }
    Ok(text)
}

/// The rows of the README's table, one for each value that is not a group of others.
///
/// # Errors
/// A value has no doc comment.
pub fn table() -> Result<String, Error> {
    let schema = schema();
    let mut text = String::new();
    for entry in entries()? {
        let Some(about) = about(&schema, &entry.path)? else {
            continue;
        };
        if entry.path.len() == 1 {
            let _ = write!(
                text,
                "\n### {}\n{}\n\n| value | default | meaning |\n| --- | --- | --- |\n",
                entry.path[0], about.sentence
            );
            continue;
        }
        if is_group(&schema, &entry.path) {
            continue;
        }
        let default = default_of(&entry)?;
        let mut sentence = about.sentence.replace('|', "\\|");
        if !about.words.is_empty() {
            let words: Vec<String> = about.words.iter().map(|word| format!("`{word}`")).collect();
            let _ = write!(sentence, " One of {}.", words.join(", "));
        }
        let _ = writeln!(
            text,
            "| `{}` | `{default}` | {sentence} |",
            entry.path.join(".")
        );
    }
    Ok(text)
}

/// The default as one word.
fn default_of(entry: &Entry) -> Result<String, Error> {
    let mut value = serde_json::to_value(Values::default())?;
    for key in &entry.path {
        value = value.get_mut(key).map(Value::take).unwrap_or_default();
    }
    Ok(value.to_string())
}

/// The lines of the defaults. The serializer keeps the order of the types, so that its lines are read and not a map.
fn entries() -> Result<Vec<Entry>, Error> {
    let yaml = serde_saphyr::to_string(&Values::default())?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    for line in yaml.lines() {
        let rest = line.trim_start();
        let indent = line.len() - rest.len();
        match rest.split_once(':') {
            Some((key, _)) if !rest.starts_with('-') => {
                path.retain(|(depth, _)| *depth < indent);
                path.push((indent, key.trim_matches('"').to_owned()));
                entries.push(Entry {
                    path: path.iter().map(|(_, key)| key.clone()).collect(),
                    indent,
                    text: format!("{line}\n"),
                });
            }
            _ => {
                if let Some(last) = entries.last_mut() {
                    let _ = writeln!(last.text, "{line}");
                }
            }
        }
    }
    Ok(entries)
}

/// The schema of a value, through references. None for a key of a map, which anybody may choose.
fn property<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = schema;
    for key in path {
        at = resolve(schema, at).get("properties")?.get(key)?;
    }
    Some(at)
}

fn resolve<'a>(schema: &'a Value, at: &'a Value) -> &'a Value {
    let name = at.get("$ref").and_then(Value::as_str);
    let definition = name.and_then(|name| schema.pointer(name.trim_start_matches('#')));
    definition.unwrap_or(at)
}

/// Whether the value holds others that have rows of their own.
fn is_group(schema: &Value, path: &[String]) -> bool {
    let Some(at) = property(schema, path) else {
        return false;
    };
    let foreign = at.get("$ref").and_then(Value::as_str);
    !foreign.is_some_and(|name| name.contains(KUBERNETES))
        && resolve(schema, at).get("properties").is_some()
}

fn about(schema: &Value, path: &[String]) -> Result<Option<About>, Error> {
    let Some(at) = property(schema, path) else {
        return Ok(None);
    };
    let Some(sentence) = at.get("description").and_then(Value::as_str) else {
        return Err(Error::Undocumented(path.join(".")));
    };
    let resolved = resolve(schema, at);
    let listed = |key: &str| resolved.get(key).and_then(Value::as_array);
    let words = listed("oneOf").into_iter().flatten();
    let words = words.filter_map(|one| one.get("const").and_then(Value::as_str));
    let more = listed("enum")
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    Ok(Some(About {
        sentence: one_line(sentence),
        words: words.chain(more).map(str::to_owned).collect(),
    }))
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_yaml_is_the_defaults() {
        let read: Values = serde_saphyr::from_str(&values_yaml().unwrap()).unwrap();
        assert_eq!(read, Values::default());
    }

    #[test]
    fn every_value_has_a_sentence_and_a_row() {
        let (yaml, table) = (values_yaml().unwrap(), table().unwrap());
        for (key, row) in [
            (
                "drain_ms: 30000",
                "| `gateway.config.limits.drain_ms` | `30000` | ",
            ),
            ("concurrency: 16", "| `operator.concurrency` | `16` | "),
            ("region: ", "| `aws.region` | `\"\"` | The region"),
        ] {
            assert!(yaml.contains(key), "{key}");
            assert!(table.contains(row), "{row}");
        }
        for line in table.lines().filter(|line| line.starts_with("| `")) {
            let sentence = line.split(" | ").nth(2).unwrap_or_default();
            assert!(sentence.trim_end_matches(" |").ends_with('.'), "{line}");
        }
        assert!(yaml.lines().all(|line| line.len() <= 140));
    }

    #[test]
    fn long_comments_are_wrapped() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
    }
}
