//! Loading a model, and the reference engine that runs it.

mod attention;
mod experts;
mod fields;
mod files;
mod gguf;
mod gguf_weights;
mod kernels;
mod qwen3moe;
mod safetensors;

pub mod choose;
pub mod config;
pub mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::{Config, token_ids};
use self::files::{HashedFile, digest_of_files, file_name};
pub use self::qwen3moe::ReferenceEngine;
use self::weights::{Loaded, Widen};
use crate::engine::{Engine, EngineError, ModelInfo};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// How a model is to be opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the `tokenizer.json` is, when it is not in the model's folder or beside the GGUF file.
    pub tokenizer: Option<PathBuf>,
    /// A lower limit on the tokens of one generation than the model's own.
    pub context_limit: Option<usize>,
    /// What becomes of 16-bit weights.
    pub widen: Widen,
    /// Files read at once; 0 for as many as the process may run threads.
    pub threads: usize,
}

/// A model with everything that turns text into tokens and back.
pub struct Model {
    /// The engine with the weights.
    pub engine: Arc<dyn Engine>,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
}

/// Opens a Hugging Face folder or a GGUF file.
///
/// # Errors
/// Whatever is wrong with any of the files; nothing is kept then.
pub fn open(path: &Path, options: &Options) -> Result<Model, EngineError> {
    std::fs::metadata(path).map_err(|source| EngineError::Io {
        file: path.into(),
        error: source,
    })?;
    // the small files first: what is wrong with them shows before gigabytes are read
    let place = tokenizer_file(path, options)?;
    let tokenizer = Tokenizer::from_file(&place)?;
    let beside = place.parent().unwrap_or(Path::new("."));
    let template = ChatTemplate::from_folder(if path.is_dir() { path } else { beside })?;
    let (engine, own_template) = load(path, options)?;
    let vocab = engine.info().vocab;
    if tokenizer.vocab() > vocab {
        return Err(EngineError::Format {
            file: place,
            what: "vocabulary".into(),
            expected: format!("at most {vocab} ids, the model's"),
            found: tokenizer.vocab().to_string(),
        });
    }
    let template = match (template, own_template) {
        (Some(template), _) => Some(template),
        (None, Some(source)) => Some(ChatTemplate::new(path, source, Vec::new())?),
        (None, None) => None,
    };
    Ok(Model {
        engine: Arc::new(engine),
        tokenizer: Arc::new(tokenizer),
        template,
    })
}

/// Loads weights alone. The second value is the chat template of a GGUF file.
///
/// # Errors
/// Whatever is wrong with the files; nothing is kept then.
pub fn load(
    path: &Path,
    options: &Options,
) -> Result<(ReferenceEngine, Option<String>), EngineError> {
    let threads = if options.threads == 0 {
        crate::threads::available()
    } else {
        options.threads
    };
    if path.is_dir() {
        let (config, own_files) = folder_config(path)?;
        let mut loaded = safetensors::load(path, &config, options.widen, threads)?;
        loaded.files.extend(own_files);
        let info = info(path, "safetensors", None, &config, &loaded, options)?;
        return Ok((ReferenceEngine::new(config, loaded, info)?, None));
    }
    // anything that is no GGUF file gets that reader's error: what its first bytes are
    let gguf_weights::Model {
        config,
        loaded,
        name,
        chat_template,
    } = gguf_weights::load(path, options.widen)?;
    let info = info(path, "GGUF", name, &config, &loaded, options)?;
    Ok((ReferenceEngine::new(config, loaded, info)?, chat_template))
}

type Digests = Vec<(String, [u8; 32])>;

/// The configuration of a folder, with the stop tokens of `generation_config.json` if that is there, and the digests of
/// the files read.
fn folder_config(folder: &Path) -> Result<(Config, Digests), EngineError> {
    let mut digests = Vec::new();
    let mut read = |name: &str| -> Result<(PathBuf, Vec<u8>), EngineError> {
        let path = folder.join(name);
        let mut file = HashedFile::open(&path)?;
        if file.length() > 1 << 24 {
            let (expected, found) = ("at most 16777216 bytes".into(), file.length().to_string());
            return Err(EngineError::Format {
                file: path,
                what: "size".into(),
                expected,
                found,
            });
        }
        let mut text = vec![0; usize::try_from(file.length()).unwrap_or(0)];
        file.fill(&mut text, &|| "the file".into())?;
        digests.push((name.to_owned(), file.digest()?));
        Ok((path, text))
    };
    let (path, text) = read("config.json")?;
    let mut config = Config::from_json(&path, &text)?;
    if folder.join("generation_config.json").exists() {
        let (path, text) = read("generation_config.json")?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| EngineError::Format {
                file: path.clone(),
                what: "content".into(),
                expected: "a JSON object".into(),
                found: error.to_string(),
            })?;
        config
            .stop_tokens
            .extend(token_ids(json.get("eos_token_id")));
        config.stop_tokens.sort_unstable();
        config.stop_tokens.dedup();
        config.check(&path)?;
    }
    Ok((config, digests))
}

fn info(
    path: &Path,
    format: &str,
    name: Option<String>,
    config: &Config,
    loaded: &Loaded,
    options: &Options,
) -> Result<ModelInfo, EngineError> {
    let context_limit = match options.context_limit {
        None => config.max_positions,
        Some(limit) if (1..=config.max_positions).contains(&limit) => limit,
        Some(limit) => {
            return Err(EngineError::Format {
                file: path.into(),
                what: "context limit asked for".into(),
                expected: format!("1 to {}, the model's own", config.max_positions),
                found: limit.to_string(),
            });
        }
    };
    let types: Vec<&str> = loaded.stored.iter().map(|stored| stored.name()).collect();
    let parameters = config
        .tensors()
        .iter()
        .map(|t| t.shape.iter().map(|n| *n as u64).product::<u64>())
        .sum();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    Ok(ModelInfo {
        name: name.unwrap_or_else(|| file_name(&absolute)),
        format: format!("{format} {}", types.join(", ")),
        layers: config.layers,
        experts: config.experts,
        experts_per_token: config.experts_per_token,
        vocab: config.vocab,
        context_limit,
        parameters,
        weights_digest: digest_of_files(&loaded.files),
        stop_tokens: config.stop_tokens.clone(),
    })
}

/// Where the tokenizer is: as told, else in the folder, else beside the GGUF file.
fn tokenizer_file(path: &Path, options: &Options) -> Result<PathBuf, EngineError> {
    if let Some(file) = &options.tokenizer {
        return Ok(file.clone());
    }
    let folder = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(Path::new("."))
    };
    let file = folder.join("tokenizer.json");
    if file.exists() {
        return Ok(file);
    }
    Err(EngineError::Format {
        file: path.into(),
        what: "tokenizer".into(),
        expected: format!(
            "{}, or another place given with --tokenizer",
            file.display()
        ),
        found: "no such file".into(),
    })
}
