//! Small models whose weights are a function of names and indices: the same function as in
//! `tests/fixtures/make_fixtures.py`, so that what is made here has the reference's values.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use halo_substrate::model::config::Config;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One of the shapes of the fixtures.
pub struct Shape {
    pub name: &'static str,
    /// Bits of a weight's significand.
    bits: u32,
    /// The type in which every weight is exact.
    pub dtype: DType,
    pub json: Value,
    pub config: Config,
}

pub fn shape(name: &str) -> Shape {
    let (name, bits, dtype) = match name {
        "wide" => ("wide", 24, DType::F32),
        "tied" => ("tied", 11, DType::F16),
        "deep" => ("deep", 8, DType::BF16),
        other => panic!("no shape {other}"),
    };
    let file = fixture(&format!("{name}.config.json"));
    let text = std::fs::read(&file).unwrap();
    let config = Config::from_json(&file, &text).unwrap();
    Shape {
        name,
        bits,
        dtype,
        json: serde_json::from_slice(&text).unwrap(),
        config,
    }
}

/// A configuration of a few hundred parameters, for tests of everything but arithmetic.
pub fn tiny() -> Shape {
    let json = json!({
        "model_type": "qwen3_moe", "hidden_act": "silu", "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "vocab_size": 300, "num_experts": 3,
        "num_experts_per_tok": 2, "moe_intermediate_size": 4, "intermediate_size": 4, "norm_topk_prob": true,
        "tie_word_embeddings": false, "attention_bias": false, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64, "eos_token_id": 259,
    });
    let config = Config::from_json(Path::new("tiny"), json.to_string().as_bytes()).unwrap();
    Shape {
        name: "tiny",
        bits: 8,
        dtype: DType::BF16,
        json,
        config,
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The values of a tensor, as `values` in the Python script says.
fn values(name: &str, shape: &[usize], bits: u32) -> Vec<f32> {
    let digest = Sha256::digest(name);
    let seed = u64::from_le_bytes(digest[..8].try_into().unwrap());
    let step = 2.0_f32.powi(1 - bits as i32);
    let count = shape.iter().product::<usize>() as u64;
    (1..=count)
        .map(|n| {
            let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let unit = ((z >> (64 - bits)) as i64 - (1 << (bits - 1))) as f32 * step;
            if name.ends_with("norm.weight") {
                let step = step * 4.0;
                1.0 + (unit / step / 4.0).trunc() * step
            } else {
                unit * amplitude(name, shape)
            }
        })
        .collect()
}

fn amplitude(name: &str, shape: &[usize]) -> f32 {
    if name.ends_with("embed_tokens.weight") {
        return 0.03125;
    }
    if name.ends_with(".bias") {
        return 0.25;
    }
    let fan_in = 2.0_f32.powi(-((shape[shape.len() - 1].ilog2() / 2) as i32));
    if name.ends_with("mlp.gate.weight") || name == "lm_head.weight" {
        4.0 * fan_in
    } else {
        2.0 * fan_in
    }
}

impl Shape {
    /// Every tensor of the model, F32, by its Hugging Face name.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.config
            .tensors()
            .into_iter()
            .map(|planned| {
                let values = values(&planned.name, &planned.shape, self.bits);
                let tensor =
                    Tensor::from_vec(values, planned.shape.as_slice(), &Device::Cpu).unwrap();
                (planned.name, tensor)
            })
            .collect()
    }

    /// Writes a folder with one file, or with `shards` of them and an index.
    pub fn write_folder(
        &self,
        folder: &Path,
        tensors: &HashMap<String, Tensor>,
        dtype: DType,
        shards: usize,
    ) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), self.json.to_string()).unwrap();
        let mut parts: Vec<HashMap<String, Tensor>> = vec![HashMap::new(); shards];
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        let mut map = serde_json::Map::new();
        for (i, name) in names.into_iter().enumerate() {
            let part = i % shards;
            parts[part].insert(name.clone(), tensors[name].to_dtype(dtype).unwrap());
            map.insert(name.clone(), json!(shard_name(part, shards)));
        }
        for (part, tensors) in parts.iter().enumerate() {
            candle_core::safetensors::save(tensors, folder.join(shard_name(part, shards))).unwrap();
        }
        if shards > 1 {
            let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
            std::fs::write(
                folder.join("model.safetensors.index.json"),
                index.to_string(),
            )
            .unwrap();
        }
    }

    /// The metadata of a GGUF file of this model.
    pub fn gguf_metadata(&self) -> Vec<(String, gguf_file::Value)> {
        use gguf_file::Value::{F32, String, U32};
        let c = &self.config;
        let key = |rest: &str| format!("qwen3moe.{rest}");
        let n = |n: usize| U32(n as u32);
        vec![
            ("general.architecture".into(), String("qwen3moe".into())),
            (
                "general.name".into(),
                String(format!("synthetic {}", self.name)),
            ),
            (key("context_length"), n(c.max_positions)),
            (key("embedding_length"), n(c.hidden)),
            (key("block_count"), n(c.layers)),
            (key("feed_forward_length"), n(c.dense_ff)),
            (key("expert_feed_forward_length"), n(c.expert_ff)),
            (key("expert_count"), n(c.experts)),
            (key("expert_used_count"), n(c.experts_per_token)),
            (key("attention.head_count"), n(c.heads)),
            (key("attention.head_count_kv"), n(c.kv_heads)),
            (key("attention.key_length"), n(c.head_dim)),
            (key("attention.value_length"), n(c.head_dim)),
            (
                key("attention.layer_norm_rms_epsilon"),
                F32(c.rms_eps as f32),
            ),
            (key("rope.freq_base"), F32(c.rope_theta as f32)),
            ("tokenizer.ggml.eos_token_id".into(), U32(2)),
            (
                "tokenizer.ggml.tokens".into(),
                gguf_file::Value::Array(vec![String("a".into()), String("b".into())]),
            ),
        ]
    }

    /// The tensors under their GGUF names, experts stacked; norms and routers stay F32.
    pub fn gguf_tensors(
        &self,
        tensors: &HashMap<String, Tensor>,
        kind: GgmlDType,
    ) -> Vec<(String, QTensor)> {
        let c = &self.config;
        let mut all = Vec::new();
        let mut add = |name: String, tensor: &Tensor, kind: GgmlDType| {
            all.push((
                format!("{name}.weight"),
                QTensor::quantize(tensor, kind).unwrap(),
            ));
        };
        add(
            "token_embd".into(),
            &tensors["model.embed_tokens.weight"],
            kind,
        );
        add(
            "output_norm".into(),
            &tensors["model.norm.weight"],
            GgmlDType::F32,
        );
        if !c.tied {
            add("output".into(), &tensors["lm_head.weight"], kind);
        }
        for layer in 0..c.layers {
            let get = |name: &str| &tensors[&format!("model.layers.{layer}.{name}.weight")];
            let mut add = |name: &str, tensor: &Tensor, kind| {
                add(format!("blk.{layer}.{name}"), tensor, kind)
            };
            add("attn_norm", get("input_layernorm"), GgmlDType::F32);
            add("ffn_norm", get("post_attention_layernorm"), GgmlDType::F32);
            add("attn_q", get("self_attn.q_proj"), kind);
            add("attn_k", get("self_attn.k_proj"), kind);
            add("attn_v", get("self_attn.v_proj"), kind);
            add("attn_output", get("self_attn.o_proj"), kind);
            add("attn_q_norm", get("self_attn.q_norm"), GgmlDType::F32);
            add("attn_k_norm", get("self_attn.k_norm"), GgmlDType::F32);
            add("ffn_gate_inp", get("mlp.gate"), GgmlDType::F32);
            for part in ["gate", "up", "down"] {
                let experts: Vec<&Tensor> = (0..c.experts)
                    .map(|expert| get(&format!("mlp.experts.{expert}.{part}_proj")))
                    .collect();
                add(
                    &format!("ffn_{part}_exps"),
                    &Tensor::stack(&experts, 0).unwrap(),
                    kind,
                );
            }
        }
        all
    }

    pub fn write_gguf(&self, path: &Path, tensors: &HashMap<String, Tensor>, kind: GgmlDType) {
        write_gguf(
            path,
            &self.gguf_metadata(),
            &self.gguf_tensors(tensors, kind),
        );
    }
}

