//! Filters and pages of Describe calls.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::form::Form;
use crate::xml::{Element, text};

use super::error::ApiError;
use super::query;
use super::state::Tags;

/// One filter: a field, and patterns of which one must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The field.
    pub name: String,
    /// With `*` for any characters, `?` for one, `\` before a literal one.
    pub values: Vec<String>,
}

/// What a field of a thing is: its values, or that there is no such field.
pub type Field = Option<Vec<String>>;

/// One value.
pub fn one(value: impl Into<String>) -> Field {
    Some(vec![value.into()])
}

/// `tag:KEY`, `tag-key` and `tag-value`.
pub fn tag_field(tags: &Tags, name: &str) -> Field {
    match name {
        "tag-key" => Some(tags.keys().cloned().collect()),
        "tag-value" => Some(tags.values().cloned().collect()),
        _ => {
            let key = name.strip_prefix("tag:")?;
            Some(tags.get(key).cloned().into_iter().collect())
        }
    }
}

/// The filters of a request.
///
/// # Errors
/// A filter without a name or without values.
pub fn filters(form: &Form) -> Result<Vec<Filter>, ApiError> {
    form.structures("Filter")
        .into_iter()
        .map(|filter| {
            let name = query::required(&filter, "Name")?.to_owned();
            let values: Vec<String> = filter
                .list("Value")
                .into_iter()
                .map(str::to_owned)
                .collect();
            if values.is_empty() {
                return Err(ApiError::value(format!(
                    "The filter '{name}' must have values"
                )));
            }
            if values.len() > 200 {
                return Err(ApiError::bad(
                    "FilterLimitExceeded",
                    "The maximum number of filter values specified on a single call is 200",
                ));
            }
            Ok(Filter { name, values })
        })
        .collect()
}

/// Whether a thing passes all filters.
///
/// # Errors
/// `InvalidParameterValue` for a field that such things do not have.
pub fn passes(filters: &[Filter], field: impl Fn(&str) -> Field) -> Result<bool, ApiError> {
    let mut passed = true;
    // All of them, so that an unknown field is always found.
    for filter in filters {
        let Some(values) = field(&filter.name) else {
            return Err(unknown(&filter.name));
        };
        passed &= values
            .iter()
            .any(|value| filter.values.iter().any(|pattern| wildcard(pattern, value)));
    }
    Ok(passed)
}

/// Refuses unknown fields also where there is nothing to look at.
///
/// # Errors
/// `InvalidParameterValue`.
pub fn check_names(filters: &[Filter], names: &[&str]) -> Result<(), ApiError> {
    for filter in filters {
        let tag = filter.name.starts_with("tag:") && names.contains(&"tag-key");
        if !tag && !names.contains(&filter.name.as_str()) {
            return Err(unknown(&filter.name));
        }
    }
    Ok(())
}

fn unknown(name: &str) -> ApiError {
    ApiError::value(format!("The filter '{name}' is invalid"))
}

/// Whether a value matches a pattern with `*`, `?` and `\`.
pub fn wildcard(pattern: &str, value: &str) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Part {
        Any,
        One,
        Literal(char),
    }
    let mut parts = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Literal(characters.next().unwrap_or('\\')),
            other => Part::Literal(other),
        });
    }
    let value: Vec<char> = value.chars().collect();
    // Where to go back to: after the last `*`, with one more character given to it.
    let (mut part, mut at, mut back) = (0, 0, None);
    while at < value.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                back = Some((part + 1, at));
                part += 1;
            }
            Some(Part::One) => {
                part += 1;
                at += 1;
            }
            Some(Part::Literal(wanted)) if *wanted == value[at] => {
                part += 1;
                at += 1;
            }
            _ => match back {
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    part = after;
                    at = from + 1;
                }
                None => return false,
            },
        }
    }
    parts[part..].iter().all(|rest| *rest == Part::Any)
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    after: Option<String>,
    size: Option<usize>,
}

impl Page {
    /// Reads `MaxResults` and `NextToken`; `ids` says whether the caller named things one by one, which excludes pages.
    ///
    /// # Errors
    /// A size out of bounds, a token that was never given out, or ids with a page size.
    pub fn read(
        form: &Form,
        bounds: std::ops::RangeInclusive<u32>,
        ids: bool,
        largest: Option<usize>,
    ) -> Result<Self, ApiError> {
        let asked = query::number(form, "MaxResults")?;
        if let Some(asked) = asked {
            if ids {
                return Err(ApiError::bad(
                    "InvalidParameterCombination",
                    "The parameter maxResults cannot be used together with a list of ids",
                ));
            }
            if !bounds.contains(&asked) {
                return Err(ApiError::value(format!(
                    "Value ( {asked} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                    bounds.start(),
                    bounds.end()
                )));
            }
        }
        let after = form
            .get("NextToken")
            .filter(|token| !token.is_empty())
            .map(|token| {
                STANDARD
                    .decode(token)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .and_then(|text| text.strip_prefix("after:").map(str::to_owned))
                    .ok_or_else(|| {
                        ApiError::bad("InvalidNextToken", "The token provided is not valid")
                    })
            })
            .transpose()?;
        let size = match (asked.map(|asked| asked as usize), largest) {
            (Some(asked), Some(largest)) => Some(asked.min(largest)),
            (asked, largest) => asked.or(largest),
        };
        Ok(Self {
            after,
            // What was named one by one comes back whole.
            size: if ids {
                None
            } else {
                size.map(|size| size.max(1))
            },
        })
    }

    /// The page of a list that is sorted by key, and the `nextToken` that follows it.
    pub fn cut<T>(self, mut sorted: Vec<(String, T)>) -> (Vec<T>, Option<Element>) {
        if let Some(after) = &self.after {
            sorted.retain(|(key, _)| key > after);
        }
        let more = self.size.is_some_and(|size| sorted.len() > size);
        if let Some(size) = self.size {
            sorted.truncate(size);
        }
        let token = sorted
            .last()
            .filter(|_| more)
            .map(|(key, _)| text("nextToken", STANDARD.encode(format!("after:{key}"))));
        (sorted.into_iter().map(|(_, thing)| thing).collect(), token)
    }
}
