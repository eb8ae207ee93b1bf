//! Answers step by step: a scripted engine for the rules, a real one for the whole way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use candle_core::DType;
use halo_substrate::engine::{Engine, EngineError, ExpertSet, Generation, Kernel, ModelInfo, Step};
use halo_substrate::generate::{FinishReason, GenerateError, Generator, PROMPT_CHUNK, Params};
use halo_substrate::model::{Options, open};
use halo_substrate::sampling::Sampling;
use halo_substrate::tokenizer::Tokenizer;

use crate::synthetic::{tiny, tokenizer_json};

/// Says these tokens in turn, whatever it is fed, and notes what it was fed.
struct Script {
    info: ModelInfo,
    says: Vec<u32>,
    fed: Arc<Mutex<Vec<Vec<u32>>>>,
}

struct Reading {
    position: usize,
    vocab: usize,
    says: VecDeque<u32>,
    fed: Arc<Mutex<Vec<Vec<u32>>>>,
}

fn script(says: &[u32], context_limit: usize) -> Script {
    let info = ModelInfo {
        name: "script".into(),
        format: "none".into(),
        layers: 1,
        experts: 300,
        experts_per_token: 1,
        vocab: 263,
        context_limit,
        parameters: 0,
        weights_digest: [0; 32],
        stop_tokens: vec![259],
    };
    Script {
        info,
        says: says.to_vec(),
        fed: Arc::default(),
    }
}

impl Engine for Script {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn kernels(&self) -> Vec<Kernel> {
        vec![Kernel {
            stored: "F32",
            path: "portable",
        }]
    }

    fn start(&self) -> Result<Box<dyn Generation>, EngineError> {
        let says = self.says.iter().copied().collect();
        Ok(Box::new(Reading {
            position: 0,
            vocab: self.info.vocab,
            says,
            fed: Arc::clone(&self.fed),
        }))
    }
}

impl Generation for Reading {
    /// Expert `t` is active for token `t`, and loaded when `t` is odd.
    fn forward(&mut self, tokens: &[u32]) -> Result<Step, EngineError> {
        self.fed.lock().unwrap().push(tokens.to_vec());
        self.position += tokens.len();
        let (mut active, mut loaded) = (ExpertSet::new(1, 300), ExpertSet::new(1, 300));
        for token in tokens {
            active.insert(0, *token as usize);
            if token % 2 == 1 {
                loaded.insert(0, *token as usize);
            }
        }
        // a chunk of the prompt that is not the last one says nothing of use
        let mut logits = vec![0.0; self.vocab];
        if tokens.len() < PROMPT_CHUNK {
            match self.says.pop_front() {
                Some(token) => logits[token as usize] = 1.0,
                None => logits[0] = f32::NAN,
            }
        }
        Ok(Step {
            logits,
            active,
            loaded,
        })
    }

    fn position(&self) -> usize {
        self.position
    }
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(crate::tokenizer::tokenizer().0)
}

fn params(max_tokens: u32) -> Params {
    Params {
        max_tokens,
        sampling: Sampling::greedy(),
        stop_tokens: Vec::new(),
    }
}

const NEVER: &dyn Fn() -> bool = &|| false;

#[test]
fn an_answer_ends_for_one_of_three_reasons() {
    let cases: [(&[u32], u32, usize, &[u32], FinishReason); 6] = [
        (&[97, 98, 259], 10, 100, &[97, 98, 259], FinishReason::Stop),
        (&[259], 10, 100, &[259], FinishReason::Stop),
        (&[97, 98, 99], 2, 100, &[97, 98], FinishReason::Length),
        (&[97, 259], 2, 100, &[97, 259], FinishReason::Stop),
        // a prompt of 3 in a context of 5: two tokens are fed back, the last one is not
        (
            &[97, 98, 99, 100],
            10,
            5,
            &[97, 98, 99],
            FinishReason::Context,
        ),
        (&[97, 98], 10, 4, &[97, 98], FinishReason::Context),
    ];
    for (says, max_tokens, limit, expected, reason) in cases {
        let engine = script(says, limit);
        let mut answer =
            Generator::new(&engine, tokenizer(), &[1, 2, 3], &params(max_tokens)).unwrap();
        let mut tokens = Vec::new();
        let finished = loop {
            let step = answer.step(NEVER).unwrap().unwrap();
            assert_eq!(step.step as usize, tokens.len());
            tokens.push(step.token_id);
            if let Some(finished) = step.finished {
                break finished;
            }
        };
        assert_eq!(
            (tokens.as_slice(), finished),
            (expected, reason),
            "{says:?}"
        );
        assert!(matches!(answer.step(NEVER), Err(GenerateError::Finished)));
        // the prompt was fed once, then each token but the last
        let fed: Vec<u32> = engine.fed.lock().unwrap().concat();
        assert_eq!(fed, [&[1, 2, 3], &expected[..expected.len() - 1]].concat());
    }
}

