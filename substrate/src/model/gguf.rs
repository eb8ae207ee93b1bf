//! A GGUF file's header: its metadata and the place of every tensor. [`super::gguf_weights`] reads the data.
//!
//! The format: magic, version, two counts, the metadata (key, type, value), the tensors (name, dimensions from the
//! innermost, type, offset), and the data at a multiple of the alignment. All numbers are little-endian.

use std::collections::HashMap;
use std::path::Path;

use super::config::{Config, MAX_COUNT, MAX_LAYERS};
use super::files::HashedFile;
use super::weights::Stored;
use crate::engine::EngineError;

const MAGIC: [u8; 4] = *b"GGUF";
/// Arrays may hold arrays; no writer nests them deeper than once.
const MAX_DEPTH: usize = 4;
const MAX_DIMENSIONS: u32 = 4;

/// A metadata value. Arrays are read over: nothing that the engine needs stands in one.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    /// Any whole number that is not negative, and booleans as 0 and 1.
    Unsigned(u64),
    /// A negative whole number.
    Negative(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    Text(String),
    /// An array of this many elements.
    Array(u64),
}

impl std::fmt::Display for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(f),
            Self::Negative(n) => n.fmt(f),
            Self::Float(n) => n.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Array(n) => write!(f, "an array of {n}"),
        }
    }
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub stored: Stored,
    /// First byte, counted from the beginning of the file.
    pub begin: u64,
    /// One past its last byte.
    pub end: u64,
}

/// A header that has been read and whose tensors lie within the file, apart from each other.
pub struct Header {
    /// The metadata by key.
    pub metadata: HashMap<String, Meta>,
    /// The tensors in the order of their data.
    pub entries: Vec<Entry>,
}

