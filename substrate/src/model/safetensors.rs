//! Weights from safetensors files: one file, or shards named by an index.
//!
//! A file is 8 bytes of header length (little-endian), a JSON header with each tensor's type, shape and place, and the
//! data. All headers are read and checked against the configuration before any data is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use super::config::{Config, Planned};
use super::files::{Aligned, HashedFile, file_name};
use super::weights::{Loaded, Stored, Weight, Widen, check_complete, check_shape};
use crate::engine::EngineError;

/// The longest header read, as in the format's own library.
const MAX_HEADER: u64 = 100_000_000;

/// Name of the index of a model in shards.
const INDEX: &str = "model.safetensors.index.json";

/// A tensor as a header describes it.
struct Entry {
    name: String,
    stored: Stored,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

/// A file whose header has been read and checked: its data is next.
struct Shard {
    file: HashedFile,
    /// In the order of their data.
    entries: Vec<Entry>,
}

/// Loads the weights of a folder.
///
/// # Errors
/// A file that cannot be read or is broken, a tensor that is missing, unexpected, of a wrong shape or type. Nothing is
/// loaded then.
pub fn load(
    folder: &Path,
    config: &Config,
    widen: Widen,
    threads: usize,
) -> Result<Loaded, EngineError> {
    let plan = config.tensors();
    let by_name: HashMap<&str, &Planned> = plan
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let (paths, index, mut files) = find_files(folder)?;

    let mut shards = Vec::new();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut stored = BTreeSet::new();
    for path in &paths {
        let mut shard = open_shard(path)?;
        shard
            .entries
            .retain(|entry| !is_ignored(config, &entry.name));
        for entry in &shard.entries {
            let planned =
                by_name
                    .get(entry.name.as_str())
                    .ok_or_else(|| EngineError::UnexpectedTensor {
                        file: path.clone(),
                        tensor: entry.name.clone(),
                    })?;
            check_shape(path, &entry.name, &planned.shape, &entry.shape)?;
            stored.insert(entry.stored);
            if let Some(other) = seen.insert(entry.name.clone(), path.clone()) {
                return Err(EngineError::Format {
                    file: path.clone(),
                    what: format!("tensor {}", entry.name),
                    expected: "one tensor of that name".into(),
                    found: format!("another one in {}", file_name(&other)),
                });
            }
        }
        shards.push(shard);
    }
    for (name, file) in &index {
        if let Some(planned) = by_name.get(name.as_str())
            && seen.get(name).map(|path| file_name(path)).as_ref() != Some(file)
        {
            return Err(EngineError::MissingTensor {
                file: folder.join(file),
                tensor: name.clone(),
                expected: planned.shape.clone(),
            });
        }
    }
    let place = match paths.as_slice() {
        [only] => only.clone(),
        _ => folder.join(INDEX),
    };
    check_complete(&place, &plan, |name| seen.contains_key(name))?;

    let mut tensors = HashMap::with_capacity(plan.len());
    for read in read_all(shards, widen, threads, &by_name) {
        let (name, digest, part) = read?;
        files.push((name, digest));
        tensors.extend(part);
    }
    Ok(Loaded {
        tensors,
        files,
        stored: stored.into_iter().collect(),
        place,
    })
}

/// Tensors that files of this architecture carry and that mean nothing: a copy of the embedding under the head's name,
/// and the table of rotary frequencies of older files.
fn is_ignored(config: &Config, name: &str) -> bool {
    (config.tied && name == "lm_head.weight") || name.ends_with(".rotary_emb.inv_freq")
}

type Files = (
    Vec<PathBuf>,
    BTreeMap<String, String>,
    Vec<(String, [u8; 32])>,
);

/// The weight files of a folder, the index's map from tensor to file, and the digest of the index.
fn find_files(folder: &Path) -> Result<Files, EngineError> {
    let index_path = folder.join(INDEX);
    if !index_path.exists() {
        return Ok((
            vec![folder.join("model.safetensors")],
            BTreeMap::new(),
            Vec::new(),
        ));
    }
    let mut file = HashedFile::open(&index_path)?;
    if file.length() > MAX_HEADER {
        return Err(format_error(
            &index_path,
            "size",
            &format!("at most {MAX_HEADER} bytes"),
            &file.length().to_string(),
        ));
    }
    let mut text = vec![0; usize::try_from(file.length()).unwrap_or(0)];
    file.fill(&mut text, &|| "the index".into())?;
    let digest = file.digest()?;
    let index: Value = serde_json::from_slice(&text).map_err(|error| {
        format_error(&index_path, "content", "a JSON object", &error.to_string())
    })?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| format_error(&index_path, "weight_map", "an object", "none"))?;
    let mut places = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().unwrap_or_default();
        // a plain name: an index must not reach out of its folder
        if shard.is_empty() || Path::new(shard).file_name() != Some(shard.as_ref()) {
            let what = format!("weight_map entry {tensor}");
            return Err(format_error(
                &index_path,
                &what,
                "the name of a file in this folder",
                shard,
            ));
        }
        places.insert(tensor.clone(), shard.to_owned());
    }
    if places.is_empty() {
        return Err(format_error(
            &index_path,
            "weight_map",
            "at least one tensor",
            "none",
        ));
    }
    let shards: BTreeSet<&String> = places.values().collect();
    let paths = shards.into_iter().map(|shard| folder.join(shard)).collect();
    Ok((paths, places, vec![(INDEX.to_owned(), digest)]))
}

