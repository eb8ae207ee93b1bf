//! An answer, one step at a time.
//!
//! ```text
//! let mut answer = Generator::new(&engine, tokenizer, &prompt, &params)?;
//! loop {
//!     let Some(step) = answer.step(&|| cancelled())? else { break }; // cancelled
//!     send(step);
//!     if step.finished.is_some() { break }
//! }
//! ```

use std::sync::Arc;

use crate::engine::{Engine, EngineError, ExpertSet, Generation};
use crate::sampling::{Sampler, Sampling};
use crate::tokenizer::{TextStream, Tokenizer};

/// Tokens of a prompt fed to the engine at once; between two such chunks the answer can be cancelled.
pub const PROMPT_CHUNK: usize = 128;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said that it is done: the step's token is a stop token.
    Stop,
    /// `max_tokens` were made.
    Length,
    /// The context is full.
    Context,
}

impl FinishReason {
    /// `stop`, `length` or `context`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
        }
    }
}

/// What one answer is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Tokens to make at most, at least 1.
    pub max_tokens: u32,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Ids that end the answer, besides the model's own ([`crate::engine::ModelInfo::stop_tokens`]).
    pub stop_tokens: Vec<u32>,
}

/// One made token.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// Counts from 0 within the answer; step 0 fed the prompt.
    pub step: u32,
    /// The chosen token.
    pub token_id: u32,
    /// Text that became whole with this token: UTF-8, at most [`crate::tokenizer::MAX_PIECE`] bytes, often empty.
    pub text: String,
    /// Bytes of text that no piece had room for. Above 0 only in the last step, when the last tokens were longer than
    /// a piece; the token ids are complete.
    pub cut: usize,
    /// Experts that the step used.
    pub active: ExpertSet,
    /// Those of them used for the first time since the weights were loaded.
    pub loaded: ExpertSet,
    /// Set in the last step.
    pub finished: Option<FinishReason>,
}

/// Why an answer cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, the context holds {limit} and one is for the answer")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's context limit.
        limit: usize,
    },
    /// A parameter is out of range.
    #[error("{field}: expected {expected}, found {found}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: u64,
    },
    /// The engine gave no logits.
    #[error("the engine gave no logits")]
    NoLogits,
    /// A logit is NaN: the weights or the computation are broken.
    #[error("the logit of token {token} is not a number")]
    NotANumber {
        /// The token's id.
        token: usize,
    },
    /// `step` was called after the last step.
    #[error("the answer is finished")]
    Finished,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl GenerateError {
    /// A short code for the wire: `prompt_empty`, `context_exceeded`, `bad_parameter`, `engine_failed`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyPrompt => "prompt_empty",
            Self::PromptTooLong { .. } | Self::Engine(EngineError::ContextFull { .. }) => {
                "context_exceeded"
            }
            Self::Parameter { .. } => "bad_parameter",
            Self::NoLogits | Self::NotANumber { .. } | Self::Finished | Self::Engine(_) => {
                "engine_failed"
            }
        }
    }
}

/// One answer being made. Dropping it ends the answer.
pub struct Generator {
    generation: Box<dyn Generation>,
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    text: TextStream,
    stop: Vec<u32>,
    context_limit: usize,
    max_tokens: u32,
    /// What the next step feeds: the prompt, then the last token.
    feed: Vec<u32>,
    /// Tokens of `feed` already fed, when a step was broken off.
    fed: usize,
    active: ExpertSet,
    loaded: ExpertSet,
    /// The empty set for this model.
    none: ExpertSet,
    made: u32,
    finished: bool,
}

impl Generator {
    /// Prepares an answer; nothing is computed yet.
    ///
    /// # Errors
    /// An empty prompt, one that leaves no room for a token, a parameter out of range, an id that the model does not know.
    pub fn new(
        engine: &dyn Engine,
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        params: &Params,
    ) -> Result<Self, GenerateError> {
        let info = engine.info();
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if prompt.len() >= info.context_limit {
            return Err(GenerateError::PromptTooLong {
                tokens: prompt.len(),
                limit: info.context_limit,
            });
        }
        if let Some(&token) = prompt.iter().find(|t| **t as usize >= info.vocab) {
            return Err(EngineError::UnknownToken {
                token,
                vocab: info.vocab,
            }
            .into());
        }
        if params.max_tokens == 0 {
            return Err(GenerateError::Parameter {
                field: "max_tokens",
                expected: "at least 1",
                found: 0,
            });
        }
        params.sampling.check()?;
        let mut stop = info.stop_tokens.clone();
        stop.extend_from_slice(&params.stop_tokens);
        let none = ExpertSet::new(info.layers, info.experts);
        Ok(Self {
            generation: engine.start()?,
            tokenizer,
            sampler: Sampler::new(params.sampling),
            text: TextStream::default(),
            stop,
            context_limit: info.context_limit,
            max_tokens: params.max_tokens,
            feed: prompt.to_vec(),
            fed: 0,
            active: none.clone(),
            loaded: none.clone(),
            none,
            made: 0,
            finished: false,
        })
    }

    /// Makes the next token. `None`: `cancelled` said so before the token was there (it is asked every
    /// [`PROMPT_CHUNK`] tokens of the prompt); the step may be tried again.
    ///
    /// # Errors
    /// [`GenerateError::Finished`] after the last step, or what the engine says.
    pub fn step(
        &mut self,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<StepOutput>, GenerateError> {
        if self.finished {
            return Err(GenerateError::Finished);
        }
        let mut logits = Vec::new();
        while self.fed < self.feed.len() {
            if cancelled() {
                return Ok(None);
            }
            let chunk = self.feed.len().min(self.fed + PROMPT_CHUNK);
            let step = self.generation.forward(&self.feed[self.fed..chunk])?;
            self.fed = chunk;
            add(&mut self.active, &step.active);
            add(&mut self.loaded, &step.loaded);
            logits = step.logits;
        }
        let token_id = self
            .sampler
            .choose(&logits)
            .inspect_err(|_| self.finished = true)?;
        let step = self.made;
        self.made += 1;
        let finished = if self.stop.contains(&token_id) {
            Some(FinishReason::Stop)
        } else if self.made == self.max_tokens {
            Some(FinishReason::Length)
        } else if self.generation.position() >= self.context_limit {
            Some(FinishReason::Context)
        } else {
            None
        };
        let bytes = self.tokenizer.token_bytes(token_id);
        let text = if finished.is_some() {
            self.text.finish(bytes)
        } else {
            self.text.push(bytes)
        };
        self.finished = finished.is_some();
        self.feed = vec![token_id];
        self.fed = 0;
        Ok(Some(StepOutput {
            step,
            token_id,
            text,
            cut: if finished.is_some() {
                self.text.backlog()
            } else {
                0
            },
            active: std::mem::replace(&mut self.active, self.none.clone()),
            loaded: std::mem::replace(&mut self.loaded, self.none.clone()),
            finished,
        }))
    }
}

/// Puts the experts of `from` into `into`.
fn add(into: &mut ExpertSet, from: &ExpertSet) {
    for layer in 0..from.layers() {
        for expert in from.layer(layer) {
            into.insert(layer, expert);
        }
    }
}
