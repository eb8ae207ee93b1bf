//! Grouped-query attention with normed queries and keys, a rotary embedding and a cache.

use candle_core::{D, DType, Device, Module, Result, Tensor};

use super::config::Config;
use super::weights::Linear;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (root mean square norm, arXiv:1910.07467).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?
        .broadcast_mul(weight)
}

/// Softmax over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// Rotations of the rotary embedding (arXiv:2104.09864) for some consecutive positions, halves layout: value `i` of a
/// head turns with value `i + head_dim / 2`.
pub struct Rotation {
    /// `[positions, 1, head_dim / 2]`
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// For `count` positions from `first` on. Angles are F32 products, as in the reference.
    pub fn new(config: &Config, first: usize, count: usize) -> Result<Self> {
        let half = config.head_dim / 2;
        let frequency = |i: usize| {
            (1.0 / config
                .rope_theta
                .powf(2.0 * i as f64 / config.head_dim as f64)) as f32
        };
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles: Vec<f32> = (first..first + count)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (count, 1, half), &Device::Cpu)?;
        Ok(Self {
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// Turns `[positions, heads, head_dim]`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (
            x.narrow(D::Minus1, 0, half)?,
            x.narrow(D::Minus1, half, half)?,
        );
        let turned_a = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let turned_b = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Tensor::cat(&[turned_a, turned_b], D::Minus1)
    }
}

/// The keys and values of one layer: `[kv_heads, capacity, head_dim]`, F32, doubled when full.
pub struct Cache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    const FIRST_CAPACITY: usize = 64;

    /// An empty cache.
    pub fn new(config: &Config) -> Result<Self> {
        let zeros = || {
            Tensor::zeros(
                (config.kv_heads, Self::FIRST_CAPACITY, config.head_dim),
                DType::F32,
                &Device::Cpu,
            )
        };
        Ok(Self {
            keys: zeros()?,
            values: zeros()?,
        })
    }

    /// Writes keys and values `[kv_heads, n, head_dim]` behind the `held` positions that count, and gives all of them.
    fn extend(&mut self, held: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let total = held + keys.dim(1)?;
        let capacity = self.keys.dim(1)?;
        if total > capacity {
            let larger = total.max(2 * capacity);
            self.keys = grown(&self.keys, held, larger)?;
            self.values = grown(&self.values, held, larger)?;
        }
        self.keys.slice_set(&keys.contiguous()?, 1, held)?;
        self.values.slice_set(&values.contiguous()?, 1, held)?;
        Ok((
            self.keys.narrow(1, 0, total)?,
            self.values.narrow(1, 0, total)?,
        ))
    }
}

fn grown(old: &Tensor, held: usize, capacity: usize) -> Result<Tensor> {
    let (heads, _, width) = old.dims3()?;
    let new = Tensor::zeros((heads, capacity, width), DType::F32, &Device::Cpu)?;
    if held > 0 {
        new.slice_set(&old.narrow(1, 0, held)?.contiguous()?, 1, 0)?;
    }
    Ok(new)
}

/// One layer's attention.
pub struct Attention {
    /// `[heads * head_dim, hidden]`
    pub query: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub key: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub value: Linear,
    /// `[hidden, heads * head_dim]`
    pub output: Linear,
    /// `[head_dim]`
    pub query_norm: Tensor,
    /// `[head_dim]`
    pub key_norm: Tensor,
}

impl Attention {
    /// `x` is `[n, hidden]`, at the positions of `rotation`, behind `held` positions of the cache.
    pub fn forward(
        &self,
        config: &Config,
        x: &Tensor,
        rotation: &Rotation,
        cache: &mut Cache,
        held: usize,
    ) -> Result<Tensor> {
        let n = x.dim(0)?;
        let (heads, kv_heads, width) = (config.heads, config.kv_heads, config.head_dim);
        let group = heads / kv_heads;
        let query = self.query.forward(x)?.reshape((n, heads, width))?;
        let key = self.key.forward(x)?.reshape((n, kv_heads, width))?;
        let value = self.value.forward(x)?.reshape((n, kv_heads, width))?;
        let query = rotation.apply(&rms_norm(&query, &self.query_norm, config.rms_eps)?)?;
        let key = rotation.apply(&rms_norm(&key, &self.key_norm, config.rms_eps)?)?;

        let (keys, values) = cache.extend(held, &key.transpose(0, 1)?, &value.transpose(0, 1)?)?;
        let total = held + n;
        // The queries of one group share a key head: they become the rows of one product, and no key is repeated.
        let query = query
            .reshape((n, kv_heads, group, width))?
            .permute((1, 2, 0, 3))?;
        let query = query.reshape((kv_heads, group * n, width))?;
        let scores = (query.matmul(&keys.t()?)? * (1.0 / (width as f64).sqrt()))?;
        let scores = if n == 1 {
            scores
        } else {
            let scores = scores.reshape((kv_heads * group, n, total))?;
            scores
                .broadcast_add(&causal_mask(held, n)?)?
                .reshape((kv_heads, group * n, total))?
        };
        let mixed = softmax(&scores)?.matmul(&values)?;
        let mixed = mixed
            .reshape((kv_heads, group, n, width))?
            .permute((2, 0, 1, 3))?;
        self.output.forward(&mixed.reshape((n, heads * width))?)
    }
}

/// `[n, held + n]`: 0 where the position of the row may look, minus infinity behind it.
fn causal_mask(held: usize, n: usize) -> Result<Tensor> {
    let total = held + n;
    let look = |row: usize| {
        (0..total).map(move |column| {
            if column <= held + row {
                0.0
            } else {
                f32::NEG_INFINITY
            }
        })
    };
    Tensor::from_vec(
        (0..n).flat_map(look).collect::<Vec<f32>>(),
        (n, total),
        &Device::Cpu,
    )
}
