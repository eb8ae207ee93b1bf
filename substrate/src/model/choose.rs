//! Which file of a folder is the model, and whether it is the one that was meant.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use halo_receipts::ids::Hash;

use super::files::file_name;
use crate::engine::EngineError;

/// The model at `path`: a GGUF file, a Hugging Face folder, or the one GGUF file of a folder that carries `quantisation` in its name, or
/// that is alone there.
///
/// # Errors
/// No file or several carry the name; the error lists what is there.
pub fn choose(path: &Path, quantisation: Option<&str>) -> Result<PathBuf, EngineError> {
    if !path.is_dir() {
        return match quantisation.filter(|wanted| !carries(&file_name(path), wanted)) {
            Some(wanted) => Err(refused(path, wanted, file_name(path))),
            None => Ok(path.into()),
        };
    }
    let mut files = gguf_files(path)?;
    let Some(wanted) = quantisation else {
        return match (path.join("config.json").exists(), files.len()) {
            (false, 1) => Ok(path.join(files.swap_remove(0))),
            (false, 2..) => Err(EngineError::Format {
                file: path.into(),
                what: "model".into(),
                expected: "one GGUF file, or --quantisation to choose one".into(),
                found: files.join(", "),
            }),
            // A Hugging Face folder, or one whose own reader says what is missing.
            _ => Ok(path.into()),
        };
    };
    let mut matching: Vec<&String> = files.iter().filter(|name| carries(name, wanted)).collect();
    match (matching.pop(), matching.is_empty()) {
        (Some(name), true) => Ok(path.join(name)),
        _ if files.is_empty() => Err(refused(path, wanted, "no GGUF file".into())),
        _ => Err(refused(path, wanted, files.join(", "))),
    }
}

fn refused(path: &Path, wanted: &str, found: String) -> EngineError {
    EngineError::Format {
        file: path.into(),
        what: "quantisation".into(),
        expected: format!("one GGUF file with {wanted} in its name"),
        found,
    }
}

/// Names of the GGUF files of a folder, sorted.
fn gguf_files(folder: &Path) -> Result<Vec<String>, EngineError> {
    let failed = |error| EngineError::Io {
        file: folder.into(),
        error,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_gguf = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if is_gguf && path.is_file() {
            names.push(file_name(&path));
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file's name carries the name of a quantisation as a word of its own: `Q4_K` is not in `model-Q4_K_M.gguf`.
fn carries(name: &str, wanted: &str) -> bool {
    let (name, wanted) = (name.to_ascii_uppercase(), wanted.to_ascii_uppercase());
    let part_of_word =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    !wanted.is_empty()
        && name.match_indices(&wanted).any(|(at, found)| {
            let bytes = name.as_bytes();
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !part_of_word(before) && !part_of_word(bytes.get(at + found.len()))
        })
}

/// The digest of a model as receipts carry it, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelDigest(pub Hash);

/// Text that is not a [`ModelDigest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a model's digest is sha256: and 64 lower-case hexadecimal digits")]
pub struct BadDigest;

impl FromStr for ModelDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let digits = text.strip_prefix("sha256:").ok_or(BadDigest)?;
        digits.parse().map(Self).map_err(|_| BadDigest)
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), b"").unwrap();
        }
        folder
    }

    #[test]
    fn the_one_file_that_carries_the_name_is_taken() {
        let three = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.bf16.GGUF", "Q8_0.txt"];
        let found = |files: &[&str], wanted: Option<&str>| {
            let folder = folder(files);
            let chosen = choose(folder.path(), wanted).map_err(|error| error.to_string())?;
            let name = chosen.strip_prefix(folder.path()).unwrap();
            Ok::<_, String>(name.display().to_string())
        };
        let taken = |text: &str| Ok(text.to_owned());
        assert_eq!(found(&three, Some("Q4_K_M")), taken("m-Q4_K_M.gguf"));
        assert_eq!(found(&three, Some("q4_k_s")), taken("m-Q4_K_S.gguf"));
        assert_eq!(found(&three, Some("BF16")), taken("m.bf16.GGUF"));
        // alone there, and a Hugging Face folder
        assert_eq!(
            found(&["m-Q8_0.gguf", "README"], None),
            taken("m-Q8_0.gguf")
        );
        assert_eq!(found(&["m-Q8_0.gguf", "config.json"], None), taken(""));
        assert_eq!(found(&[], None), taken(""));
        for (files, wanted, said) in [
            (
                &three[..],
                Some("Q4_K"),
                "m-Q4_K_M.gguf, m-Q4_K_S.gguf, m.bf16.GGUF",
            ),
            (&three, Some("Q8_0"), "one GGUF file with Q8_0 in its name"),
            (&three, Some(""), "m-Q4_K_M.gguf"),
            (&three, None, "--quantisation to choose one"),
            (
                &["a-Q8_0.gguf", "b-Q8_0.gguf"],
                Some("Q8_0"),
                "a-Q8_0.gguf, b-Q8_0.gguf",
            ),
            (&["config.json"], Some("Q8_0"), "no GGUF file"),
        ] {
            let error = found(files, wanted).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_carry_the_name_too() {
        let folder = folder(&["m-Q8_0.gguf"]);
        let file = folder.path().join("m-Q8_0.gguf");
        assert_eq!(choose(&file, None).unwrap(), file);
        assert_eq!(choose(&file, Some("Q8_0")).unwrap(), file);
        let error = choose(&file, Some("Q4_0")).unwrap_err().to_string();
        assert!(error.contains("found m-Q8_0.gguf"), "{error}");
    }

    #[test]
    fn digests_are_strict() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<ModelDigest>().unwrap().to_string(), text);
        for bad in [&text[7..], &text[..70], &text.to_uppercase(), ""] {
            assert_eq!(bad.parse::<ModelDigest>(), Err(BadDigest), "{bad}");
        }
    }
}
