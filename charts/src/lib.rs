//! The values of the Helm charts, and everything in `charts/` that is generated: values.yaml, values.schema.json, READMEs, Chart.yaml,
//! the definitions as templates, and the roles. Templates are written by hand.

pub mod document;
pub mod files;
pub mod schema;
pub mod values;

/// Why something cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value cannot be written as YAML.
    #[error("the values cannot be written as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
    /// A value cannot be written as JSON.
    #[error("the values cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A value without a doc comment.
    #[error("the value {0} has no doc comment: every value has a sentence")]
    Undocumented(String),
}
