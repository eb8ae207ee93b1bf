//! GGUF files against safetensors folders with the same weights.

use std::collections::HashMap;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use halo_substrate::engine::Engine;
use halo_substrate::model::weights::Widen;

use crate::parity::{off_by, open};
use crate::synthetic::{Shape, shape, write_gguf};

const PROMPT: [u32; 24] = [
    5, 250, 17, 17, 3, 99, 200, 201, 7, 64, 128, 255, 0, 1, 2, 31, 77, 150, 149, 12, 80, 81, 82, 5,
];

fn logits(engine: &dyn Engine) -> Vec<f32> {
    engine.start().unwrap().forward(&PROMPT).unwrap().logits
}

/// What is left of the weights after storing them as `kind`.
fn rounded(tensors: &HashMap<String, Tensor>, kind: GgmlDType) -> HashMap<String, Tensor> {
    let exact = |name: &str| name.ends_with("norm.weight") || name.ends_with("mlp.gate.weight");
    tensors
        .iter()
        .map(|(name, tensor)| {
            let kind = if exact(name) { GgmlDType::F32 } else { kind };
            (
                name.clone(),
                QTensor::quantize(tensor, kind)
                    .unwrap()
                    .dequantize(&Device::Cpu)
                    .unwrap(),
            )
        })
        .collect()
}

/// Logits of the same weights from a GGUF file of this kind, from a folder that holds what the kind leaves of them, and
/// from a folder that holds them whole.
fn three_ways(shape: &Shape, kind: GgmlDType) -> [Vec<f32>; 3] {
    let tensors = shape.tensors();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    shape.write_gguf(&file, &tensors, kind);
    shape.write_folder(
        &folder.path().join("rounded"),
        &rounded(&tensors, kind),
        DType::F32,
        1,
    );
    shape.write_folder(&folder.path().join("whole"), &tensors, DType::F32, 1);
    [
        file,
        folder.path().join("rounded"),
        folder.path().join("whole"),
    ]
    .map(|path| logits(&open(&path, Widen::AtLoad)))
}

#[test]
fn unquantised_formats_equal_the_folder() {
    for (name, kind) in [
        ("wide", GgmlDType::F32),
        ("wide", GgmlDType::F16),
        ("wide", GgmlDType::BF16),
        ("deep", GgmlDType::F16),
        ("deep", GgmlDType::BF16),
    ] {
        let [file, rounded, _] = three_ways(&shape(name), kind);
        let off = off_by(&file, &rounded);
        assert!(off < 1e-5, "{name} {kind:?}: off by {off:e}");
    }
}

#[test]
fn quantised_formats_are_within_their_error() {
    // Against the rounded weights what is left is the rounding of activations to 8 bits; against the whole ones the
    // format's own error comes on top. A wrong order of blocks, rows or experts is off by more than 1.
    for (kind, activations, format) in [
        (GgmlDType::Q8_0, 0.04, 0.05),
        (GgmlDType::Q6K, 0.04, 0.1),
        (GgmlDType::Q4K, 0.04, 0.4),
    ] {
        let [file, rounded, whole] = three_ways(&shape("wide"), kind);
        let (from_rounded, from_whole) = (off_by(&file, &rounded), off_by(&file, &whole));
        assert!(
            from_rounded < activations,
            "{kind:?}: {from_rounded} off the rounded weights"
        );
        assert!(
            from_whole < format,
            "{kind:?}: {from_whole} off the whole weights"
        );
        assert!(from_rounded > 1e-6, "{kind:?} was not multiplied in blocks");
    }
}

#[test]
fn a_quantised_prompt_at_once_equals_token_by_token() {
    let shape = shape("wide");
    let folder = tempfile::tempdir().unwrap();
    for kind in [GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q4K] {
        let file = folder.path().join("model.gguf");
        shape.write_gguf(&file, &shape.tensors(), kind);
        let engine = open(&file, Widen::AtLoad);
        let whole = logits(&engine);
        let mut generation = engine.start().unwrap();
        let mut single = Vec::new();
        for token in PROMPT {
            single = generation.forward(&[token]).unwrap().logits;
        }
        let off = off_by(&single, &whole);
        assert!(off < 0.02, "{kind:?}: off by {off:e}");
    }
}

#[test]
fn what_the_file_says_of_itself_is_reported() {
    let shape = shape("wide");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    shape.write_gguf(&file, &shape.tensors(), GgmlDType::Q4K);
    let engine = open(&file, Widen::AtLoad);
    let info = engine.info();
    assert_eq!(
        (info.name.as_str(), info.format.as_str()),
        ("synthetic wide", "GGUF F32, Q4_K")
    );
    assert_eq!(
        (
            info.layers,
            info.experts,
            info.experts_per_token,
            info.vocab
        ),
        (2, 6, 2, 320)
    );
    assert_eq!(
        (info.context_limit, info.stop_tokens.as_slice()),
        (512, [2].as_slice())
    );
}

#[test]
fn a_file_without_a_head_uses_the_embedding() {
    let shape = shape("wide");
    let mut tensors = shape.tensors();
    let embedding = tensors["model.embed_tokens.weight"].clone();
    let folder = tempfile::tempdir().unwrap();
    let (tied, untied) = (
        folder.path().join("tied.gguf"),
        folder.path().join("untied.gguf"),
    );
    let mut without: Vec<_> = shape.gguf_tensors(&tensors, GgmlDType::F32);
    without.retain(|(name, _)| name != "output.weight");
    write_gguf(&tied, &shape.gguf_metadata(), &without);
    tensors.insert("lm_head.weight".into(), embedding);
    shape.write_gguf(&untied, &tensors, GgmlDType::F32);
    assert_eq!(
        logits(&open(&tied, Widen::AtLoad)),
        logits(&open(&untied, Widen::AtLoad))
    );
}

#[test]
fn weights_of_experts_are_scaled_unless_the_file_says_otherwise() {
    let shape = shape("wide");
    let tensors = shape.gguf_tensors(&shape.tensors(), GgmlDType::F32);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let with = |flag: Option<bool>| {
        let mut metadata = shape.gguf_metadata();
        metadata.extend(flag.map(|on| {
            (
                "qwen3moe.expert_weights_norm".to_owned(),
                gguf_file::Value::Bool(on),
            )
        }));
        write_gguf(&file, &metadata, &tensors);
        logits(&open(&file, Widen::AtLoad))
    };
    assert_eq!(with(None), with(Some(true)));
    assert!(off_by(&with(Some(false)), &with(None)) > 0.01);
}
