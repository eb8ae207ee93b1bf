//! Reading the fields of a `config.json`, each with an error that names it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::MAX_COUNT;
use crate::engine::EngineError;

/// Typed access to a configuration's fields.
pub struct Fields<'a> {
    pub file: &'a Path,
    pub json: &'a Value,
}

impl<'a> Fields<'a> {
    fn file(&self) -> PathBuf {
        self.file.into()
    }

    pub fn wrong(&self, field: &str, expected: &str, found: &str) -> EngineError {
        EngineError::Format {
            file: self.file(),
            what: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub fn missing(&self, field: &str, expected: &str) -> EngineError {
        self.wrong(field, expected, "nothing")
    }

    pub fn unsupported(&self, field: &str, expected: &str, found: &str) -> EngineError {
        EngineError::Unsupported {
            file: self.file(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub fn demand(&self, field: &str, expected: &str, found: &str) -> Result<(), EngineError> {
        if found == expected {
            Ok(())
        } else {
            Err(self.unsupported(field, expected, found))
        }
    }

    /// A field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    pub fn optional_text(&self, field: &str) -> Result<Option<&'a str>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| self.wrong(field, "a string", &value.to_string())),
        }
    }

    pub fn text(&self, field: &str) -> Result<&'a str, EngineError> {
        self.optional_text(field)?
            .ok_or_else(|| self.missing(field, "a string"))
    }

    pub fn optional_count(&self, field: &str) -> Result<Option<usize>, EngineError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(count) if (1..=MAX_COUNT).contains(&count) => Ok(usize::try_from(count).ok()),
            _ => Err(self.wrong(
                field,
                &format!("a whole number from 1 to {MAX_COUNT}"),
                &value.to_string(),
            )),
        }
    }

    pub fn count(&self, field: &str) -> Result<usize, EngineError> {
        self.optional_count(field)?
            .ok_or_else(|| self.missing(field, "a count"))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool, EngineError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(field, "true or false", &value.to_string())),
        }
    }

    pub fn number(&self, field: &str) -> Result<Option<f64>, EngineError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| self.wrong(field, "a number", &value.to_string())),
        }
    }

    /// The base of the rotary embedding: `rope_theta` itself, or within `rope_parameters` as transformers 5 writes it.
    /// Any kind of scaling is refused: it changes what the positions mean.
    pub fn rope_theta(&self) -> Result<f64, EngineError> {
        let mut theta = self.number("rope_theta")?;
        for field in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(field) else {
                continue;
            };
            let inner = Fields {
                file: self.file,
                json: value,
            };
            let kind = match inner.optional_text("rope_type")? {
                Some(kind) => kind,
                None => inner.optional_text("type")?.unwrap_or("default"),
            };
            if kind != "default" {
                return Err(self.unsupported(field, "none, or type default", kind));
            }
            if let Some(factor) = inner.number("partial_rotary_factor")?
                && factor != 1.0
            {
                return Err(self.unsupported("partial_rotary_factor", "1", &factor.to_string()));
            }
            theta = theta.or(inner.number("rope_theta")?);
        }
        theta.ok_or_else(|| self.missing("rope_theta", "a number"))
    }
}
