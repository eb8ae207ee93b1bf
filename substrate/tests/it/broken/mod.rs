//! Files that are not what they should be: each gets an error that says which file, which part, what was expected and
//! what was found, and nothing is served.

mod folders;
mod gguf;

use std::path::Path;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use halo_substrate::engine::EngineError;
use halo_substrate::model::{Options, load, open};
use serde_json::{Value, json};

use crate::synthetic::{tiny, tokenizer_json};

fn refusal(path: &Path) -> EngineError {
    match load(path, &Options::default()) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error,
    }
}

/// The variant's name and the text.
fn told(error: &EngineError) -> (String, String) {
    let debug = format!("{error:?}");
    let variant = debug
        .split([' ', '{', '('])
        .next()
        .unwrap_or_default()
        .to_owned();
    (variant, error.to_string())
}

/// Every byte of the header changed in three ways: the file loads or is refused, and never a panic.
#[test]
fn no_byte_of_a_header_can_cause_a_panic() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    let tensors = shape.tensors();
    let gguf = folder.path().join("model.gguf");
    shape.write_gguf(&gguf, &tensors, GgmlDType::F32);
    shape.write_folder(folder.path(), &tensors, DType::BF16, 1);
    let mut refused = 0;
    for file in ["model.gguf", "model.safetensors", "config.json"] {
        let path = folder.path().join(file);
        let original = std::fs::read(&path).unwrap();
        let header = original.len().min(1500);
        for i in 0..header {
            let mut bytes = original.clone();
            bytes[i] ^= [0x01, 0x80, 0xff][i % 3];
            std::fs::write(&path, &bytes).unwrap();
            let whole = if file == "model.gguf" {
                &gguf
            } else {
                folder.path()
            };
            refused += usize::from(
                load(
                    whole,
                    &Options {
                        threads: 1,
                        ..Options::default()
                    },
                )
                .is_err(),
            );
        }
        std::fs::write(&path, &original).unwrap();
    }
    assert!(refused > 1500, "{refused}");
}

#[test]
fn every_way_to_cut_a_file_short_is_refused() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    let tensors = shape.tensors();
    let gguf = folder.path().join("model.gguf");
    shape.write_gguf(&gguf, &tensors, GgmlDType::F32);
    shape.write_folder(folder.path(), &tensors, DType::BF16, 1);
    for (file, whole) in [
        ("model.gguf", gguf.as_path()),
        ("model.safetensors", folder.path()),
    ] {
        let path = folder.path().join(file);
        let original = std::fs::read(&path).unwrap();
        // candle's writer pads the last tensor: without its padding a file is whole
        let end = if file == "model.gguf" {
            original.len() - 31
        } else {
            original.len()
        };
        for length in (0..end).step_by(97).chain([end - 1]) {
            std::fs::write(&path, &original[..length]).unwrap();
            let (variant, text) = told(&refusal(whole));
            assert!(
                ["Truncated", "Format"].contains(&variant.as_str()),
                "{file} cut to {length}: {text}"
            );
        }
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::BF16, 1);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut json = tokenizer_json();
        change(&mut json);
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        match open(folder.path(), &Options::default()) {
            Ok(_) => "loaded".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(refused(&|_| {}), "loaded");
    let cases: [(&dyn Fn(&mut Value), &str); 5] = [
        (
            &|json| json["decoder"] = json!(null),
            "tokenizer.json: decoder: expected ByteLevel, found none",
        ),
        (
            &|json| json["decoder"] = json!({"type": "ByteFallback"}),
            "tokenizer.json: decoder: expected ByteLevel, found ByteFallback",
        ),
        (
            &|json| json["model"]["vocab"] = json!(3),
            "tokenizer.json: content: expected a Hugging Face tokenizer",
        ),
        (
            &|json| json["added_tokens"][0]["id"] = json!(300),
            "added token <|im_end|>: expected id 300, found 259",
        ),
        (
            &|json| {
                json["added_tokens"] = json!([]);
                json["model"]["vocab"]["zz"] = json!(300);
            },
            "vocabulary: expected at most 300 ids, the model's, found 301",
        ),
    ];
    for (change, message) in cases {
        let text = refused(change);
        assert!(text.contains(message), "{text}");
    }
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let text = open(folder.path(), &Options::default())
        .err()
        .unwrap()
        .to_string();
    assert!(
        text.contains("tokenizer: expected ") && text.contains("--tokenizer, found no such file"),
        "{text}"
    );
}

#[test]
fn a_context_limit_above_the_models_is_refused() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::BF16, 1);
    let with = |limit| {
        load(
            folder.path(),
            &Options {
                context_limit: Some(limit),
                ..Options::default()
            },
        )
    };
    for limit in [0, 65] {
        let text = with(limit).err().unwrap().to_string();
        assert!(
            text.contains("context limit asked for: expected 1 to 64, the model's own"),
            "{text}"
        );
    }
    assert!(with(64).is_ok());
}