pub fn write_gguf(
    path: &Path,
    metadata: &[(String, gguf_file::Value)],
    tensors: &[(String, QTensor)],
) {
    let metadata: Vec<_> = metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

pub fn shard_name(part: usize, shards: usize) -> String {
    match shards {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{shards:05}.safetensors", part + 1),
    }
}

/// A byte-level tokenizer: id `b` is byte `b`; 256 is ` the`, 257 the euro sign's first two bytes, 258 a long run of
/// dashes, 259 to 261 are `<|im_end|>`, `<|im_start|>` and `<|endoftext|>`, 262 is `<think>` (added, not special).
pub fn tokenizer_json() -> Value {
    let letters = byte_letters();
    let mut vocabulary: serde_json::Map<String, Value> = letters
        .iter()
        .enumerate()
        .map(|(byte, letter)| (letter.to_string(), json!(byte)))
        .collect();
    let the: String = [b' ', b't', b'h', b'e']
        .iter()
        .map(|b| letters[*b as usize])
        .collect();
    vocabulary.insert(the.clone(), json!(256));
    vocabulary.insert(
        "\u{e2}\u{c2}".replace('\u{c2}', &letters[0x82].to_string()),
        json!(257),
    );
    vocabulary.insert("-".repeat(200), json!(258));
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(259, "<|im_end|>", true), added(260, "<|im_start|>", true),
                         added(261, "<|endoftext|>", true), added(262, "<think>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                  "vocab": vocabulary, "merges": []},
    })
}

/// The letter that stands for each byte in byte-level vocabularies.
fn byte_letters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0;
    (0..256)
        .map(|byte| {
            if printable(byte) {
                char::from_u32(byte).unwrap()
            } else {
                shifted += 1;
                char::from_u32(0x100 + shifted - 1).unwrap()
            }
        })
        .collect()
}
