//! The rendered charts.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The objects of one rendered file.
pub struct Rendered {
    /// The name of the file.
    pub name: String,
    /// Its objects.
    pub objects: Vec<Value>,
}

/// Every file of `golden/` that is of the chart `halo`.
pub fn all() -> Vec<Rendered> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let rendered: Vec<Rendered> = files
        .iter()
        .map(|file| Rendered {
            name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
            objects: serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap(),
        })
        .filter(|rendered| rendered.name != "halo-crds")
        .collect();
    assert!(rendered.len() >= 8);
    rendered
}

impl Rendered {
    /// One object; None if it was not rendered.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects
            .iter()
            .find(|one| one["kind"] == kind && one["metadata"]["name"] == name)
    }

    /// The first container of a Deployment.
    pub fn container(&self, deployment: &str) -> &Value {
        let deployment = self.find("Deployment", deployment).unwrap();
        &deployment["spec"]["template"]["spec"]["containers"][0]
    }

    /// Every pod, in templates and of its own.
    pub fn pods(&self) -> Vec<&Value> {
        self.objects
            .iter()
            .filter_map(|one| match one["kind"].as_str() {
                Some("Deployment") => Some(&one["spec"]["template"]["spec"]),
                Some("Pod") => Some(&one["spec"]),
                _ => None,
            })
            .collect()
    }
}

/// The flags of a container.
pub fn arguments(container: &Value) -> Vec<String> {
    let arguments = container["args"].as_array().unwrap().iter();
    arguments
        .map(|one| one.as_str().unwrap().to_owned())
        .collect()
}
