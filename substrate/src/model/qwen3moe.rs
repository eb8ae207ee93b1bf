//! The reference engine: Qwen3-MoE, on the tensor library's operations, in F32.
//!
//! It is made to be right and readable; faster engines are measured against it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::attention::{Attention, Cache, Rotation, rms_norm};
use super::config::Config;
use super::experts::{Experts, FeedForward};
use super::kernels::Processor;
use super::weights::{Linear, Loaded, Weight};
use crate::engine::{Engine, EngineError, ExpertSet, Generation, Kernel, ModelInfo, Step};

/// Tokens computed at once at most; more are cut into runs of this many. It bounds the attention scores held.
const RUN: usize = 256;

/// The feed-forward half of a layer.
enum Block {
    Dense(Box<FeedForward>),
    Routed(Experts),
}

struct Layer {
    attention_norm: Tensor,
    attention: Attention,
    block_norm: Tensor,
    block: Block,
}

struct Weights {
    config: Config,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `None` when the embedding serves as the head.
    head: Option<Weight>,
    /// The experts that any generation has used.
    used: Mutex<ExpertSet>,
    info: ModelInfo,
    kernels: Vec<Kernel>,
}

/// A loaded model.
pub struct ReferenceEngine {
    weights: Arc<Weights>,
}

impl ReferenceEngine {
    /// Puts the layers together.
    ///
    /// # Errors
    /// When a tensor is missing.
    pub fn new(config: Config, mut loaded: Loaded, info: ModelInfo) -> Result<Self, EngineError> {
        let processor = Processor::here();
        let stored = loaded.stored.iter();
        let kernels = stored.map(|&stored| processor.kernel(stored)).collect();
        let mut layers = Vec::with_capacity(config.layers);
        for (number, &dense) in config.dense.iter().enumerate() {
            layers.push(layer(&config, &mut loaded, number, dense)?);
        }
        let weights = Weights {
            embedding: loaded.take("model.embed_tokens.weight")?,
            norm: loaded.take_f32("model.norm.weight")?,
            head: if config.tied {
                None
            } else {
                Some(loaded.take("lm_head.weight")?)
            },
            layers,
            used: Mutex::new(ExpertSet::new(config.layers, config.experts)),
            config,
            info,
            kernels,
        };
        Ok(Self {
            weights: Arc::new(weights),
        })
    }
}

fn layer(
    config: &Config,
    loaded: &mut Loaded,
    number: usize,
    dense: bool,
) -> Result<Layer, EngineError> {
    let name = |rest: &str| format!("model.layers.{number}.{rest}");
    let mut linear = |part: &str| {
        let bias = match config.attention_bias {
            true => Some(loaded.take_f32(&name(&format!("self_attn.{part}_proj.bias")))?),
            false => None,
        };
        Ok(Linear {
            weight: loaded.take(&name(&format!("self_attn.{part}_proj.weight")))?,
            bias,
        })
    };
    let (query, key, value, output) = (linear("q")?, linear("k")?, linear("v")?, linear("o")?);
    let attention = Attention {
        query,
        key,
        value,
        output,
        query_norm: loaded.take_f32(&name("self_attn.q_norm.weight"))?,
        key_norm: loaded.take_f32(&name("self_attn.k_norm.weight"))?,
    };
    let mut feed_forward = |prefix: &str| {
        Ok(FeedForward {
            gate: loaded.take(&name(&format!("{prefix}.gate_proj.weight")))?,
            up: loaded.take(&name(&format!("{prefix}.up_proj.weight")))?,
            down: loaded.take(&name(&format!("{prefix}.down_proj.weight")))?,
        })
    };
    let block = if dense {
        Block::Dense(Box::new(feed_forward("mlp")?))
    } else {
        let experts: Result<_, EngineError> = (0..config.experts)
            .map(|expert| feed_forward(&format!("mlp.experts.{expert}")))
            .collect();
        Block::Routed(Experts {
            experts: experts?,
            router: loaded.take_f32(&name("mlp.gate.weight"))?,
            per_token: config.experts_per_token,
            normalise: config.norm_topk_prob,
        })
    };
    Ok(Layer {
        attention_norm: loaded.take_f32(&name("input_layernorm.weight"))?,
        attention,
        block_norm: loaded.take_f32(&name("post_attention_layernorm.weight"))?,
        block,
    })
}

