//! From a conversation to the text that the model was trained on: its chat template.
//!
//! Templates are written for Python's Jinja with the settings of Hugging Face transformers: blocks leave no line break
//! and no indentation, Python's string methods work, `raise_exception` refuses, `tojson` writes what `json.dumps` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::engine::EngineError;

/// Instructions that rendering may take: far above what a conversation needs, and a bound for a template that loops.
const FUEL: u64 = 10_000_000;

/// Name under which the template is kept; without a file ending nothing is escaped.
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user".into(),
            content: content.into(),
        }
    }

    /// What the model is told about its part.
    pub fn system(content: impl Into<String>) -> Self {
        Self {
            role: "system".into(),
            content: content.into(),
        }
    }
}

/// A model's chat template.
pub struct ChatTemplate {
    file: PathBuf,
    environment: Environment<'static>,
    /// Variables of every rendering: `bos_token` and the like.
    special: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Looks for a template in a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`.
    /// `None` when there is neither.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that cannot be parsed.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, EngineError> {
        let settings_file = folder.join("tokenizer_config.json");
        let settings = match read_if_there(&settings_file)? {
            None => serde_json::Value::Null,
            Some(text) => serde_json::from_str(&text).map_err(|error| EngineError::Format {
                file: settings_file.clone(),
                what: "content".into(),
                expected: "a JSON object".into(),
                found: error.to_string(),
            })?,
        };
        let special = special_tokens(&settings);
        let jinja_file = folder.join("chat_template.jinja");
        if let Some(source) = read_if_there(&jinja_file)? {
            return Self::new(&jinja_file, source, special).map(Some);
        }
        let source = match settings.get("chat_template") {
            None | Some(serde_json::Value::Null) => return Ok(None),
            Some(serde_json::Value::String(source)) => source.clone(),
            // several by name
            Some(serde_json::Value::Array(list)) => {
                let named = |entry: &&serde_json::Value| {
                    entry.get("name").and_then(|n| n.as_str()) == Some("default")
                };
                match list
                    .iter()
                    .find(named)
                    .and_then(|entry| entry.get("template"))
                    .and_then(|t| t.as_str())
                {
                    Some(source) => source.to_owned(),
                    None => {
                        return Err(no_template(
                            &settings_file,
                            "a list without one named default",
                        ));
                    }
                }
            }
            Some(_) => return Err(no_template(&settings_file, "something else")),
        };
        Self::new(&settings_file, source, special).map(Some)
    }

    /// Parses a template. `special` are variables that it may use; `file` is for errors.
    ///
    /// # Errors
    /// [`EngineError::Template`] when it cannot be parsed.
    pub fn new(
        file: &Path,
        source: String,
        special: Vec<(String, String)>,
    ) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| EngineError::Template {
            file: file.into(),
            message: explain(&error),
        })?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| EngineError::Template {
                file: file.into(),
                message: explain(&error),
            })?;
        Ok(Self {
            file: file.into(),
            environment,
            special,
        })
    }

    /// The text of a conversation, up to where the model's answer begins. `thinking` is what templates know as
    /// `enable_thinking`; `None` leaves it to the template.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template refuses the messages, fails, or does not end.
    pub fn render(
        &self,
        messages: &[Message],
        thinking: Option<bool>,
    ) -> Result<String, EngineError> {
        let failed = |error: Error| EngineError::Template {
            file: self.file.clone(),
            message: explain(&error),
        };
        let mut values: BTreeMap<&str, Value> = self
            .special
            .iter()
            .map(|(name, token)| (name.as_str(), Value::from(token)))
            .collect();
        values.insert("messages", Value::from(Serde(messages)));
        values.insert("add_generation_prompt", Value::from(true));
        values.insert("tools", Value::from(()));
        values.insert("documents", Value::from(()));
        if let Some(thinking) = thinking {
            values.insert("enable_thinking", Value::from(thinking));
        }
        let template = self.environment.get_template(NAME).map_err(failed)?;
        template.render(values).map_err(failed)
    }
}

fn read_if_there(file: &Path) -> Result<Option<String>, EngineError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EngineError::Io {
            file: file.into(),
            error: source,
        }),
    }
}

fn no_template(file: &Path, found: &str) -> EngineError {
    EngineError::Format {
        file: file.into(),
        what: "chat_template".into(),
        expected: "a text, or a list of named texts".into(),
        found: found.into(),
    }
}

/// `bos_token` and the like of a `tokenizer_config.json`: each a text, or an object with a `content`.
fn special_tokens(settings: &serde_json::Value) -> Vec<(String, String)> {
    ["bos_token", "eos_token", "pad_token", "unk_token"]
        .iter()
        .filter_map(|name| {
            let token = settings.get(*name)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some(((*name).to_owned(), text.to_owned()))
        })
        .collect()
}

/// An error with its causes, in one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "tojson of an undefined value",
        ));
    }
    let indent: Option<usize> = options.get("indent")?;
    for ignored in ["ensure_ascii", "sort_keys", "separators"] {
        options.get::<Option<Value>>(ignored)?;
    }
    options.assert_all_used()?;
    let mut text = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut text, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut text,
            PythonSpacing,
        )),
    };
    let failed =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    written.map_err(|error| failed(&error))?;
    let text = String::from_utf8(text).map_err(|error| failed(&error))?;
    Ok(Value::from_safe_string(text))
}

/// Spaces where `json.dumps` writes them: after commas and colons.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
