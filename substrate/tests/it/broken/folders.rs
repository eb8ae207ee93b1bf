//! Broken folders: configuration, safetensors files, indexes.

use std::path::Path;

use candle_core::DType;
use halo_substrate::model::{Options, load};
use serde_json::{Value, json};

use super::{refusal, told};
use crate::synthetic::tiny;

type Change = Box<dyn Fn(&Path)>;

fn edit(file: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Change {
    Box::new(move |folder: &Path| {
        let path = folder.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    })
}

/// Rewrites the header of a safetensors file. The data stays.
fn header(change: impl Fn(&mut serde_json::Map<String, Value>) + 'static) -> Change {
    edit("model.safetensors", move |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: serde_json::Map<String, Value> =
            serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let text = serde_json::to_vec(&header).unwrap();
        let mut new = (text.len() as u64).to_le_bytes().to_vec();
        new.extend(text);
        new.extend(&bytes[8 + length..]);
        *bytes = new;
    })
}

fn config(field: &'static str, value: Value) -> Change {
    edit("config.json", move |bytes| {
        let mut json: Value = serde_json::from_slice(bytes).unwrap();
        json[field] = value.clone();
        *bytes = json.to_string().into_bytes();
    })
}

#[test]
fn broken_folders_are_refused_by_name() {
    const ROUTER: &str = "model.layers.1.mlp.gate.weight";
    let cases: Vec<(&str, Change, &str, &str)> = vec![
        (
            "no config",
            Box::new(|f| std::fs::remove_file(f.join("config.json")).unwrap()),
            "Io",
            "config.json: cannot read",
        ),
        (
            "no weights",
            Box::new(|f| std::fs::remove_file(f.join("model.safetensors")).unwrap()),
            "Io",
            "model.safetensors: cannot read",
        ),
        (
            "config cut",
            edit("config.json", |b| b.truncate(b.len() / 2)),
            "Format",
            "config.json: content: expected a JSON object",
        ),
        (
            "NaN in config",
            edit("config.json", |b| {
                *b = b"{\"model_type\": \"qwen3_moe\", \"rms_norm_eps\": NaN}".to_vec()
            }),
            "Format",
            "config.json: content: expected a JSON object",
        ),
        (
            "other architecture",
            config("model_type", json!("qwen2_moe")),
            "Unsupported",
            "model_type: expected qwen3_moe, found qwen2_moe",
        ),
        (
            "weights empty",
            edit("model.safetensors", Vec::clear),
            "Truncated",
            "the header's length needs 8 bytes, the file has 0",
        ),
        (
            "header cut",
            edit("model.safetensors", |b| b.truncate(100)),
            "Truncated",
            "truncated: the header needs",
        ),
        (
            "header length huge",
            edit("model.safetensors", |b| b[7] = 0xff),
            "Format",
            "header length: expected at most 100000000 bytes",
        ),
        (
            "header length small",
            edit("model.safetensors", |b| {
                b[..8].copy_from_slice(&2_u64.to_le_bytes())
            }),
            "Format",
            "model.safetensors: header: expected the description of each tensor",
        ),
        (
            "header no JSON",
            edit("model.safetensors", |b| b[8] = b'x'),
            "Format",
            "model.safetensors: header: expected",
        ),
        (
            "data cut",
            edit("model.safetensors", |b| b.truncate(b.len() - 1)),
            "Truncated",
            "truncated: tensor ",
        ),
        (
            "data long",
            edit("model.safetensors", |b| b.push(0)),
            "Format",
            "model.safetensors: data: expected",
        ),
        (
            "tensor missing",
            header(|h| {
                // its bytes go to a neighbour's name, so that only the name is missing
                let entry = h.remove(ROUTER).unwrap();
                h.insert("model.layers.1.rotary_emb.inv_freq".into(), entry);
            }),
            "MissingTensor",
            "model.safetensors: missing tensor model.layers.1.mlp.gate.weight (expected shape [3, 8])",
        ),
        (
            "tensor unexpected",
            header(|h| {
                let entry = h.remove(ROUTER).unwrap();
                h.insert("model.layers.1.mlp.shared_expert.gate".into(), entry);
            }),
            "UnexpectedTensor",
            "unexpected tensor model.layers.1.mlp.shared_expert.gate",
        ),
        (
            "shape turned",
            header(|h| h[ROUTER]["shape"] = json!([8, 3])),
            "TensorShape",
            "tensor model.layers.1.mlp.gate.weight: expected shape [3, 8], found [8, 3]",
        ),
        (
            "shape with more values",
            header(|h| h[ROUTER]["shape"] = json!([3, 9])),
            "Format",
            "tensor model.layers.1.mlp.gate.weight: data_offsets: expected 54 bytes for BF16 [3, 9]",
        ),
        (
            "shape that overflows",
            header(|h| h[ROUTER]["shape"] = json!([u64::MAX, u64::MAX])),
            "Format",
            "tensor model.layers.1.mlp.gate.weight: data_offsets: expected fewer values",
        ),
        (
            "offsets backwards",
            header(|h| h[ROUTER]["data_offsets"] = json!([48, 0])),
            "Format",
            "data_offsets: expected 48 bytes",
        ),
        (
            "offsets shared",
            header(|h| {
                let other = h["model.layers.0.mlp.gate.weight"]["data_offsets"].clone();
                h[ROUTER]["data_offsets"] = other;
            }),
            "Format",
            "data_offsets: expected data from",
        ),
        (
            "type unknown",
            header(|h| h[ROUTER]["dtype"] = json!("F8_E4M3")),
            "TensorType",
            "tensor model.layers.1.mlp.gate.weight: expected type F32, F16 or BF16, found F8_E4M3",
        ),
        (
            "more layers than stored",
            config("num_hidden_layers", json!(3)),
            "MissingTensor",
            "missing tensor model.layers.2.input_layernorm.weight",
        ),
        (
            "fewer layers than stored",
            config("num_hidden_layers", json!(1)),
            "UnexpectedTensor",
            "unexpected tensor model.layers.1.",
        ),
        (
            "other width",
            config("hidden_size", json!(16)),
            "TensorShape",
            "expected shape",
        ),
        (
            "weight not a number",
            edit("model.safetensors", |b| {
                let end = b.len();
                b[end - 2..].copy_from_slice(&0x7fc0_u16.to_le_bytes());
            }),
            "NotFinite",
            " is NaN",
        ),
        (
            "a folder for a file",
            Box::new(|f| {
                std::fs::remove_file(f.join("model.safetensors")).unwrap();
                std::fs::create_dir(f.join("model.safetensors")).unwrap();
            }),
            "Io",
            "model.safetensors: cannot read",
        ),
        (
            "stop token out of range",
            Box::new(|f| {
                std::fs::write(
                    f.join("generation_config.json"),
                    r#"{"eos_token_id": [259, 300]}"#,
                )
                .unwrap();
            }),
            "Format",
            "generation_config.json: eos_token_id: expected an id below 300, found 300",
        ),
    ];
    let shape = tiny();
    let tensors = shape.tensors();
    for (case, change, variant, message) in cases {
        let folder = tempfile::tempdir().unwrap();
        shape.write_folder(folder.path(), &tensors, DType::BF16, 1);
        load(folder.path(), &Options::default()).unwrap();
        change(folder.path());
        let (found, text) = told(&refusal(folder.path()));
        assert_eq!(found, variant, "{case}: {text}");
        assert!(text.contains(message), "{case}: {text}");
    }
}