impl Engine for ReferenceEngine {
    fn info(&self) -> &ModelInfo {
        &self.weights.info
    }

    fn kernels(&self) -> Vec<Kernel> {
        self.weights.kernels.clone()
    }

    fn start(&self) -> Result<Box<dyn Generation>, EngineError> {
        let weights = Arc::clone(&self.weights);
        let caches: candle_core::Result<_> = weights
            .layers
            .iter()
            .map(|_| Cache::new(&weights.config))
            .collect();
        let caches = caches.map_err(|error| failed("the cache".into(), &error))?;
        Ok(Box::new(Sequence {
            weights,
            caches,
            position: 0,
        }))
    }
}

fn failed(place: String, error: &candle_core::Error) -> EngineError {
    EngineError::Compute {
        place,
        message: error.to_string(),
    }
}

/// One generation: the tokens fed so far, as keys and values.
struct Sequence {
    weights: Arc<Weights>,
    caches: Vec<Cache>,
    position: usize,
}

impl Sequence {
    /// Runs `tokens` through all layers and gives the last one's state, `[1, hidden]`. The position stays.
    fn run(
        &mut self,
        tokens: &[u32],
        held: usize,
        active: &mut ExpertSet,
    ) -> Result<Tensor, EngineError> {
        let Weights {
            config,
            layers,
            embedding,
            ..
        } = &*self.weights;
        let outside = |error| failed("the embedding".into(), &error);
        let mut x = embedding.rows(tokens).map_err(outside)?;
        let rotation = Rotation::new(config, held, tokens.len()).map_err(outside)?;
        for (number, (layer, cache)) in layers.iter().zip(&mut self.caches).enumerate() {
            let mut step = || {
                let y = rms_norm(&x, &layer.attention_norm, config.rms_eps)?;
                let x = (&x
                    + layer
                        .attention
                        .forward(config, &y, &rotation, cache, held)?)?;
                let y = rms_norm(&x, &layer.block_norm, config.rms_eps)?;
                let y = match &layer.block {
                    Block::Dense(block) => block.forward(&y)?,
                    Block::Routed(experts) => experts.forward(&y, |expert| {
                        active.insert(number, expert);
                    })?,
                };
                x + y
            };
            x = step().map_err(|error| failed(format!("layer {number}"), &error))?;
        }
        x.narrow(0, tokens.len() - 1, 1).map_err(outside)
    }

    fn logits(&self, last: &Tensor) -> candle_core::Result<Vec<f32>> {
        let weights = &*self.weights;
        let normed = rms_norm(last, &weights.norm, weights.config.rms_eps)?;
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        head.apply(&normed)?.flatten_all()?.to_vec1()
    }
}

impl Generation for Sequence {
    fn forward(&mut self, tokens: &[u32]) -> Result<Step, EngineError> {
        let config = &self.weights.config;
        let limit = self.weights.info.context_limit;
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= config.vocab) {
            return Err(EngineError::UnknownToken {
                token,
                vocab: config.vocab,
            });
        }
        if tokens.len() > limit - self.position {
            return Err(EngineError::ContextFull {
                position: self.position,
                requested: tokens.len(),
                limit,
            });
        }
        let mut active = ExpertSet::new(config.layers, config.experts);
        let mut loaded = ExpertSet::new(config.layers, config.experts);
        let mut held = self.position;
        let mut last = None;
        for run in tokens.chunks(RUN) {
            last = Some(self.run(run, held, &mut active)?);
            held += run.len();
        }
        let last = last.ok_or(EngineError::NoTokens)?;
        let logits = self
            .logits(&last)
            .map_err(|error| failed("the head".into(), &error))?;
        self.position = held;
        let mut used = self
            .weights
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for layer in 0..active.layers() {
            for expert in active.layer(layer) {
                if used.insert(layer, expert) {
                    loaded.insert(layer, expert);
                }
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