#[test]
fn stop_tokens_of_the_request_end_it_too() {
    let engine = script(&[97, 98], 100);
    let stop = Params {
        stop_tokens: vec![97],
        ..params(10)
    };
    let step = Generator::new(&engine, tokenizer(), &[1], &stop)
        .unwrap()
        .step(NEVER)
        .unwrap()
        .unwrap();
    assert_eq!(
        (step.token_id, step.finished),
        (97, Some(FinishReason::Stop))
    );
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_code() {
    let sampling = |temperature_milli, top_p_milli| Sampling {
        temperature_milli,
        top_k: 0,
        top_p_milli,
        seed: 0,
    };
    let cases: [(&[u32], Params, &str, &str); 7] = [
        (&[], params(1), "prompt_empty", "the prompt is empty"),
        (
            &[1; 8],
            params(1),
            "context_exceeded",
            "the prompt has 8 tokens, the context holds 8",
        ),
        (
            &[1; 9],
            params(1),
            "context_exceeded",
            "the prompt has 9 tokens, the context holds 8",
        ),
        (
            &[1, 263],
            params(1),
            "engine_failed",
            "token id 263 is not below the vocabulary size 263",
        ),
        (
            &[1],
            params(0),
            "bad_parameter",
            "max_tokens: expected at least 1, found 0",
        ),
        (
            &[1],
            Params {
                sampling: sampling(100_001, 1000),
                ..params(1)
            },
            "bad_parameter",
            "temperature_milli: expected at most 100000",
        ),
        (
            &[1],
            Params {
                sampling: sampling(0, 0),
                ..params(1)
            },
            "bad_parameter",
            "top_p_milli: expected 1 to 1000, found 0",
        ),
    ];
    for (prompt, params, code, message) in cases {
        let engine = script(&[97], 8);
        let error = Generator::new(&engine, tokenizer(), prompt, &params)
            .err()
            .unwrap();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(message), "{error}");
        assert!(engine.fed.lock().unwrap().is_empty());
    }
}

#[test]
fn logits_that_are_no_numbers_end_the_answer() {
    let engine = script(&[], 100);
    let mut answer = Generator::new(&engine, tokenizer(), &[1], &params(5)).unwrap();
    assert!(matches!(
        answer.step(NEVER),
        Err(GenerateError::NotANumber { token: 0 })
    ));
    assert!(matches!(answer.step(NEVER), Err(GenerateError::Finished)));
}

#[test]
fn a_long_prompt_is_fed_in_chunks_that_can_be_cancelled_between() {
    let prompt: Vec<u32> = (0..2 * PROMPT_CHUNK as u32 + 5).map(|n| n % 250).collect();
    let engine = script(&[97, 259], 1000);
    let mut answer = Generator::new(&engine, tokenizer(), &prompt, &params(5)).unwrap();
    // cancelled when asked for the second time: one chunk was fed
    let asked = Cell::new(0);
    let second_time = || {
        asked.set(asked.get() + 1);
        asked.get() == 2
    };
    assert!(answer.step(&second_time).unwrap().is_none());
    assert_eq!(engine.fed.lock().unwrap().len(), 1);
    assert!(answer.step(&|| true).unwrap().is_none());
    assert_eq!(engine.fed.lock().unwrap().len(), 1);
    // taken up again it goes on where it was, and the step has the experts of the whole prompt
    let step = answer.step(NEVER).unwrap().unwrap();
    assert_eq!((step.step, step.token_id), (0, 97));
    let fed = engine.fed.lock().unwrap().clone();
    assert_eq!(
        fed.iter().map(Vec::len).collect::<Vec<_>>(),
        [PROMPT_CHUNK, PROMPT_CHUNK, 5]
    );
    assert_eq!(fed.concat(), prompt);
    assert_eq!(step.active.count(), 250);
    assert_eq!(step.loaded.count(), 125);
    // the next step has its own token's alone
    let step = answer.step(NEVER).unwrap().unwrap();
    assert_eq!(step.active.layer(0).collect::<Vec<_>>(), [97]);
    assert_eq!(step.loaded.layer(0).collect::<Vec<_>>(), [97]);
    assert!(answer.step(&|| true).is_err());
}

