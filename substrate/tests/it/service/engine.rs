//! An engine that says what it is told to, at the pace that it is told to.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use halo_substrate::engine::{Engine, EngineError, ExpertSet, Generation, Kernel, ModelInfo, Step};
use halo_substrate::tokenizer::Tokenizer;

use crate::synthetic::tokenizer_json;

/// The token that ends an answer: `<|im_end|>` of the tests' tokenizer.
pub const STOP: u32 = 259;
pub const CONTEXT: usize = 256;

/// Lets steps through one by one, or all of them.
pub struct Gate {
    permits: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn open() -> Arc<Self> {
        Self::with(usize::MAX)
    }

    pub fn with(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Mutex::new(permits),
            changed: Condvar::new(),
        })
    }

    pub fn allow(&self, steps: usize) {
        let mut permits = self.permits.lock().unwrap();
        *permits = permits.saturating_add(steps);
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut permits = self.permits.lock().unwrap();
        while *permits == 0 {
            permits = self.changed.wait(permits).unwrap();
        }
        if *permits != usize::MAX {
            *permits -= 1;
        }
    }
}

pub struct Scripted {
    info: ModelInfo,
    script: Arc<Vec<u32>>,
    gate: Arc<Gate>,
    /// Steps computed so far, prompts included.
    pub calls: Arc<AtomicUsize>,
    /// The step of an answer that fails, if any; it panics if `panics`.
    pub fails_at: Option<usize>,
    pub panics: bool,
}

impl Scripted {
    /// Says `text` byte by byte, and stops.
    pub fn saying(text: &str, gate: Arc<Gate>) -> Self {
        let script = text.bytes().map(u32::from).chain([STOP]).collect();
        Self {
            info: ModelInfo {
                name: "scripted".into(),
                format: "none".into(),
                layers: 2,
                experts: 8,
                experts_per_token: 2,
                vocab: 263,
                context_limit: CONTEXT,
                parameters: 1,
                weights_digest: [7; 32],
                stop_tokens: vec![STOP],
            },
            script: Arc::new(script),
            gate,
            calls: Arc::default(),
            fails_at: None,
            panics: false,
        }
    }
}

impl Engine for Scripted {
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
        Ok(Box::new(Line {
            script: Arc::clone(&self.script),
            gate: Arc::clone(&self.gate),
            calls: Arc::clone(&self.calls),
            fails_at: self.fails_at,
            panics: self.panics,
            position: 0,
            made: 0,
        }))
    }
}

struct Line {
    script: Arc<Vec<u32>>,
    gate: Arc<Gate>,
    calls: Arc<AtomicUsize>,
    fails_at: Option<usize>,
    panics: bool,
    position: usize,
    made: usize,
}

impl Generation for Line {
    fn forward(&mut self, tokens: &[u32]) -> Result<Step, EngineError> {
        self.gate.pass();
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fails_at == Some(self.made) {
            assert!(!self.panics, "an engine that panics");
            return Err(EngineError::Compute {
                place: "layer 0".into(),
                message: "broken".into(),
            });
        }
        self.position += tokens.len();
        let mut logits = vec![0.0; 263];
        logits[self.script[self.made % self.script.len()] as usize] = 1.0;
        let mut active = ExpertSet::new(2, 8);
        for layer in 0..2 {
            active.insert(layer, self.made % 8);
            active.insert(layer, (self.made + 3) % 8);
        }
        let loaded = if self.made == 0 {
            active.clone()
        } else {
            ExpertSet::new(2, 8)
        };
        self.made += 1;
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

/// A tokenizer in which every byte is a token.
pub fn tokenizer(folder: &Path) -> Arc<Tokenizer> {
    let file = folder.join("tokenizer.json");
    std::fs::write(&file, tokenizer_json().to_string()).unwrap();
    Arc::new(Tokenizer::from_file(&file).unwrap())
}
