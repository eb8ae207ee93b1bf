//! The alerts: files of Prometheus' rule groups.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::ReferenceError;

/// Alerts and recorded expressions that are evaluated together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How often it is evaluated, if not as often as the rest.
    pub interval: Option<String>,
    /// Its rules, in the order in which they are evaluated.
    pub rules: Vec<Rule>,
}

/// An alert, or an expression that is recorded under a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The name of an alert.
    pub alert: Option<String>,
    /// The name of what is recorded.
    pub record: Option<String>,
    /// PromQL.
    pub expr: String,
    /// How long it must hold before the alert fires.
    #[serde(rename = "for")]
    pub pending: Option<String>,
    /// How long it fires after it held last.
    pub keep_firing_for: Option<String>,
    /// Labels that are added.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is said with the alert.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    groups: Vec<Group>,
}

/// All groups of a folder, by the names of its files.
///
/// # Errors
/// A file cannot be read or does not parse.
pub fn read(folder: &Path) -> Result<Vec<Group>, ReferenceError> {
    let files: Vec<File> = super::read(folder)?;
    Ok(files.into_iter().flat_map(|file| file.groups).collect())
}
