//! Choosing the next token from logits.

use serde::{Deserialize, Serialize};

use crate::generate::GenerateError;

/// How the next token is chosen: integers only, so that a request means the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature in thousandths, at most [`Sampling::MAX_TEMPERATURE`]; 0 takes the highest logit (the other fields
    /// then say nothing).
    pub temperature_milli: u32,
    /// Only the `top_k` highest logits stay in play; 0 for all.
    pub top_k: u32,
    /// Of those, the fewest whose probabilities sum to this many thousandths, 1 to 1000; 1000 for all.
    pub top_p_milli: u32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// Above this temperature every distribution is flat anyway.
    pub const MAX_TEMPERATURE: u32 = 100_000;

    /// Always the highest logit.
    pub fn greedy() -> Self {
        Self {
            temperature_milli: 0,
            top_k: 0,
            top_p_milli: 1000,
            seed: 0,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GenerateError::Parameter`].
    pub fn check(&self) -> Result<(), GenerateError> {
        let wrong = |field, expected, found: u32| {
            Err(GenerateError::Parameter {
                field,
                expected,
                found: found.into(),
            })
        };
        if self.temperature_milli > Self::MAX_TEMPERATURE {
            return wrong(
                "temperature_milli",
                "at most 100000",
                self.temperature_milli,
            );
        }
        if !(1..=1000).contains(&self.top_p_milli) {
            return wrong("top_p_milli", "1 to 1000", self.top_p_milli);
        }
        Ok(())
    }
}

/// Draws one token after the other. Draw `n` depends on the seed, `n` and the logits alone.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
}

impl Sampler {
    /// Begins at draw 0.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, draws: 0 }
    }

    /// Chooses a token id. Of equal logits the lower id counts as the higher.
    ///
    /// # Errors
    /// [`GenerateError::NoLogits`] when there are none, [`GenerateError::NotANumber`] when one of them is NaN.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, GenerateError> {
        if let Some(token) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(GenerateError::NotANumber { token });
        }
        let draw = self.draws;
        self.draws += 1;
        if self.sampling.temperature_milli == 0 {
            let best = logits
                .iter()
                .enumerate()
                .rev()
                .max_by(|a, b| a.1.total_cmp(b.1));
            return best.map(|(id, _)| id as u32).ok_or(GenerateError::NoLogits);
        }
        let unit = unit_interval(self.sampling.seed, draw);
        pick(&self.candidates(logits), unit).ok_or(GenerateError::NoLogits)
    }

    /// The ids in play with weights that are not normalised, highest first.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<(u32, f32)> = logits
            .iter()
            .enumerate()
            .map(|(id, logit)| (id as u32, *logit))
            .collect();
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let keep = match self.sampling.top_k as usize {
            0 => order.len(),
            k => k.min(order.len()),
        };
        if keep < order.len() {
            order.select_nth_unstable_by(keep, descending);
            order.truncate(keep);
        }
        order.sort_unstable_by(descending);
        let highest = order.first().map_or(0.0, |(_, logit)| f64::from(*logit));
        let temperature = f64::from(self.sampling.temperature_milli) / 1000.0;
        let weight = |logit: f32| {
            let below = f64::from(logit) - highest;
            if below.is_nan() {
                1.0
            } else {
                (below / temperature).exp()
            } // infinity less infinity: equal to the highest
        };
        let mut candidates: Vec<(u32, f64)> = order
            .into_iter()
            .map(|(id, logit)| (id, weight(logit)))
            .collect();
        if self.sampling.top_p_milli < 1000 {
            let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
            let wanted = total * f64::from(self.sampling.top_p_milli) / 1000.0;
            let mut sum = 0.0;
            let nucleus = candidates.iter().position(|(_, weight)| {
                sum += weight;
                sum >= wanted
            });
            candidates.truncate(nucleus.map_or(candidates.len(), |last| last + 1));
        }
        candidates
    }
}

/// The candidate at `unit` (from 0 to below 1) of the way through the weights.
fn pick(candidates: &[(u32, f64)], unit: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = unit * total;
    for (id, weight) in candidates {
        left -= weight;
        if left < 0.0 {
            return Some(*id);
        }
    }
    // rounding can leave a trace behind the last one
    candidates
        .iter()
        .rev()
        .find(|(_, weight)| *weight > 0.0)
        .map(|(id, _)| *id)
}

/// Draw `n` of a seed, from 0 to below 1: the upper 53 bits of SplitMix64 (Steele, Lea, Flood 2014), whose state after
/// `n` draws is known without making them.
fn unit_interval(seed: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature_milli: u32, top_k: u32, top_p_milli: u32) -> Sampling {
        Sampling {
            temperature_milli,
            top_k,
            top_p_milli,
            seed: 7,
        }
    }

    #[test]
    fn greedy_takes_the_highest_and_of_equal_ones_the_first() {
        let cases: [(&[f32], u32); 5] = [
            (&[0.0, 2.0, 1.0], 1),
            (&[5.0, 2.0, 5.0], 0),
            (&[-3.0, -2.0, -2.0], 1),
            (&[f32::NEG_INFINITY, -1e30], 1),
            (&[0.0, f32::INFINITY], 1),
        ];
        for (logits, expected) in cases {
            assert_eq!(
                Sampler::new(Sampling::greedy()).choose(logits).unwrap(),
                expected,
                "{logits:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_chosen_from_is_an_error() {
        for params in [Sampling::greedy(), sampling(1000, 0, 1000)] {
            assert!(matches!(
                Sampler::new(params).choose(&[]),
                Err(GenerateError::NoLogits)
            ));
            let error = Sampler::new(params).choose(&[0.0, f32::NAN]).unwrap_err();
            assert!(matches!(error, GenerateError::NotANumber { token: 1 }));
        }
    }

    #[test]
    fn the_candidates_are_those_that_the_limits_leave() {
        // probabilities at temperature 1: 0.1, 0.4, 0.2, 0.3
        let logits: Vec<f32> = [0.1_f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
        let cases: [(Sampling, &[u32]); 9] = [
            (sampling(1000, 0, 1000), &[1, 3, 2, 0]),
            (sampling(1000, 2, 1000), &[1, 3]),
            (sampling(1000, 1, 1000), &[1]),
            (sampling(1000, 99, 1000), &[1, 3, 2, 0]),
            (sampling(1000, 0, 1), &[1]),
            (sampling(1000, 0, 399), &[1]),
            (sampling(1000, 0, 650), &[1, 3]),
            (sampling(1000, 0, 880), &[1, 3, 2]),
            // of the two that top_k leaves (4/7 and 3/7) the first is enough
            (sampling(1000, 2, 570), &[1]),
        ];
        for (params, expected) in cases {
            let ids: Vec<u32> = Sampler::new(params)
                .candidates(&logits)
                .iter()
                .map(|(id, _)| *id)
                .collect();
            assert_eq!(ids, expected, "{params:?}");
        }
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = [0.0, 1.0];
        let share = |temperature| {
            let candidates = Sampler::new(sampling(temperature, 0, 1000)).candidates(&logits);
            candidates[1].1 / candidates[0].1
        };
        assert!((share(1000) - (-1.0_f64).exp()).abs() < 1e-12);
        assert!((share(500) - (-2.0_f64).exp()).abs() < 1e-12);
        assert!((share(2000) - (-0.5_f64).exp()).abs() < 1e-12);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let logits: Vec<f32> = [0.5_f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling {
                seed,
                ..sampling(1000, 0, 1000)
            });
            (0..20_000)
                .map(|_| sampler.choose(&logits).unwrap())
                .collect::<Vec<u32>>()
        };
        let first = draw(1);
        assert_eq!(first, draw(1));
        assert_ne!(first, draw(2));
        for (id, expected) in [(0, 0.5), (1, 0.3), (2, 0.2)] {
            let share =
                first.iter().filter(|token| **token == id).count() as f64 / first.len() as f64;
            assert!((share - expected).abs() < 0.02, "{id}: {share}");
        }
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // the first outputs for seed 1234567, as published with the algorithm
        let expected = [
            6457827717110365317_u64,
            3203168211198807973,
            9817491932198370423,
        ];
        for (n, value) in expected.into_iter().enumerate() {
            assert_eq!(
                unit_interval(1234567, n as u64),
                (value >> 11) as f64 / (1_u64 << 53) as f64
            );
        }
    }

    #[test]
    fn the_ends_of_the_interval_are_candidates() {
        let candidates = [(4, 0.5), (9, 0.5), (2, 0.0)];
        assert_eq!(pick(&candidates, 0.0), Some(4));
        assert_eq!(pick(&candidates, 0.5), Some(9));
        assert_eq!(pick(&candidates, 1.0 - f64::EPSILON / 2.0), Some(9));
        assert_eq!(pick(&[], 0.5), None);
    }

    #[test]
    fn ranges_are_checked() {
        assert!(sampling(100_000, u32::MAX, 1000).check().is_ok());
        assert!(sampling(100_001, 0, 1000).check().is_err());
        assert!(sampling(0, 0, 0).check().is_err());
        assert!(sampling(0, 0, 1001).check().is_err());
    }
}
