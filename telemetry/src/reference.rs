//! What is made from the list of metrics and checked against it: the pages of `docs/`, the dashboards and the alerts.

pub mod catalogue;
pub mod dashboard;
pub mod pages;
pub mod promql;
pub mod rules;

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use self::dashboard::Dashboard;

/// Where the alerts lie in the repository.
pub const RULES: &str = "charts/halo/files/rules";
/// Where the tables of the dashboards lie.
pub const PANELS: &str = "telemetry/dashboards";
/// Where the dashboards lie.
pub const DASHBOARDS: &str = "charts/halo/files/dashboards";

/// Why the reference cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A file of the repository.
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    /// A file of rules or panels does not parse.
    #[error("{0}: {1}")]
    Yaml(PathBuf, String),
}

/// The files that are generated: their path in the repository at `root`, and what they hold.
///
/// # Errors
/// A file of rules or panels cannot be read.
pub fn files(root: &Path) -> Result<Vec<(PathBuf, String)>, ReferenceError> {
    let groups = rules::read(&root.join(RULES))?;
    let mut files = vec![
        (PathBuf::from("docs/metrics.md"), pages::metrics(&groups)),
        (PathBuf::from("docs/alerts.md"), pages::alerts(&groups)),
    ];
    for board in read::<Dashboard>(&root.join(PANELS))? {
        let path = Path::new(DASHBOARDS).join(format!("{}.json", board.uid));
        files.push((path, board.json(&groups)));
    }
    Ok(files)
}

/// The YAML files of a folder, in the order of their names.
///
/// # Errors
/// A file cannot be read or does not parse.
pub fn read<T: DeserializeOwned>(folder: &Path) -> Result<Vec<T>, ReferenceError> {
    let failed = |error| ReferenceError::File(folder.to_owned(), error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|kind| kind == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    let parse = |path: PathBuf| {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ReferenceError::File(path.clone(), error))?;
        serde_saphyr::from_str(&text).map_err(|error| ReferenceError::Yaml(path, error.to_string()))
    };
    paths.into_iter().map(parse).collect()
}
