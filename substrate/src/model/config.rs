//! What a Qwen3-MoE model is made of: its dimensions, and from them the name and shape of every tensor.
//!
//! The same description comes from a `config.json` (here) or from a GGUF file's metadata ([`super::gguf`]); loaders
//! check files against it before a weight is read.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::fields::Fields;
use crate::engine::EngineError;

/// No count in a configuration may be above this, so that products of two fit anywhere.
pub(crate) const MAX_COUNT: u64 = 1 << 24;
/// No more layers, and no more experts in one, than this: many times what there is, and a bound on the list of tensors.
pub(crate) const MAX_LAYERS: usize = 1024;
pub(crate) const MAX_EXPERTS: usize = 1024;

/// The dimensions and switches of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Experts in a layer.
    pub experts: usize,
    /// Experts that a token chooses.
    pub experts_per_token: usize,
    /// Inner width of one expert.
    pub expert_ff: usize,
    /// Inner width of the feed-forward block of a layer without experts.
    pub dense_ff: usize,
    /// For each layer, whether it has one dense feed-forward block in place of experts.
    pub dense: Vec<bool>,
    /// Whether the chosen experts' weights are scaled to sum to 1.
    pub norm_topk_prob: bool,
    /// Whether the four projections of attention have a bias.
    pub attention_bias: bool,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Added to the mean square in every norm.
    pub rms_eps: f64,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Ids that end an answer.
    pub stop_tokens: Vec<u32>,
}

