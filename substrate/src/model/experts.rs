//! The feed-forward half of a layer: routed experts, or one dense block.

use candle_core::{Device, Result, Tensor};

use super::weights::Weight;

/// `down(silu(gate(x)) * up(x))`: one expert, or the block of a layer without experts.
pub struct FeedForward {
    /// `[inner, hidden]`
    pub gate: Weight,
    /// `[inner, hidden]`
    pub up: Weight,
    /// `[hidden, inner]`
    pub down: Weight,
}

impl FeedForward {
    /// `[n, hidden]` to `[n, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down
            .apply(&(self.gate.apply(x)?.silu()? * self.up.apply(x)?)?)
    }
}

/// The experts of one layer and the router that chooses among them.
pub struct Experts {
    /// `[experts, hidden]`, F32.
    pub router: Tensor,
    /// The experts by number.
    pub experts: Vec<FeedForward>,
    /// How many each token chooses.
    pub per_token: usize,
    /// Whether their weights are scaled to sum to 1.
    pub normalise: bool,
}

impl Experts {
    /// `[n, hidden]` to `[n, hidden]`. Each expert computes only the rows that chose it; `active` hears of each that
    /// was chosen, once, in ascending order.
    pub fn forward(&self, x: &Tensor, mut active: impl FnMut(usize)) -> Result<Tensor> {
        let (n, hidden) = x.dims2()?;
        let scores = x.matmul(&self.router.t()?)?.to_vec2::<f32>()?;
        let mut chosen: Vec<Vec<(usize, f32)>> = vec![Vec::new(); self.experts.len()];
        for (row, scores) in scores.iter().enumerate() {
            for (expert, weight) in route(scores, self.per_token, self.normalise) {
                chosen[expert].push((row, weight));
            }
        }
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let mut sum = vec![0.0_f32; n * hidden];
        for (number, (expert, rows)) in self.experts.iter().zip(&chosen).enumerate() {
            if rows.is_empty() {
                continue;
            }
            active(number);
            let input = if rows.len() == n {
                x.clone() // rows are in order, so these are all of them
            } else {
                let gathered: Vec<f32> = rows
                    .iter()
                    .flat_map(|(row, _)| &values[row * hidden..(row + 1) * hidden])
                    .copied()
                    .collect();
                Tensor::from_vec(gathered, (rows.len(), hidden), &Device::Cpu)?
            };
            let output = expert.forward(&input)?.flatten_all()?.to_vec1::<f32>()?;
            for ((row, weight), output) in rows.iter().zip(output.chunks_exact(hidden)) {
                for (total, value) in sum[row * hidden..(row + 1) * hidden].iter_mut().zip(output) {
                    *total += weight * value;
                }
            }
        }
        Tensor::from_vec(sum, (n, hidden), &Device::Cpu)
    }
}

/// The `count` experts with the highest scores, by softmax over all; of equal ones the lower number.
fn route(scores: &[f32], count: usize, normalise: bool) -> Vec<(usize, f32)> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
    let total: f32 = powers.iter().sum();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(count);
    let chosen: f32 = order.iter().map(|expert| powers[*expert]).sum();
    let divisor = if normalise { chosen } else { total };
    order
        .into_iter()
        .map(|expert| (expert, powers[expert] / divisor))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_takes_the_highest_and_weighs_them() {
        let scores = [0.0, 3.0_f32.ln(), 0.0, 6.0_f32.ln()]; // softmax: 1, 3, 1, 6 elevenths
        let close = |found: Vec<(usize, f32)>, expected: &[(usize, f32)]| {
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!(
                    f.0 == e.0 && (f.1 - e.1).abs() < 1e-6,
                    "{found:?} {expected:?}"
                );
            }
        };
        close(
            route(&scores, 2, false),
            &[(3, 6.0 / 11.0), (1, 3.0 / 11.0)],
        );
        close(route(&scores, 2, true), &[(3, 6.0 / 9.0), (1, 3.0 / 9.0)]);
        // of the two equal ones the lower number
        close(
            route(&scores, 3, false),
            &[(3, 6.0 / 11.0), (1, 3.0 / 11.0), (0, 1.0 / 11.0)],
        );
    }

    #[test]
    fn routing_survives_extreme_scores() {
        for scores in [[1e30, -1e30, 0.0], [f32::MIN, f32::MIN, f32::MIN]] {
            assert!(
                route(&scores, 2, true)
                    .iter()
                    .all(|(_, weight)| weight.is_finite())
            );
        }
    }
}