#[test]
fn broken_indexes_are_refused_by_name() {
    const INDEX: &str = "model.safetensors.index.json";
    let map = |change: fn(&mut serde_json::Map<String, Value>)| {
        edit(INDEX, move |bytes| {
            let mut json: Value = serde_json::from_slice(bytes).unwrap();
            change(json["weight_map"].as_object_mut().unwrap());
            *bytes = json.to_string().into_bytes();
        })
    };
    let cases: Vec<(&str, Change, &str, &str)> = vec![
        (
            "not JSON",
            edit(INDEX, |b| b.truncate(9)),
            "Format",
            "index.json: content: expected a JSON object",
        ),
        (
            "no map",
            edit(INDEX, |b| *b = b"{}".to_vec()),
            "Format",
            "index.json: weight_map: expected an object",
        ),
        (
            "empty map",
            map(|m| m.clear()),
            "Format",
            "weight_map: expected at least one tensor",
        ),
        (
            "a way out of the folder",
            map(|m| {
                m.insert(
                    "lm_head.weight".into(),
                    json!("../model-00001-of-00002.safetensors"),
                );
            }),
            "Format",
            "weight_map entry lm_head.weight: expected the name of a file in this folder",
        ),
        (
            "a number for a name",
            map(|m| {
                m.insert("lm_head.weight".into(), json!(1));
            }),
            "Format",
            "expected the name of a file in this folder",
        ),
        (
            "a shard that is not there",
            map(|m| {
                m.insert("lm_head.weight".into(), json!("model-9.safetensors"));
            }),
            "Io",
            "model-9.safetensors: cannot read",
        ),
        (
            "a tensor in the other shard",
            map(|m| {
                let file = if m["lm_head.weight"] == "model-00001-of-00002.safetensors" {
                    "2"
                } else {
                    "1"
                };
                m.insert(
                    "lm_head.weight".into(),
                    json!(format!("model-0000{file}-of-00002.safetensors")),
                );
            }),
            "MissingTensor",
            "missing tensor lm_head.weight (expected shape [300, 8])",
        ),
        (
            "a tensor in both shards",
            Box::new(|f| {
                let (one, two) = (
                    f.join("model-00001-of-00002.safetensors"),
                    f.join("model-00002-of-00002.safetensors"),
                );
                std::fs::copy(one, two).unwrap();
            }),
            "Format",
            "expected one tensor of that name, found another one in model-00001-of-00002.safetensors",
        ),
    ];
    let shape = tiny();
    let tensors = shape.tensors();
    for (case, change, variant, message) in cases {
        let folder = tempfile::tempdir().unwrap();
        shape.write_folder(folder.path(), &tensors, DType::BF16, 2);
        load(folder.path(), &Options::default()).unwrap();
        change(folder.path());
        let (found, text) = told(&refusal(folder.path()));
        assert_eq!(found, variant, "{case}: {text}");
        assert!(text.contains(message), "{case}: {text}");
    }
}