/// One tensor that a configuration calls for, under its Hugging Face name. Shapes are `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Whether it stays exact (F32) whatever the file stores: norms, biases, routers.
    pub exact: bool,
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// When it cannot be read, is of another architecture, lacks a field, or asks for what the engine does not do.
    pub fn from_file(file: &Path) -> Result<Self, EngineError> {
        let text = std::fs::read(file).map_err(|source| EngineError::Io {
            file: file.into(),
            error: source,
        })?;
        Self::from_json(file, &text)
    }

    /// As [`from_file`](Self::from_file), for text already read; `file` is for errors.
    ///
    /// # Errors
    /// See there.
    pub fn from_json(file: &Path, text: &[u8]) -> Result<Self, EngineError> {
        let json: Value = serde_json::from_slice(text).map_err(|error| EngineError::Format {
            file: file.into(),
            what: "content".into(),
            expected: "a JSON object".into(),
            found: error.to_string(),
        })?;
        let fields = Fields { file, json: &json };
        fields.demand("model_type", "qwen3_moe", fields.text("model_type")?)?;
        fields.demand(
            "hidden_act",
            "silu",
            fields.optional_text("hidden_act")?.unwrap_or("silu"),
        )?;
        if fields.flag("use_sliding_window", false)? {
            return Err(fields.unsupported("use_sliding_window", "false", "true"));
        }
        if let Some(kinds) = json.get("layer_types").and_then(Value::as_array)
            && let Some(other) = kinds
                .iter()
                .find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(fields.unsupported("layer_types", "full_attention", &other.to_string()));
        }
        if json
            .get("quantization_config")
            .is_some_and(|q| !q.is_null())
        {
            return Err(fields.unsupported("quantization_config", "none", "a quantised folder"));
        }

        let hidden = fields.count("hidden_size")?;
        let heads = fields.count("num_attention_heads")?;
        let layers = fields.count("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(fields.wrong(
                "num_hidden_layers",
                &format!("at most {MAX_LAYERS}"),
                &layers.to_string(),
            ));
        }
        let step = fields.optional_count("decoder_sparse_step")?.unwrap_or(1);
        let mut dense: Vec<bool> = (1..=layers).map(|n| n % step != 0).collect();
        for entry in json
            .get("mlp_only_layers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            match entry
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .and_then(|n| dense.get_mut(n))
            {
                Some(layer) => *layer = true,
                None => {
                    return Err(fields.wrong(
                        "mlp_only_layers",
                        "numbers of layers",
                        &entry.to_string(),
                    ));
                }
            }
        }
        let dense_ff = match fields.optional_count("intermediate_size")? {
            Some(width) => width,
            None if dense.contains(&true) => {
                return Err(fields.missing("intermediate_size", "a count"));
            }
            None => 1,
        };
        let config = Self {
            hidden,
            layers,
            heads,
            kv_heads: fields
                .optional_count("num_key_value_heads")?
                .unwrap_or(heads),
            head_dim: fields.optional_count("head_dim")?.unwrap_or(hidden / heads),
            vocab: fields.count("vocab_size")?,
            // transformers 5 writes the first name, 4 the second
            experts: match fields.optional_count("num_local_experts")? {
                Some(experts) => experts,
                None => fields.count("num_experts")?,
            },
            experts_per_token: fields.count("num_experts_per_tok")?,
            expert_ff: fields.count("moe_intermediate_size")?,
            dense_ff,
            dense,
            norm_topk_prob: fields.flag("norm_topk_prob", false)?,
            attention_bias: fields.flag("attention_bias", false)?,
            tied: fields.flag("tie_word_embeddings", false)?,
            rope_theta: fields.rope_theta()?,
            rms_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            max_positions: fields.count("max_position_embeddings")?,
            stop_tokens: token_ids(json.get("eos_token_id")),
        };
        config.check(file)?;
        Ok(config)
    }

    /// Checks what no single field shows.
    ///
    /// # Errors
    /// Names the field that cannot be so.
    pub fn check(&self, file: &Path) -> Result<(), EngineError> {
        let wrong = |what: &str, expected: String, found: String| {
            Err(EngineError::Format {
                file: file.into(),
                what: what.into(),
                expected,
                found,
            })
        };
        if !self.heads.is_multiple_of(self.kv_heads) {
            return wrong(
                "num_key_value_heads",
                format!("a divisor of {} heads", self.heads),
                self.kv_heads.to_string(),
            );
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return wrong(
                "head_dim",
                "an even number above 0".into(),
                self.head_dim.to_string(),
            );
        }
        if self.experts > MAX_EXPERTS {
            return wrong(
                "num_experts",
                format!("at most {MAX_EXPERTS}"),
                self.experts.to_string(),
            );
        }
        if self.experts_per_token > self.experts {
            let expected = format!("at most {} experts", self.experts);
            return wrong(
                "num_experts_per_tok",
                expected,
                self.experts_per_token.to_string(),
            );
        }
        if !(self.rms_eps.is_finite() && self.rms_eps > 0.0 && self.rms_eps < 1.0) {
            return wrong(
                "rms_norm_eps",
                "a number between 0 and 1".into(),
                self.rms_eps.to_string(),
            );
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return wrong(
                "rope_theta",
                "a number of at least 1".into(),
                self.rope_theta.to_string(),
            );
        }
        if let Some(id) = self
            .stop_tokens
            .iter()
            .find(|id| **id as usize >= self.vocab)
        {
            return wrong(
                "eos_token_id",
                format!("an id below {}", self.vocab),
                id.to_string(),
            );
        }
        Ok(())
    }

    /// Every tensor of the model.
    pub fn tensors(&self) -> Vec<Planned> {
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize], exact: bool| {
            all.push(Planned {
                name,
                shape: shape.to_vec(),
                exact,
            })
        };
        let (hidden, q, kv) = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        );
        add(
            "model.embed_tokens.weight".into(),
            &[self.vocab, hidden],
            false,
        );
        add("model.norm.weight".into(), &[hidden], true);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab, hidden], false);
        }
        for (layer, &dense) in self.dense.iter().enumerate() {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            add(name("input_layernorm.weight"), &[hidden], true);
            add(name("post_attention_layernorm.weight"), &[hidden], true);
            for (part, outputs, inputs) in [
                ("q", q, hidden),
                ("k", kv, hidden),
                ("v", kv, hidden),
                ("o", hidden, q),
            ] {
                add(
                    name(&format!("self_attn.{part}_proj.weight")),
                    &[outputs, inputs],
                    false,
                );
                if self.attention_bias {
                    add(
                        name(&format!("self_attn.{part}_proj.bias")),
                        &[outputs],
                        true,
                    );
                }
            }
            add(name("self_attn.q_norm.weight"), &[self.head_dim], true);
            add(name("self_attn.k_norm.weight"), &[self.head_dim], true);
            let mut block = |prefix: &str, inner: usize| {
                add(
                    name(&format!("{prefix}.gate_proj.weight")),
                    &[inner, hidden],
                    false,
                );
                add(
                    name(&format!("{prefix}.up_proj.weight")),
                    &[inner, hidden],
                    false,
                );
                add(
                    name(&format!("{prefix}.down_proj.weight")),
                    &[hidden, inner],
                    false,
                );
            };
            if dense {
                block("mlp", self.dense_ff);
            } else {
                for expert in 0..self.experts {
                    block(&format!("mlp.experts.{expert}"), self.expert_ff);
                }
                add(name("mlp.gate.weight"), &[self.experts, hidden], true);
            }
        }
        all
    }

    /// The tensors by name.
    pub fn tensors_by_name(&self) -> HashMap<String, Planned> {
        self.tensors()
            .into_iter()
            .map(|tensor| (tensor.name.clone(), tensor))
            .collect()
    }
}