fn format_error(file: &Path, what: &str, expected: &str, found: &str) -> EngineError {
    EngineError::Format {
        file: file.into(),
        what: what.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn open_shard(path: &Path) -> Result<Shard, EngineError> {
    let mut file = HashedFile::open(path)?;
    let mut length = [0; 8];
    file.fill(&mut length, &|| "the header's length".into())?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(format_error(
            path,
            "header length",
            &format!("at most {MAX_HEADER} bytes"),
            &length.to_string(),
        ));
    }
    if length > file.remaining() {
        return Err(EngineError::Truncated {
            file: path.into(),
            what: "the header".into(),
            expected: length + 8,
            found: file.length(),
        });
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    file.fill(&mut text, &|| "the header".into())?;
    let header: Header = serde_json::from_slice(&text).map_err(|error| {
        format_error(
            path,
            "header",
            "the description of each tensor",
            &error.to_string(),
        )
    })?;

    let mut entries = Vec::with_capacity(header.0.len());
    for (name, raw) in header.0 {
        let stored = match raw.dtype.as_str() {
            "F32" => Stored::F32,
            "F16" => Stored::F16,
            "BF16" => Stored::BF16,
            _ => {
                return Err(EngineError::TensorType {
                    file: path.into(),
                    tensor: name,
                    expected: "F32, F16 or BF16".into(),
                    found: raw.dtype,
                });
            }
        };
        let [begin, end] = raw.data_offsets;
        let needed = stored.bytes(&raw.shape);
        if needed.is_none() || end.checked_sub(begin) != needed {
            let expected = match needed {
                Some(bytes) => format!("{bytes} bytes for {} {:?}", stored.name(), raw.shape),
                None => format!("fewer values than {:?}", raw.shape),
            };
            return Err(format_error(
                path,
                &format!("tensor {name}: data_offsets"),
                &expected,
                &format!("{begin} to {end}"),
            ));
        }
        entries.push(Entry {
            name,
            stored,
            shape: raw.shape,
            begin,
            end,
        });
    }
    entries.sort_by_key(|entry| (entry.begin, entry.end));
    let mut next = 0;
    for entry in &entries {
        if entry.begin != next {
            let what = format!("tensor {}: data_offsets", entry.name);
            return Err(format_error(
                path,
                &what,
                &format!("data from {next} on"),
                &format!("from {}", entry.begin),
            ));
        }
        next = entry.end;
    }
    let data = file.remaining();
    if next > data {
        let last = entries
            .iter()
            .find(|entry| entry.end > data)
            .map_or("the data", |entry| &entry.name);
        return Err(EngineError::Truncated {
            file: path.into(),
            what: format!("tensor {last}"),
            expected: file.position().saturating_add(next),
            found: file.length(),
        });
    }
    if next < data {
        return Err(format_error(
            path,
            "data",
            &format!("{next} bytes"),
            &format!("{data} bytes"),
        ));
    }
    Ok(Shard { file, entries })
}

type Read = Result<(String, [u8; 32], Vec<(String, Weight)>), EngineError>;

/// Reads the data of all shards, as many at a time as there are threads.
fn read_all(
    shards: Vec<Shard>,
    widen: Widen,
    threads: usize,
    plan: &HashMap<&str, &Planned>,
) -> Vec<Read> {
    let workers = threads.clamp(1, shards.len().max(1));
    let waiting = Mutex::new(shards);
    let next = || {
        waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop()
    };
    std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some(shard) = next() {
                done.push(read_shard(shard, widen, plan));
            }
            done
        };
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

fn read_shard(mut shard: Shard, widen: Widen, plan: &HashMap<&str, &Planned>) -> Read {
    let path = shard.file.path().to_owned();
    let start = shard.file.position();
    let mut tensors = Vec::with_capacity(shard.entries.len());
    for entry in shard.entries {
        shard
            .file
            .skip_to(start + entry.begin, &|| format!("tensor {}", entry.name))?;
        let mut data = Aligned::new(usize::try_from(entry.end - entry.begin).unwrap_or(0));
        shard
            .file
            .fill(data.get_mut(), &|| format!("tensor {}", entry.name))?;
        let exact = plan
            .get(entry.name.as_str())
            .is_some_and(|planned| planned.exact);
        let widen = if exact { Widen::AtLoad } else { widen };
        let weight = Weight::from_bytes(
            &path,
            &entry.name,
            entry.stored,
            &entry.shape,
            data.get(),
            widen,
        )?;
        tensors.push((entry.name, weight));
    }
    Ok((file_name(&path), shard.file.digest()?, tensors))
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A header's tensors; a name that stands twice is an error.
struct Header(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut names = BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!(
                            "{name} stands there twice"
                        )));
                    }
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
