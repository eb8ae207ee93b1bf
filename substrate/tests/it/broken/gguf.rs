//! Broken GGUF files.

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};

use super::{refusal, told};
use crate::synthetic::{tiny, write_gguf};

/// A GGUF file after one change to what is written into it.
fn gguf(
    change: impl Fn(&mut Vec<(String, gguf_file::Value)>, &mut Vec<(String, QTensor)>),
    bytes: impl Fn(&mut Vec<u8>),
) -> (String, String) {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut metadata = shape.gguf_metadata();
    let mut tensors = shape.gguf_tensors(&shape.tensors(), GgmlDType::F32);
    change(&mut metadata, &mut tensors);
    write_gguf(&path, &metadata, &tensors);
    let mut content = std::fs::read(&path).unwrap();
    bytes(&mut content);
    std::fs::write(&path, content).unwrap();
    told(&refusal(&path))
}

#[test]
fn gguf_metadata_that_cannot_be_is_refused() {
    use gguf_file::Value::{Array, F32, I32, String as Text, U8, U32};
    let cases: Vec<(&str, Option<gguf_file::Value>, &str, &str)> = vec![
        (
            "general.architecture",
            Some(Text("llama".into())),
            "Unsupported",
            "general.architecture: expected qwen3moe, found \"llama\"",
        ),
        (
            "general.architecture",
            None,
            "Unsupported",
            "general.architecture: expected qwen3moe, found none",
        ),
        (
            "general.alignment",
            Some(U32(0)),
            "Format",
            "general.alignment: expected a power of two, found 0",
        ),
        (
            "general.alignment",
            Some(U32(24)),
            "Format",
            "general.alignment: expected a power of two, found 24",
        ),
        (
            "split.count",
            Some(U32(3)),
            "Unsupported",
            "split.count: expected 1 (one file), found 3",
        ),
        (
            "qwen3moe.block_count",
            None,
            "Format",
            "qwen3moe.block_count: expected a count, found nothing",
        ),
        (
            "qwen3moe.block_count",
            Some(U32(3)),
            "MissingTensor",
            "missing tensor blk.2.",
        ),
        (
            "qwen3moe.block_count",
            Some(U32(1)),
            "UnexpectedTensor",
            "unexpected tensor blk.1.",
        ),
        (
            "qwen3moe.block_count",
            Some(U32(4_000_000)),
            "Format",
            "block_count: expected at most 1024",
        ),
        (
            "qwen3moe.embedding_length",
            Some(I32(-8)),
            "Format",
            "embedding_length: expected a whole number from 1",
        ),
        (
            "qwen3moe.embedding_length",
            Some(F32(8.0)),
            "Format",
            "embedding_length: expected a whole number from 1",
        ),
        (
            "qwen3moe.attention.head_count",
            Some(Array(vec![U32(2), U32(2)])),
            "Format",
            "found an array of 2",
        ),
        (
            "qwen3moe.attention.head_count",
            Some(U32(4)),
            "TensorShape",
            "expected shape [24, 8], found [12, 8]",
        ),
        (
            "qwen3moe.attention.value_length",
            Some(U32(8)),
            "Unsupported",
            "attention.value_length: expected the key length, 6, found 8",
        ),
        (
            "qwen3moe.attention.layer_norm_rms_epsilon",
            Some(F32(f32::NAN)),
            "Format",
            "rms_norm_eps: expected a number between 0 and 1, found NaN",
        ),
        (
            "qwen3moe.attention.layer_norm_rms_epsilon",
            None,
            "Format",
            "rms_norm_eps: expected",
        ),
        (
            "qwen3moe.rope.freq_base",
            Some(F32(f32::INFINITY)),
            "Format",
            "rope_theta: expected a number of at least 1, found inf",
        ),
        (
            "qwen3moe.rope.scaling.type",
            Some(Text("yarn".into())),
            "Unsupported",
            "rope.scaling.type: expected none, found \"yarn\"",
        ),
        (
            "qwen3moe.attention.sliding_window",
            Some(U32(4096)),
            "Unsupported",
            "sliding_window: expected none, found 4096",
        ),
        (
            "qwen3moe.expert_shared_count",
            Some(U8(1)),
            "Unsupported",
            "expert_shared_count: expected 0, found 1",
        ),
        (
            "qwen3moe.expert_used_count",
            Some(U32(4)),
            "Format",
            "num_experts_per_tok: expected at most 3 experts, found 4",
        ),
        (
            "qwen3moe.expert_count",
            Some(U32(2)),
            "TensorShape",
            "expected shape [2, ",
        ),
        (
            "qwen3moe.vocab_size",
            Some(U32(301)),
            "TensorShape",
            "token_embd.weight: expected shape [301, 8], found [300, 8]",
        ),
    ];
    for (key, value, variant, message) in cases {
        let change = |metadata: &mut Vec<(String, gguf_file::Value)>,
                      _: &mut Vec<(String, QTensor)>| {
            metadata.retain(|(other, _)| other != key);
            metadata.extend(value.clone().map(|value| (key.to_owned(), value)));
        };
        let (found, text) = gguf(change, |_| {});
        assert_eq!(found, variant, "{key} = {value:?}: {text}");
        assert!(text.contains(message), "{key} = {value:?}: {text}");
    }
}