/// The ids in an `eos_token_id`: a number, a list, or nothing.
pub fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let mut ids: Vec<u32> = match value {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_u64)
            .filter_map(|id| u32::try_from(id).ok())
            .collect(),
        Some(one) => one
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .into_iter()
            .collect(),
        None => Vec::new(),
    };
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn published() -> Value {
        json!({
            "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "bos_token_id": 7, "decoder_sparse_step": 1,
            "eos_token_id": 9, "head_dim": 16, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48,
            "max_position_embeddings": 40960, "max_window_layers": 4, "mlp_only_layers": [], "model_type": "qwen3_moe",
            "moe_intermediate_size": 12, "norm_topk_prob": true, "num_attention_heads": 4, "num_experts": 8,
            "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 100,
        })
    }

    fn read(json: &Value) -> Result<Config, EngineError> {
        Config::from_json(Path::new("config.json"), json.to_string().as_bytes())
    }

    #[test]
    fn the_published_fields_are_read() {
        let config = read(&published()).unwrap();
        assert_eq!(
            (
                config.hidden,
                config.heads,
                config.kv_heads,
                config.head_dim
            ),
            (32, 4, 2, 16)
        );
        assert_eq!(config.dense, [false; 4]);
        assert_eq!(config.stop_tokens, [9]);
        assert!(config.norm_topk_prob);
        // 3 outside; per layer 2 norms, 4 projections, 2 head norms, router, 8 experts of 3
        assert_eq!(config.tensors().len(), 3 + 4 * (2 + 4 + 2 + 1 + 24));
    }

    #[test]
    fn the_spelling_of_transformers_5_is_read() {
        let mut json = published();
        let fields = json.as_object_mut().unwrap();
        fields.remove("rope_theta");
        fields.remove("rope_scaling");
        fields.remove("num_experts");
        fields.insert("num_local_experts".into(), json!(8));
        fields.insert(
            "rope_parameters".into(),
            json!({"rope_theta": 5000.0, "rope_type": "default"}),
        );
        let config = read(&json).unwrap();
        assert_eq!((config.experts, config.rope_theta), (8, 5000.0));
    }

    #[test]
    fn layers_without_experts_follow_both_switches() {
        let mut json = published();
        json["decoder_sparse_step"] = json!(2);
        json["mlp_only_layers"] = json!([3]);
        assert_eq!(read(&json).unwrap().dense, [true, false, true, true]);
    }

    #[test]
    fn what_the_engine_does_not_do_is_refused_by_name() {
        let cases = [
            (
                "model_type",
                json!("llama"),
                "model_type: expected qwen3_moe, found llama",
            ),
            (
                "hidden_act",
                json!("gelu"),
                "hidden_act: expected silu, found gelu",
            ),
            (
                "use_sliding_window",
                json!(true),
                "use_sliding_window: expected false, found true",
            ),
            (
                "rope_scaling",
                json!({"rope_type": "yarn", "factor": 4.0}),
                "rope_scaling: expected none, or type default, found yarn",
            ),
            ("rope_scaling", json!({"type": "linear"}), "found linear"),
            (
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "layer_types: expected full_attention",
            ),
            (
                "quantization_config",
                json!({"quant_method": "fp8"}),
                "quantization_config: expected none",
            ),
            (
                "hidden_size",
                json!(0),
                "hidden_size: expected a whole number from 1",
            ),
            (
                "hidden_size",
                json!(-3),
                "hidden_size: expected a whole number from 1",
            ),
            (
                "hidden_size",
                json!(1e30),
                "hidden_size: expected a whole number from 1",
            ),
            (
                "hidden_size",
                json!("32"),
                "hidden_size: expected a whole number from 1",
            ),
            (
                "hidden_size",
                Value::Null,
                "hidden_size: expected a count, found nothing",
            ),
            (
                "num_key_value_heads",
                json!(3),
                "num_key_value_heads: expected a divisor of 4 heads, found 3",
            ),
            ("head_dim", json!(15), "head_dim: expected an even number"),
            (
                "num_experts_per_tok",
                json!(9),
                "num_experts_per_tok: expected at most 8 experts, found 9",
            ),
            (
                "rms_norm_eps",
                json!(-1.0),
                "rms_norm_eps: expected a number between 0 and 1",
            ),
            (
                "rms_norm_eps",
                json!("NaN"),
                "rms_norm_eps: expected a number, found \"NaN\"",
            ),
            (
                "rope_theta",
                json!(0.0),
                "rope_theta: expected a number of at least 1",
            ),
            (
                "mlp_only_layers",
                json!([4]),
                "mlp_only_layers: expected numbers of layers, found 4",
            ),
            (
                "eos_token_id",
                json!(100),
                "eos_token_id: expected an id below 100, found 100",
            ),
            (
                "norm_topk_prob",
                json!("yes"),
                "norm_topk_prob: expected true or false",
            ),
        ];
        for (field, value, message) in cases {
            let mut json = published();
            json[field] = value;
            let error = read(&json).unwrap_err().to_string();
            assert!(
                error.starts_with("config.json: ") && error.contains(message),
                "{error}"
            );
        }
    }

    #[test]
    fn json_that_is_none_is_refused() {
        for text in ["", "{", "[]", "{\"rms_norm_eps\": NaN}", "null"] {
            let error = Config::from_json(Path::new("c"), text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, EngineError::Format { .. }),
                "{text}: {error}"
            );
        }
    }
}
