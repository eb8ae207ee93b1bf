//! Fetching the emulator into the cache.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::LocalError;

/// The emulator's version, as the pom names it.
pub const VERSION: &str = "2.6.1";

/// What Maven is given.
const POM: &str = include_str!("../pom.xml");

/// The most of Maven's words in an error.
const OUTPUT: usize = 2000;

/// `$XDG_CACHE_HOME/halo/dynamodb-local`, with `~/.cache` for the variable where it is not set.
fn cache() -> Result<PathBuf, LocalError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base.ok_or(LocalError::NoCache)?.join("halo/dynamodb-local"))
}

/// The folder of the emulator's jars. It is fetched if it is not there; who comes while another fetches waits for that one.
pub fn install() -> Result<PathBuf, LocalError> {
    install_in(&cache()?)
}

fn install_in(cache: &Path) -> Result<PathBuf, LocalError> {
    let place = cache.join(VERSION);
    if is_there(&place) {
        return Ok(place.join("lib"));
    }
    let cannot = |what: &str, path: &Path| LocalError::io(format!("{what} {}", path.display()));
    std::fs::create_dir_all(cache).map_err(cannot("making", cache))?;
    let lock = cache.join("lock");
    let held = File::create(&lock).map_err(cannot("making", &lock))?;
    held.lock().map_err(cannot("locking", &lock))?;
    // Whoever held the lock may have fetched it.
    if is_there(&place) {
        return Ok(place.join("lib"));
    }
    let partial = cache.join(format!("{VERSION}.partial"));
    for old in [&place, &partial] {
        match std::fs::remove_dir_all(old) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(cannot("removing", old)(error));
            }
            _ => {}
        }
    }
    std::fs::create_dir(&partial).map_err(cannot("making", &partial))?;
    let pom = partial.join("pom.xml");
    std::fs::write(&pom, POM).map_err(cannot("writing", &pom))?;
    fetch(&partial)?;
    std::fs::rename(&partial, &place).map_err(cannot("making", &place))?;
    Ok(place.join("lib"))
}

/// Whether what is there came from the same pom.
fn is_there(place: &Path) -> bool {
    std::fs::read_to_string(place.join("pom.xml")).is_ok_and(|pom| pom == POM)
}

fn fetch(folder: &Path) -> Result<(), LocalError> {
    let fetched = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "dependency:copy-dependencies"])
        .args(["-DincludeScope=runtime", "-DoutputDirectory=lib"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let output = match fetched {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(LocalError::NoMaven),
        Err(error) => return Err(LocalError::io("starting mvn")(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    let words = [output.stdout, output.stderr].concat();
    Err(LocalError::Fetch {
        status: output.status,
        output: last(&String::from_utf8_lossy(&words)).to_owned(),
    })
}

/// The end of a text, at most [`OUTPUT`] bytes of it.
pub(crate) fn last(text: &str) -> &str {
    let from = text.len().saturating_sub(OUTPUT);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at));
    text[from.unwrap_or(text.len())..].trim()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn the_pom_names_the_version() {
        assert!(POM.contains(&format!("<version>{VERSION}</version>")));
    }

    #[test]
    fn what_came_from_another_pom_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(VERSION);
        std::fs::create_dir(&place).unwrap();
        assert!(!is_there(&place));
        std::fs::write(place.join("pom.xml"), "<project/>").unwrap();
        assert!(!is_there(&place));
        std::fs::write(place.join("pom.xml"), POM).unwrap();
        assert!(is_there(&place));
        assert_eq!(install_in(folder.path()).unwrap(), place.join("lib"));
    }

    #[test]
    fn long_outputs_are_cut_at_their_beginning() {
        assert_eq!(last(" short\n"), "short");
        let long = "é".repeat(OUTPUT);
        assert!(last(&long).len() <= OUTPUT && long.ends_with(last(&long)));
    }
}
