//! The generated files, and where they stand below `charts/`.

use halo_crds::file_name;

use crate::{Error, document, schema};

/// What is written by hand around what is generated; `VERSION` stands for the workspace's version.
const CHART: &str = include_str!("text/halo.yaml");
const CRDS_CHART: &str = include_str!("text/halo-crds.yaml");
const README: &str = include_str!("text/halo.md");
/// The line of the README that the table takes the place of.
const TABLE: &str = "TABLE\n";

/// What operator and gateway may do in the cluster.
const ROLES: [(&str, &str); 2] = [
    ("operator", include_str!("../../operator/rbac.yaml")),
    ("gateway", include_str!("../../gateway/rbac.yaml")),
];

/// Every generated file: its path below `charts/`, and its text.
///
/// # Errors
/// Something cannot be written, or has no doc comment.
pub fn generated() -> Result<Vec<(String, String)>, Error> {
    let version = |text: &str| text.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let mut files = vec![
        ("halo/Chart.yaml".to_owned(), version(CHART)),
        ("halo/values.yaml".to_owned(), document::values_yaml()?),
        (
            "halo/values.schema.json".to_owned(),
            serde_json::to_string_pretty(&schema::schema())? + "\n",
        ),
        (
            "halo/README.md".to_owned(),
            README.replace(TABLE, document::table()?.trim_start()),
        ),
        ("halo-crds/Chart.yaml".to_owned(), version(CRDS_CHART)),
    ];
    for (name, roles) in ROLES {
        files.push((format!("halo/files/rbac/{name}.yaml"), roles.to_owned()));
    }
    for mut definition in halo_crds::all() {
        let name = file_name(&definition);
        let annotations = definition.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".to_owned(), "halo".to_owned());
        // A description speaks of placeholders, which Helm must not take for its own.
        let yaml = halo_crds::yaml(&definition)?.replace("{{", r#"{{ "{{" }}"#);
        files.push((format!("halo-crds/templates/{name}"), yaml));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_files_are_those_that_the_types_make() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (path, text) in generated().unwrap() {
            let committed = std::fs::read_to_string(folder.join(&path)).unwrap_or_default();
            assert!(
                committed == text,
                "charts/{path} is out of date: cargo run -p halo-charts -- --write charts"
            );
        }
    }
}
