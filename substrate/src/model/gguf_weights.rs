//! Weights from a GGUF file of architecture qwen3moe.
//!
//! A layer's experts are stacked in one tensor of three dimensions. Expert `e` is one run of bytes in it, and becomes a
//! tensor of its own, under the name that the Hugging Face form gives it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::config::Config;
use super::files::{Aligned, HashedFile, file_name};
use super::gguf::{self, Header, Meta};
use super::weights::{Loaded, Stored, Weight, Widen, check_shape};
use crate::engine::EngineError;

/// A loaded file.
pub struct Model {
    /// What its metadata says.
    pub config: Config,
    /// Its weights.
    pub loaded: Loaded,
    /// `general.name`.
    pub name: Option<String>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// A tensor of the file and what it becomes.
struct Target {
    /// Shape in the file.
    shape: Vec<usize>,
    /// Hugging Face name; `{}` stands for the expert's number.
    name: String,
    /// Whether the values must be exact: norms and the router.
    exact: bool,
}

/// Loads a file.
///
/// # Errors
/// A file that cannot be read or is broken, of another architecture, with a tensor that is missing, unexpected, or of a
/// wrong shape or type. Nothing is loaded then.
pub fn load(path: &Path, widen: Widen) -> Result<Model, EngineError> {
    let mut file = HashedFile::open(path)?;
    let header = gguf::read_header(&mut file)?;
    let config = gguf::config(path, &header)?;
    let targets = targets(&config);
    check(path, &header, &targets)?;

    let mut tensors = HashMap::new();
    let mut stored = BTreeSet::new();
    for entry in &header.entries {
        let Some(target) = targets.get(&entry.name) else {
            continue;
        };
        let what = || format!("tensor {}", entry.name);
        file.skip_to(entry.begin, &what)?;
        stored.insert(entry.stored);
        let widen = if target.exact { Widen::AtLoad } else { widen };
        let (parts, shape) = match entry.shape.as_slice() {
            [experts, rows, columns] => (*experts, vec![*rows, *columns]),
            other => (1, other.to_vec()),
        };
        let length = usize::try_from(entry.end - entry.begin).unwrap_or(0) / parts;
        for part in 0..parts {
            let mut data = Aligned::new(length);
            file.fill(data.get_mut(), &what)?;
            let weight =
                Weight::from_bytes(path, &entry.name, entry.stored, &shape, data.get(), widen)?;
            tensors.insert(target.name.replace("{}", &part.to_string()), weight);
        }
    }
    let text = |key: &str| match header.metadata.get(key) {
        Some(Meta::Text(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let (name, chat_template) = (text("general.name"), text("tokenizer.chat_template"));
    let files = vec![(file_name(path), file.digest()?)];
    let loaded = Loaded {
        tensors,
        files,
        stored: stored.into_iter().collect(),
        place: path.into(),
    };
    Ok(Model {
        config,
        loaded,
        name,
        chat_template,
    })
}

/// Every tensor is expected, in its shape; every expected tensor is there.
fn check(
    path: &Path,
    header: &Header,
    targets: &HashMap<String, Target>,
) -> Result<(), EngineError> {
    let mut missing: BTreeSet<&String> = targets.keys().collect();
    for entry in &header.entries {
        let target = targets
            .get(&entry.name)
            .ok_or_else(|| EngineError::UnexpectedTensor {
                file: path.into(),
                tensor: entry.name.clone(),
            })?;
        check_shape(path, &entry.name, &target.shape, &entry.shape)?;
        if target.shape.len() == 1
            && !matches!(entry.stored, Stored::F32 | Stored::F16 | Stored::BF16)
        {
            return Err(EngineError::TensorType {
                file: path.into(),
                tensor: entry.name.clone(),
                expected: "F32, F16 or BF16 for a norm".into(),
                found: entry.stored.name().into(),
            });
        }
        missing.remove(&entry.name);
    }
    match missing.first() {
        None => Ok(()),
        Some(name) => Err(EngineError::MissingTensor {
            file: path.into(),
            tensor: (*name).clone(),
            expected: targets
                .get(*name)
                .map(|target| target.shape.clone())
                .unwrap_or_default(),
        }),
    }
}

/// The tensors of a configuration under their GGUF names.
fn targets(config: &Config) -> HashMap<String, Target> {
    let (hidden, q, kv) = (
        config.hidden,
        config.heads * config.head_dim,
        config.kv_heads * config.head_dim,
    );
    let (experts, inner) = (config.experts, config.expert_ff);
    let mut all = HashMap::new();
    let mut add = |gguf: String, name: String, shape: &[usize], exact: bool| {
        all.insert(
            gguf,
            Target {
                shape: shape.to_vec(),
                name,
                exact,
            },
        );
    };
    add(
        "token_embd.weight".into(),
        "model.embed_tokens.weight".into(),
        &[config.vocab, hidden],
        false,
    );
    add(
        "output_norm.weight".into(),
        "model.norm.weight".into(),
        &[hidden],
        true,
    );
    if !config.tied {
        add(
            "output.weight".into(),
            "lm_head.weight".into(),
            &[config.vocab, hidden],
            false,
        );
    }
    for layer in 0..config.layers {
        let mut add = |gguf: &str, name: &str, shape: &[usize], exact: bool| {
            add(
                format!("blk.{layer}.{gguf}.weight"),
                format!("model.layers.{layer}.{name}.weight"),
                shape,
                exact,
            );
        };
        add("attn_norm", "input_layernorm", &[hidden], true);
        add("ffn_norm", "post_attention_layernorm", &[hidden], true);
        add("attn_q", "self_attn.q_proj", &[q, hidden], false);
        add("attn_k", "self_attn.k_proj", &[kv, hidden], false);
        add("attn_v", "self_attn.v_proj", &[kv, hidden], false);
        add("attn_output", "self_attn.o_proj", &[hidden, q], false);
        add("attn_q_norm", "self_attn.q_norm", &[config.head_dim], true);
        add("attn_k_norm", "self_attn.k_norm", &[config.head_dim], true);
        add("ffn_gate_inp", "mlp.gate", &[experts, hidden], true);
        add(
            "ffn_gate_exps",
            "mlp.experts.{}.gate_proj",
            &[experts, inner, hidden],
            false,
        );
        add(
            "ffn_up_exps",
            "mlp.experts.{}.up_proj",
            &[experts, inner, hidden],
            false,
        );
        add(
            "ffn_down_exps",
            "mlp.experts.{}.down_proj",
            &[experts, hidden, inner],
            false,
        );
    }
    all
}
