//! From any recording to what the sensor captures: one channel, 16 kHz, cut where somebody speaks.

use std::ops::Range;

use crate::tier0::wav::Wav;

/// Samples a second of a capture.
pub const RATE: u32 = 16_000;
/// The length of an analysis frame: 20 ms.
const FRAME: usize = 320;
/// How many zero crossings of the sinc function the low-pass reaches to each side.
const ZERO_CROSSINGS: f64 = 16.0;

/// How voice is told from noise. Energies are root mean squares of 16-bit samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoiceDetection {
    /// Louder than the quietest tenth of the recording by this factor is voice.
    pub over_noise: f64,
    /// Below this energy nothing is voice.
    pub quietest: f64,
    /// Above this energy everything is.
    pub loudest: f64,
    /// Silence that ends a capture, in milliseconds.
    pub pause_ms: usize,
    /// What is kept before and after a voice, in milliseconds.
    pub margin_ms: usize,
    /// Shorter sounds are clicks, in milliseconds.
    pub shortest_ms: usize,
    /// A capture is cut after this, in milliseconds.
    pub longest_ms: usize,
}

impl Default for VoiceDetection {
    fn default() -> Self {
        Self {
            over_noise: 4.0,
            quietest: 150.0,
            loudest: 1500.0,
            pause_ms: 300,
            margin_ms: 60,
            shortest_ms: 100,
            longest_ms: 15_000,
        }
    }
}

/// Mixes the channels and brings the sound to 16 kHz.
pub fn to_capture_rate(wav: &Wav) -> Vec<i16> {
    let channels = usize::from(wav.channels.max(1));
    let mono: Vec<f64> = wav
        .samples
        .chunks_exact(channels)
        .map(|frame| frame.iter().map(|&s| f64::from(s)).sum::<f64>() / channels as f64)
        .collect();
    if wav.rate == RATE {
        return mono.into_iter().map(to_sample).collect();
    }
    resample(&mono, wav.rate)
        .into_iter()
        .map(to_sample)
        .collect()
}

fn to_sample(value: f64) -> i16 {
    // The cast saturates.
    value.round() as i16
}

/// Band-limited interpolation with a Hann-windowed sinc (Julius O. Smith, Digital Audio Resampling, 1984): what 16 kHz
/// cannot hold is filtered out first, so that it does not come back as another tone.
fn resample(input: &[f64], rate: u32) -> Vec<f64> {
    let ratio = f64::from(rate) / f64::from(RATE);
    let cutoff = (1.0 / ratio).min(1.0);
    let reach = ZERO_CROSSINGS / cutoff;
    let count = (input.len() as f64 / ratio).floor() as usize;
    let weight = |distance: f64| {
        let x = std::f64::consts::PI * distance * cutoff;
        let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
        let window = 0.5 + 0.5 * (std::f64::consts::PI * distance / reach).cos();
        sinc * window
    };
    (0..count)
        .map(|at| {
            let center = at as f64 * ratio;
            let first = (center - reach).ceil().max(0.0) as usize;
            let last = ((center + reach).floor() as usize).min(input.len().saturating_sub(1));
            let (mut sum, mut weights) = (0.0, 0.0);
            for (from, sample) in input.iter().enumerate().take(last + 1).skip(first) {
                let weight = weight(from as f64 - center);
                sum += weight * sample;
                weights += weight;
            }
            // Dividing by the weights keeps the level at the ends, where the window is cut.
            if weights.abs() < 1e-9 {
                0.0
            } else {
                sum / weights
            }
        })
        .collect()
}

/// Where somebody speaks, as ranges of samples at 16 kHz, in order and apart from each other.
pub fn voiced(samples: &[i16], how: &VoiceDetection) -> Vec<Range<usize>> {
    let energies: Vec<f64> = samples.chunks(FRAME).map(energy).collect();
    let mut sorted = energies.clone();
    sorted.sort_by(f64::total_cmp);
    let Some(noise) = sorted.get(sorted.len() / 10) else {
        return Vec::new();
    };
    let threshold = (noise * how.over_noise).clamp(how.quietest, how.loudest);
    let frames = |milliseconds: usize| milliseconds.div_ceil(20);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for at in (0..energies.len()).filter(|&at| energies[at] > threshold) {
        match ranges.last_mut() {
            Some(last)
                if at - last.end < frames(how.pause_ms)
                    && at - last.start < frames(how.longest_ms) =>
            {
                last.end = at + 1;
            }
            _ => ranges.push(at..at + 1),
        }
    }
    ranges.retain(|range| range.len() >= frames(how.shortest_ms));
    let margin = frames(how.margin_ms);
    let mut end_before = 0;
    ranges
        .into_iter()
        .map(|range| {
            let start = range.start.saturating_sub(margin).max(end_before);
            end_before = range.end + margin;
            let end = (end_before * FRAME).min(samples.len());
            start * FRAME..end
        })
        .collect()
}

fn energy(frame: &[i16]) -> f64 {
    let squares: f64 = frame.iter().map(|&s| f64::from(s) * f64::from(s)).sum();
    (squares / frame.len().max(1) as f64).sqrt()
}