#[test]
fn text_that_became_whole_comes_with_its_token() {
    let engine = script(&[97, 257, 0xac, 258, 259], 100);
    let mut answer = Generator::new(&engine, tokenizer(), &[1], &params(5)).unwrap();
    let steps: Vec<(String, usize)> = (0..5)
        .map(|_| answer.step(NEVER).unwrap().unwrap())
        .map(|step| (step.text, step.cut))
        .collect();
    let dashes = |n: usize| "-".repeat(n);
    let expected = [
        ("a".into(), 0),
        (String::new(), 0),
        ("€".into(), 0),
        (dashes(122), 0),
        (dashes(78), 0),
    ];
    assert_eq!(steps, expected);
    // what has no room in the last step is counted
    let engine = script(&[258], 100);
    let step = Generator::new(&engine, tokenizer(), &[1], &params(1))
        .unwrap()
        .step(NEVER)
        .unwrap()
        .unwrap();
    assert_eq!((step.text, step.cut), (dashes(122), 78));
}

#[test]
fn a_model_from_a_folder_answers_a_prompt() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::BF16, 2);
    std::fs::write(
        folder.path().join("tokenizer.json"),
        tokenizer_json().to_string(),
    )
    .unwrap();
    std::fs::write(
        folder.path().join("chat_template.jinja"),
        "<|im_start|>{{ messages[0].content }}",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("generation_config.json"),
        r#"{"eos_token_id": [261, 259]}"#,
    )
    .unwrap();
    let model = open(
        folder.path(),
        &Options {
            context_limit: Some(40),
            ..Options::default()
        },
    )
    .unwrap();
    let info = model.engine.info();
    assert_eq!(
        (info.context_limit, info.stop_tokens.as_slice()),
        (40, [259, 261].as_slice())
    );
    assert_eq!(info.format, "safetensors BF16");
    // outside: embedding, head, norm; a layer: two norms, q, k, v, o, two head norms, router, three experts of three
    let layer = 8 + 8 + 12 * 8 + 6 * 8 + 6 * 8 + 8 * 12 + 6 + 6 + 3 * 8 + 3 * 3 * 4 * 8;
    assert_eq!(info.parameters, 2 * 300 * 8 + 8 + 2 * layer);

    let messages = [halo_substrate::template::Message::user("Hi")];
    let text = model
        .template
        .as_ref()
        .unwrap()
        .render(&messages, None)
        .unwrap();
    let prompt = model.tokenizer.encode(&text, false).unwrap();
    assert_eq!(prompt, [260, 72, 105]);
    let run = |seed| {
        let sampling = Sampling {
            temperature_milli: 1500,
            top_k: 0,
            top_p_milli: 1000,
            seed,
        };
        let params = Params {
            max_tokens: 100,
            sampling,
            stop_tokens: Vec::new(),
        };
        let mut answer = Generator::new(
            &*model.engine,
            Arc::clone(&model.tokenizer),
            &prompt,
            &params,
        )
        .unwrap();
        let mut tokens = Vec::new();
        loop {
            let step = answer.step(NEVER).unwrap().unwrap();
            // every step of a token uses its experts in every layer
            assert!((0..2).all(|layer| step.active.layer(layer).count() >= 2));
            tokens.push(step.token_id);
            if step.finished.is_some() {
                break tokens;
            }
        }
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    assert!(first.len() <= 38);
}

#[test]
fn the_weights_digest_covers_every_file_that_was_read() {
    let shape = tiny();
    let folder = tempfile::tempdir().unwrap();
    shape.write_folder(folder.path(), &shape.tensors(), DType::BF16, 2);
    let digest = |threads| {
        let options = Options {
            threads,
            ..Options::default()
        };
        halo_substrate::model::load(folder.path(), &options)
            .unwrap()
            .0
            .info()
            .weights_digest
    };
    let first = digest(1);
    assert_eq!(first, digest(4));
    // what the engine does not read does not count
    std::fs::write(folder.path().join("README.md"), "hello").unwrap();
    assert_eq!(first, digest(1));
    for file in [
        "config.json",
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
    ] {
        let path = folder.path().join(file);
        let before = std::fs::read(&path).unwrap();
        let mut after = before.clone();
        if file.ends_with(".json") {
            after.push(b'\n');
        } else {
            *after.last_mut().unwrap() ^= 1;
        }
        std::fs::write(&path, after).unwrap();
        assert_ne!(first, digest(1), "{file}");
        std::fs::write(&path, before).unwrap();
    }
    assert_eq!(first, digest(2));
}
