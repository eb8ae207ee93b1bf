//! Lengths of time, and what a share of them stays below.

use std::time::Duration;

/// Measured lengths of time.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub fn add(&mut self, sample: Duration) {
        let at = self.0.partition_point(|known| *known <= sample);
        self.0.insert(at, sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least this share of all is no longer than (nearest rank); zero without samples.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "counts are small and shares lie in 0..=1"
    )]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let index = rank.max(1) - 1;
        self.0
            .get(index.min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// `p50 / p99 / max`, in milliseconds.
    pub fn text(&self) -> String {
        let [half, most, all] = [self.quantile(0.5), self.quantile(0.99), self.max()].map(ms);
        format!("p50 {half:.1}, p99 {most:.1}, max {all:.1} ms")
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        let mut all: Vec<Duration> = samples.into_iter().collect();
        all.sort();
        Self(all)
    }
}

/// In milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let samples: Samples = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(samples.quantile(0.5), Duration::from_millis(100));
        assert_eq!(samples.quantile(0.99), Duration::from_millis(198));
        assert_eq!(samples.max(), Duration::from_millis(200));
        let mut few = Samples::default();
        assert_eq!(few.quantile(0.99), Duration::ZERO);
        few.add(Duration::from_millis(7));
        few.add(Duration::from_millis(3));
        assert_eq!(few.quantile(0.5), Duration::from_millis(3));
        assert_eq!(few.quantile(0.99), Duration::from_millis(7));
        assert_eq!(few.text(), "p50 3.0, p99 7.0, max 7.0 ms");
    }
}