/// The captures of a recording: 16-bit little-endian PCM, one for each stretch of voice.
pub fn captures(wav: &Wav, how: &VoiceDetection) -> Vec<Vec<u8>> {
    let samples = to_capture_rate(wav);
    let bytes = |range: Range<usize>| {
        samples[range]
            .iter()
            .flat_map(|s| s.to_le_bytes())
            .collect()
    };
    voiced(&samples, how).into_iter().map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tone(rate: u32, hertz: f64, seconds: f64, level: f64) -> Vec<i16> {
        let count = (f64::from(rate) * seconds) as usize;
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        (0..count)
            .map(|at| ((at as f64 * step).sin() * level) as i16)
            .collect()
    }

    fn wav(rate: u32, channels: u16, samples: Vec<i16>) -> Wav {
        Wav {
            rate,
            channels,
            samples,
        }
    }

    /// Energy of one frequency in a signal (Goertzel, 1958), as an amplitude.
    fn amplitude(samples: &[i16], hertz: f64) -> f64 {
        let step = std::f64::consts::TAU * hertz / f64::from(RATE);
        let (mut re, mut im) = (0.0, 0.0);
        for (at, &sample) in samples.iter().enumerate() {
            re += f64::from(sample) * (at as f64 * step).cos();
            im += f64::from(sample) * (at as f64 * step).sin();
        }
        2.0 * (re * re + im * im).sqrt() / samples.len() as f64
    }

    #[test]
    fn a_tone_keeps_its_pitch_and_level_at_every_rate() {
        for rate in [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000] {
            let captured = to_capture_rate(&wav(rate, 1, tone(rate, 1000.0, 1.0, 8000.0)));
            assert!(
                captured.len().abs_diff(16_000) <= 2,
                "{rate}: {}",
                captured.len()
            );
            let level = amplitude(&captured[800..15_200], 1000.0);
            assert!((level - 8000.0).abs() < 80.0, "{rate}: {level}");
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_does_not_fold_back() {
        // 11 kHz would come back as 5 kHz.
        let captured = to_capture_rate(&wav(44_100, 1, tone(44_100, 11_000.0, 1.0, 8000.0)));
        let folded = amplitude(&captured[800..15_200], 5000.0);
        assert!(folded < 40.0, "{folded}");
    }

    #[test]
    fn channels_are_averaged() {
        let stereo = (0..1000).flat_map(|_| [3000i16, -1000]).collect();
        assert!(
            to_capture_rate(&wav(RATE, 2, stereo))
                .iter()
                .all(|&s| s == 1000)
        );
    }

    #[test]
    fn voice_is_cut_at_pauses() {
        let silence = |seconds| tone(RATE, 50.0, seconds, 20.0);
        let voice = |seconds| tone(RATE, 300.0, seconds, 6000.0);
        let samples = [
            silence(0.5),
            voice(0.6),
            silence(0.1),
            voice(0.4),
            silence(0.8),
            voice(0.5),
            silence(0.5),
            // A click is no voice.
            voice(0.04),
            silence(0.6),
        ]
        .concat();
        let found = voiced(&samples, &VoiceDetection::default());
        let seconds: Vec<(f64, f64)> = found
            .iter()
            .map(|r| (r.start as f64 / 16_000.0, r.end as f64 / 16_000.0))
            .collect();
        assert_eq!(found.len(), 2, "{seconds:?}");
        // A short pause does not cut; the margin is on both sides.
        for ((start, end), (from, to)) in seconds.into_iter().zip([(0.44, 1.66), (2.34, 2.96)]) {
            assert!(
                (start - from).abs() < 0.041 && (end - to).abs() < 0.041,
                "{start} {end}"
            );
        }
    }

    #[test]
    fn extremes() {
        let how = VoiceDetection::default();
        assert!(voiced(&[], &how).is_empty());
        assert!(voiced(&[0; 16_000], &how).is_empty());
        assert!(voiced(&tone(RATE, 50.0, 2.0, 60.0), &how).is_empty());
        // Loud from beginning to end, with no noise to compare with.
        let loud = voiced(&tone(RATE, 300.0, 2.0, 9000.0), &how);
        assert!(loud.len() == 1 && loud[0] == (0..32_000), "{loud:?}");
        // An endless voice is cut.
        let long = voiced(&tone(RATE, 300.0, 40.0, 9000.0), &how);
        assert_eq!(long.len(), 3);
        assert!(
            long.iter()
                .all(|range| 2 * range.len() <= crate::CAPTURE_MAX)
        );
    }

    proptest! {
        #[test]
        fn ranges_are_in_order_and_inside(samples in proptest::collection::vec(any::<i16>(), 0..20_000), rate in 1000u32..100_000) {
            let found = voiced(&samples, &VoiceDetection::default());
            let mut end = 0;
            for range in found {
                prop_assert!(range.start >= end && range.start < range.end && range.end <= samples.len());
                end = range.end;
            }
            let short = samples[..samples.len().min(500)].to_vec();
            let captured = to_capture_rate(&wav(rate, 1, short));
            prop_assert!(captured.len() <= 8001);
        }
    }
}