/// Reads the header; the file then stands right behind it.
///
/// # Errors
/// Anything but a whole GGUF header of version 2 or 3 with tensors of the types in [`Stored`].
pub fn read_header(file: &mut HashedFile) -> Result<Header, EngineError> {
    let mut reader = Reader { file };
    let magic: [u8; 4] = reader.array("the magic")?;
    if magic != MAGIC {
        return Err(reader.wrong(
            "magic",
            "GGUF",
            &format!("{:?}", String::from_utf8_lossy(&magic)),
        ));
    }
    let version = u32::from_le_bytes(reader.array("the version")?);
    if !(2..=3).contains(&version) {
        return Err(reader.wrong("version", "2 or 3 (little-endian)", &version.to_string()));
    }
    let tensors = reader.count("number of tensors")?;
    let pairs = reader.count("number of metadata entries")?;

    let mut metadata = HashMap::new();
    for number in 0..pairs {
        let key = reader.text(&format!("key of metadata entry {number}"))?;
        let kind = u32::from_le_bytes(reader.array(&key)?);
        let value = reader.value(kind, &key, 0)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(reader.wrong(&key, "one value", "two"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Meta::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
        Some(other) => {
            return Err(reader.wrong("general.alignment", "a power of two", &other.to_string()));
        }
    };

    let mut entries = Vec::new();
    let mut names = std::collections::HashSet::new();
    for number in 0..tensors {
        let entry = reader.tensor(number)?;
        if !names.insert(entry.name.clone()) {
            return Err(reader.wrong(&format!("tensor {}", entry.name), "one of that name", "two"));
        }
        entries.push(entry);
    }
    let start = reader.file.position().next_multiple_of(alignment);
    entries.sort_by_key(|entry| (entry.begin, entry.end));
    let mut free_from = start;
    for entry in &mut entries {
        if !entry.begin.is_multiple_of(alignment) {
            let expected = format!("a multiple of {alignment}");
            return Err(reader.wrong(
                &format!("tensor {}: offset", entry.name),
                &expected,
                &entry.begin.to_string(),
            ));
        }
        let (begin, end) = (entry.begin.checked_add(start), entry.end.checked_add(start));
        let (Some(begin), Some(end)) = (begin, end) else {
            let what = format!("tensor {}: offset", entry.name);
            return Err(reader.wrong(&what, "one within the file", &entry.begin.to_string()));
        };
        (entry.begin, entry.end) = (begin, end);
        if begin < free_from {
            let expected = format!("data from byte {free_from} on");
            return Err(reader.wrong(
                &format!("tensor {}: offset", entry.name),
                &expected,
                &format!("byte {begin}"),
            ));
        }
        if end > reader.file.length() {
            return Err(EngineError::Truncated {
                file: reader.file.path().into(),
                what: format!("tensor {}", entry.name),
                expected: end,
                found: reader.file.length(),
            });
        }
        free_from = end;
    }
    Ok(Header { metadata, entries })
}

/// Reads the pieces of a header.
struct Reader<'a> {
    file: &'a mut HashedFile,
}

impl Reader<'_> {
    fn wrong(&self, what: &str, expected: &str, found: &str) -> EngineError {
        EngineError::Format {
            file: self.file.path().into(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], EngineError> {
        let mut bytes = [0; N];
        self.file.fill(&mut bytes, &|| what.to_owned())?;
        Ok(bytes)
    }

    /// A count of things that take at least one byte each, so that none can be above the bytes that are left.
    fn count(&mut self, what: &str) -> Result<u64, EngineError> {
        let count = u64::from_le_bytes(self.array(what)?);
        let left = self.file.remaining();
        if count > left {
            return Err(self.wrong(
                what,
                &format!("at most {left}, the bytes left"),
                &count.to_string(),
            ));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, EngineError> {
        let length = self.count(&format!("{what}: length"))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.fill(&mut bytes, &|| what.to_owned())?;
        String::from_utf8(bytes).map_err(|_| self.wrong(what, "UTF-8", "other bytes"))
    }

    fn value(&mut self, kind: u32, key: &str, depth: usize) -> Result<Meta, EngineError> {
        let signed = |n: i64| u64::try_from(n).map_or(Meta::Negative(n), Meta::Unsigned);
        Ok(match kind {
            0 => Meta::Unsigned(self.array::<1>(key)?[0].into()),
            1 => signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Meta::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Meta::Unsigned(u32::from_le_bytes(self.array(key)?).into()),
            5 => signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => match self.array::<1>(key)?[0] {
                flag @ (0 | 1) => Meta::Unsigned(flag.into()),
                other => return Err(self.wrong(key, "a boolean, 0 or 1", &other.to_string())),
            },
            8 => Meta::Text(self.text(key)?),
            9 => {
                if depth == MAX_DEPTH {
                    return Err(self.wrong(
                        key,
                        &format!("arrays at most {MAX_DEPTH} deep"),
                        "a deeper one",
                    ));
                }
                let kind = u32::from_le_bytes(self.array(key)?);
                let count = self.count(key)?;
                for _ in 0..count {
                    self.value(kind, key, depth + 1)?;
                }
                Meta::Array(count)
            }
            10 => Meta::Unsigned(u64::from_le_bytes(self.array(key)?)),
            11 => signed(i64::from_le_bytes(self.array(key)?)),
            12 => Meta::Float(f64::from_le_bytes(self.array(key)?)),
            other => {
                return Err(self.wrong(
                    &format!("{key}: type"),
                    "one from 0 to 12",
                    &other.to_string(),
                ));
            }
        })
    }

    /// A tensor's description, with offsets that do not count the header yet.
    fn tensor(&mut self, number: u64) -> Result<Entry, EngineError> {
        let name = self.text(&format!("name of tensor {number}"))?;
        let what = format!("tensor {name}");
        let dimensions = u32::from_le_bytes(self.array(&what)?);
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.wrong(
                &what,
                &format!("1 to {MAX_DIMENSIONS} dimensions"),
                &dimensions.to_string(),
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let extent = u64::from_le_bytes(self.array(&what)?);
            match usize::try_from(extent) {
                Ok(extent) if extent > 0 => shape.insert(0, extent),
                _ => return Err(self.wrong(&what, "dimensions above 0", &extent.to_string())),
            }
        }
        let kind = u32::from_le_bytes(self.array(&what)?);
        let stored = match kind {
            0 => Stored::F32,
            1 => Stored::F16,
            8 => Stored::Q8_0,
            12 => Stored::Q4K,
            14 => Stored::Q6K,
            30 => Stored::BF16,
            _ => {
                return Err(EngineError::TensorType {
                    file: self.file.path().into(),
                    tensor: name,
                    expected: "F32, F16, BF16, Q8_0, Q4_K or Q6_K".into(),
                    found: ggml_type_name(kind),
                });
            }
        };
        let begin = u64::from_le_bytes(self.array(&what)?);
        let Some(end) = stored
            .bytes(&shape)
            .and_then(|bytes| bytes.checked_add(begin))
        else {
            let expected = format!(
                "{} rows of whole blocks of {}",
                stored.name(),
                stored.block()
            );
            return Err(self.wrong(&what, &expected, &format!("shape {shape:?}")));
        };
        Ok(Entry {
            name,
            shape,
            stored,
            begin,
            end,
        })
    }
}

/// The name of a type that is not read here.
fn ggml_type_name(kind: u32) -> String {
    let name = match kind {
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        _ => return format!("type {kind}"),
    };
    name.to_owned()
}

/// The architecture whose keys are read.
const ARCHITECTURE: &str = "qwen3moe";

/// Makes the configuration of a header.
///
/// # Errors
/// Another architecture, a key that is missing or out of range, a setting that the engine does not do.
pub fn config(path: &Path, header: &Header) -> Result<Config, EngineError> {
    let keys = Keys {
        path,
        metadata: &header.metadata,
    };
    match header.metadata.get("general.architecture") {
        Some(Meta::Text(architecture)) if architecture == ARCHITECTURE => {}
        other => {
            let found = other.map_or_else(|| "none".to_owned(), ToString::to_string);
            return Err(keys.unsupported("general.architecture", ARCHITECTURE, &found));
        }
    }
    keys.demand(
        "split.count",
        "1 (one file)",
        &[Meta::Unsigned(0), Meta::Unsigned(1)],
    )?;
    keys.demand(
        "qwen3moe.rope.scaling.type",
        "none",
        &[Meta::Text("none".into())],
    )?;
    keys.demand(
        "qwen3moe.attention.sliding_window",
        "none",
        &[Meta::Unsigned(0)],
    )?;
    keys.demand("qwen3moe.expert_shared_count", "0", &[Meta::Unsigned(0)])?;
    keys.demand(
        "qwen3moe.expert_weights_scale",
        "1",
        &[Meta::Float(0.0), Meta::Float(1.0)],
    )?;
    keys.demand(
        "qwen3moe.expert_gating_func",
        "1 (softmax)",
        &[Meta::Unsigned(0), Meta::Unsigned(1)],
    )?;

    let (hidden, layers) = (keys.count("embedding_length")?, keys.count("block_count")?);
    if layers > MAX_LAYERS {
        return Err(keys.wrong(
            "block_count",
            &format!("at most {MAX_LAYERS}"),
            &layers.to_string(),
        ));
    }
    let heads = keys.count("attention.head_count")?;
    let head_dim = keys
        .optional_count("attention.key_length")?
        .unwrap_or(hidden / heads);
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.optional_count(key)?
            && other != head_dim
        {
            return Err(keys.unsupported(
                key,
                &format!("the key length, {head_dim}"),
                &other.to_string(),
            ));
        }
    }
    let embedding = header
        .entries
        .iter()
        .find(|entry| entry.name == "token_embd.weight");
    let vocab = match (
        embedding.and_then(|entry| entry.shape.first()),
        keys.optional_count("vocab_size")?,
    ) {
        (_, Some(vocab)) => vocab,
        (Some(&rows), None) => rows,
        (None, None) => {
            return Err(keys.wrong("vocab_size", "a count", "nothing, and no token_embd.weight"));
        }
    };
    let stop = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    let mut stop_tokens: Vec<u32> = stop
        .iter()
        .filter_map(|key| match header.metadata.get(*key) {
            Some(Meta::Unsigned(id)) => u32::try_from(*id).ok(),
            _ => None,
        })
        .collect();
    stop_tokens.sort_unstable();
    stop_tokens.dedup();
    let config = Config {
        hidden,
        layers,
        heads,
        kv_heads: keys
            .optional_count("attention.head_count_kv")?
            .unwrap_or(heads),
        head_dim,
        vocab,
        experts: keys.count("expert_count")?,
        experts_per_token: keys.count("expert_used_count")?,
        expert_ff: keys.count("expert_feed_forward_length")?,
        dense_ff: 1,
        dense: vec![false; layers],
        norm_topk_prob: !matches!(
            header.metadata.get("qwen3moe.expert_weights_norm"),
            Some(Meta::Unsigned(0))
        ),
        attention_bias: false,
        tied: !header
            .entries
            .iter()
            .any(|entry| entry.name == "output.weight"),
        rope_theta: keys.number("rope.freq_base", 10_000.0)?,
        rms_eps: keys.number("attention.layer_norm_rms_epsilon", f64::NAN)?,
        max_positions: keys.count("context_length")?,
        stop_tokens,
    };
    config.check(path)?;
    Ok(config)
}

/// Typed access to the metadata of the architecture.
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a HashMap<String, Meta>,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: &str, found: &str) -> EngineError {
        EngineError::Format {
            file: self.path.into(),
            what: format!("{ARCHITECTURE}.{key}"),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn unsupported(&self, key: &str, expected: &str, found: &str) -> EngineError {
        EngineError::Unsupported {
            file: self.path.into(),
            field: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn get(&self, key: &str) -> Option<&Meta> {
        self.metadata.get(&format!("{ARCHITECTURE}.{key}"))
    }

    /// Refuses a key that is there with a value other than these.
    fn demand(&self, key: &str, expected: &str, allowed: &[Meta]) -> Result<(), EngineError> {
        match self.metadata.get(key) {
            Some(value) if !allowed.contains(value) => {
                Err(self.unsupported(key, expected, &value.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, EngineError> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::Unsigned(n)) if (1..=MAX_COUNT).contains(n) => Ok(usize::try_from(*n).ok()),
            Some(other) => Err(self.wrong(
                key,
                &format!("a whole number from 1 to {MAX_COUNT}"),
                &other.to_string(),
            )),
        }
    }

    fn count(&self, key: &str) -> Result<usize, EngineError> {
        self.optional_count(key)?
            .ok_or_else(|| self.wrong(key, "a count", "nothing"))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, EngineError> {
        match self.get(key) {
            None => Ok(default),
            Some(Meta::Float(number)) => Ok(*number),
            Some(other) => Err(self.wrong(key, "a floating point number", &other.to_string())),
        }
    }
}