#[test]
fn gguf_tensors_that_cannot_be_are_refused() {
    let zeros = |shape: &[usize], kind| {
        QTensor::quantize(
            &Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap(),
            kind,
        )
        .unwrap()
    };
    let name = "blk.1.ffn_up_exps.weight";
    type Case = (&'static str, Option<QTensor>, &'static str, &'static str);
    let cases: Vec<Case> = vec![
        (
            "missing",
            None,
            "MissingTensor",
            "model.gguf: missing tensor blk.1.ffn_up_exps.weight (expected shape [3, 4, 8])",
        ),
        (
            "turned",
            Some(zeros(&[3, 8, 4], GgmlDType::F32)),
            "TensorShape",
            "expected shape [3, 4, 8], found [3, 8, 4]",
        ),
        (
            "flat",
            Some(zeros(&[12, 8], GgmlDType::F32)),
            "TensorShape",
            "expected shape [3, 4, 8], found [12, 8]",
        ),
        (
            "other type",
            Some(zeros(&[3, 4, 32], GgmlDType::Q5_0)),
            "TensorType",
            "tensor blk.1.ffn_up_exps.weight: expected type F32, F16, BF16, Q8_0, Q4_K or Q6_K, found Q5_0",
        ),
    ];
    for (case, tensor, variant, message) in cases {
        let tensor = std::cell::RefCell::new(tensor);
        let change = |_: &mut Vec<(String, gguf_file::Value)>,
                      tensors: &mut Vec<(String, QTensor)>| {
            tensors.retain(|(other, _)| other != name);
            tensors.extend(
                tensor
                    .borrow_mut()
                    .take()
                    .map(|tensor| (name.to_owned(), tensor)),
            );
        };
        let (found, text) = gguf(change, |_| {});
        assert_eq!(found, variant, "{case}: {text}");
        assert!(text.contains(message), "{case}: {text}");
    }
    // a norm in blocks
    let (found, text) = gguf(
        |metadata, tensors| {
            metadata
                .retain(|(key, _)| !key.contains("key_length") && !key.contains("value_length"));
            metadata.push((
                "qwen3moe.attention.key_length".into(),
                gguf_file::Value::U32(32),
            ));
            tensors.retain(|(other, _)| other != "blk.0.attn_q_norm.weight");
            tensors.insert(
                0,
                (
                    "blk.0.attn_q_norm.weight".into(),
                    zeros(&[32], GgmlDType::Q8_0),
                ),
            );
        },
        |_| {},
    );
    assert_eq!(found, "TensorType", "{text}");
    assert!(
        text.contains(
            "blk.0.attn_q_norm.weight: expected type F32, F16 or BF16 for a norm, found Q8_0"
        ),
        "{text}"
    );
}

#[test]
fn gguf_bytes_that_are_none_are_refused() {
    let same = |_: &mut Vec<(String, gguf_file::Value)>, _: &mut Vec<(String, QTensor)>| {};
    type Bytes = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: Vec<(&str, Bytes, &str, &str)> = vec![
        (
            "empty",
            Box::new(Vec::clear),
            "Truncated",
            "truncated: the magic needs 4 bytes, the file has 0",
        ),
        (
            "magic",
            Box::new(|b| b[0] = b'X'),
            "Format",
            "magic: expected GGUF, found \"XGUF\"",
        ),
        (
            "version 1",
            Box::new(|b| b[4] = 1),
            "Format",
            "version: expected 2 or 3 (little-endian), found 1",
        ),
        (
            "big-endian",
            Box::new(|b| b[4..8].copy_from_slice(&[0, 0, 0, 3])),
            "Format",
            "version: expected 2 or 3 (little-endian)",
        ),
        (
            "tensor count",
            Box::new(|b| b[8..16].fill(0xff)),
            "Format",
            "number of tensors: expected at most",
        ),
        (
            "metadata count",
            Box::new(|b| b[16..24].fill(0xff)),
            "Format",
            "number of metadata entries: expected at most",
        ),
        ("one entry too many", Box::new(|b| b[16] += 1), "", ""),
        (
            "key length",
            Box::new(|b| b[24..32].fill(0x7f)),
            "Format",
            "key of metadata entry 0: length: expected at most",
        ),
        (
            "value type",
            Box::new(|b| b[24 + 8 + 20] = 77),
            "Format",
            "general.architecture: type: expected one from 0 to 12, found 77",
        ),
        (
            "last byte gone",
            Box::new(|b| b.truncate(b.len() - 32)),
            "Truncated",
            "truncated: tensor ",
        ),
        ("header cut", Box::new(|b| b.truncate(200)), "", ""),
    ];
    for (case, bytes, variant, message) in cases {
        let (found, text) = gguf(same, bytes);
        assert!(
            variant.is_empty() || found == variant,
            "{case}: {found}: {text}"
        );
        assert!(text.contains(message), "{case}: {text}");
    }
}
