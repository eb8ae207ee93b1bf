//! The reference engine against Hugging Face transformers, and against itself.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use halo_substrate::engine::{Engine, ExpertSet};
use halo_substrate::model::weights::Widen;
use halo_substrate::model::{Options, ReferenceEngine, load};

use crate::synthetic::{Shape, fixture, shape};

/// Of the largest logit: what the engine may be off. 2e-3 is what other engines are held to; this one is the oracle.
const TOLERANCE: f32 = 1e-4;

pub fn open(path: &Path, widen: Widen) -> ReferenceEngine {
    load(
        path,
        &Options {
            widen,
            threads: 2,
            ..Options::default()
        },
    )
    .unwrap()
    .0
}

/// The largest difference, as a part of the largest value.
pub fn off_by(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|value| value.is_finite()));
    let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |m, (f, e)| m.max((f - e).abs()))
        / largest
}

fn highest(logits: &[f32]) -> u32 {
    (0..logits.len())
        .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
        .unwrap() as u32
}

struct Reference {
    prompt: Vec<u32>,
    lengths: Vec<u32>,
    logits: Vec<Vec<f32>>,
    active: Vec<Vec<Vec<u8>>>,
    greedy: Vec<u32>,
    after: Vec<f32>,
}

fn reference(name: &str) -> Reference {
    let all = candle_core::safetensors::load(fixture(&format!("{name}.safetensors")), &Device::Cpu)
        .unwrap();
    let get = |name: &str| -> &Tensor { &all[name] };
    Reference {
        prompt: get("prompt").to_vec1().unwrap(),
        lengths: get("lengths").to_vec1().unwrap(),
        logits: get("logits").to_vec2().unwrap(),
        active: get("active").to_vec3().unwrap(),
        greedy: get("greedy").to_vec1().unwrap(),
        after: get("after").to_vec1().unwrap(),
    }
}

fn same_experts(found: &ExpertSet, expected: &[Vec<u8>]) -> bool {
    expected.iter().enumerate().all(|(layer, experts)| {
        experts
            .iter()
            .enumerate()
            .all(|(expert, used)| found.contains(layer, expert) == (*used == 1))
    })
}

/// Everything that is claimed of one model in one form.
fn check(engine: &ReferenceEngine, shape: &Shape) {
    let reference = reference(shape.name);
    for (i, length) in reference.lengths.iter().enumerate() {
        let step = engine
            .start()
            .unwrap()
            .forward(&reference.prompt[..*length as usize])
            .unwrap();
        let off = off_by(&step.logits, &reference.logits[i]);
        assert!(
            off < TOLERANCE,
            "{}, {length} tokens: off by {off:e}",
            shape.name
        );
        assert!(
            same_experts(&step.active, &reference.active[i]),
            "{}, {length} tokens: other experts",
            shape.name
        );
    }
    let mut generation = engine.start().unwrap();
    let mut logits = generation.forward(&reference.prompt).unwrap().logits;
    for (n, expected) in reference.greedy.iter().enumerate() {
        assert_eq!(
            highest(&logits),
            *expected,
            "{}: greedy token {n}",
            shape.name
        );
        logits = generation.forward(&[*expected]).unwrap().logits;
    }
    assert_eq!(
        generation.position(),
        reference.prompt.len() + reference.greedy.len()
    );
    let off = off_by(&logits, &reference.after);
    assert!(
        off < TOLERANCE,
        "{}, after the greedy tokens: off by {off:e}",
        shape.name
    );
}

#[test]
fn a_wide_model_in_one_f32_file_computes_what_transformers_does() {
    let shape = shape("wide");
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::F32, 1);
    let engine = open(folder.path(), Widen::AtLoad);
    assert_eq!(engine.info().format, "safetensors F32");
    check(&engine, &shape);
}

#[test]
fn a_tied_f16_model_with_biases_and_a_dense_layer_computes_what_transformers_does() {
    let shape = shape("tied");
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::F16, 1);
    let engine = open(folder.path(), Widen::AtLoad);
    check(&engine, &shape);
    // the layer without experts reports none
    let step = engine.start().unwrap().forward(&[1, 2, 3]).unwrap();
    assert_eq!(step.active.layer(1).count(), 0);
    assert!(step.active.layer(0).count() >= shape.config.experts_per_token);
}

#[test]
fn a_deep_model_in_bf16_shards_computes_what_transformers_does() {
    let shape = shape("deep");
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::BF16, 3);
    check(&open(folder.path(), Widen::AtLoad), &shape);
}

#[test]
fn weights_widened_at_use_give_the_same_bits() {
    let tokens = [5, 250, 17, 17, 3, 99];
    for name in ["tied", "deep"] {
        let shape = shape(name);
        let folder = tempfile::tempdir().unwrap();
        shape.write_folder(folder.path(), &shape.tensors(), shape.dtype, 2);
        let [at_load, at_use] = [Widen::AtLoad, Widen::AtUse].map(|widen| {
            open(folder.path(), widen)
                .start()
                .unwrap()
                .forward(&tokens)
                .unwrap()
                .logits
        });
        assert_eq!(at_load, at_use, "{name}");
    }
}

#[test]
fn a_prompt_at_once_equals_token_by_token_and_any_cut() {
    for name in ["wide", "tied", "deep"] {
        let shape = shape(name);
        let folder = tempfile::tempdir().unwrap();
        shape.write_folder(folder.path(), &shape.tensors(), shape.dtype, 1);
        let engine = open(folder.path(), Widen::AtLoad);
        let prompt = &reference(name).prompt[..90];
        let whole = engine.start().unwrap().forward(prompt).unwrap();
        for cut in [1, 7, 64] {
            let mut generation = engine.start().unwrap();
            let mut union = ExpertSet::new(shape.config.layers, shape.config.experts);
            let mut logits = Vec::new();
            for part in prompt.chunks(cut) {
                let step = generation.forward(part).unwrap();
                for layer in 0..shape.config.layers {
                    for expert in step.active.layer(layer) {
                        union.insert(layer, expert);
                    }
                }
                logits = step.logits;
            }
            let off = off_by(&logits, &whole.logits);
            assert!(off < 1e-4, "{name}, {cut} at a time: off by {off:e}");
            assert_eq!(union, whole.active, "{name}, {cut} at a time");
        }
    }
}

#[test]
fn generations_share_what_is_loaded_and_nothing_else() {
    let shape = shape("deep");
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), shape.dtype, 1);
    let engine = open(folder.path(), Widen::AtLoad);
    let (mut one, mut two) = (engine.start().unwrap(), engine.start().unwrap());
    let first = one.forward(&[1, 2]).unwrap();
    assert_eq!(first.loaded, first.active);
    let second = two.forward(&[1, 2]).unwrap();
    assert_eq!(second.active, first.active);
    assert!(second.loaded.is_empty());
    assert_eq!(second.logits, first.logits);
    // another token, fed to one alone, moves the other nowhere
    let third = one.forward(&[400]).unwrap();
    assert!((0..5).all(|layer| {
        third
            .loaded
            .layer(layer)
            .all(|e| !first.active.contains(layer, e))
    }));
    assert_eq!((one.position(), two.position()), (3, 2));
    let mut fresh = engine.start().unwrap();
    fresh.forward(&[1, 2]).unwrap();
    assert_eq!(
        two.forward(&[9]).unwrap().logits,
        fresh.forward(&[9]).unwrap().logits
    );
}
