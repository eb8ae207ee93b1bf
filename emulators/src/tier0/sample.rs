//! Media to try the sensor with: something like speech with pauses, and a picture of a shelf.

use crate::tier0::jpeg;
use crate::tier0::wav;

/// The recording's rate and channels: not those of a capture, so that it has to be resampled and mixed.
const RATE: u32 = 44_100;

/// A wav of about three seconds: two phrases of voiced syllables in a room with a little noise.
pub fn speech() -> Vec<u8> {
    let mut noise = Noise(1);
    let mut pcm = Vec::new();
    let mut phase = 0.0;
    // Silence, or a phrase of so many syllables.
    for part in [None, Some(5), None, Some(4), None] {
        let seconds = part.map_or(0.5, |syllables: u8| 0.19 * f64::from(syllables));
        let count = (seconds * f64::from(RATE)) as usize;
        for at in 0..count {
            let place = at as f64 / count as f64;
            let mut level = 0.0;
            if let Some(syllables) = part {
                // A falling voice with three formants, and an envelope that opens and closes with each syllable.
                let pitch = 150.0 - 35.0 * place;
                phase += std::f64::consts::TAU * pitch / f64::from(RATE);
                let syllable = place * f64::from(syllables);
                let open = (std::f64::consts::PI * syllable.fract()).sin();
                let vowel = syllable.floor();
                let formants = [500.0 + 90.0 * vowel, 1500.0 - 120.0 * vowel, 2500.0];
                for harmonic in 1..=24 {
                    let hertz = f64::from(harmonic) * pitch;
                    let near = formants
                        .iter()
                        .map(|f| (-((hertz - f) / 250.0f64).powi(2)).exp())
                        .sum::<f64>();
                    level += (0.12 + near) * (phase * f64::from(harmonic)).sin()
                        / f64::from(harmonic).sqrt();
                }
                level *= 3500.0 * open;
            }
            let sample = (level + 12.0 * noise.next()) as i16;
            // The right channel is a little quieter.
            pcm.extend_from_slice(&sample.to_le_bytes());
            pcm.extend_from_slice(&(sample / 4 * 3).to_le_bytes());
        }
    }
    wav::write(RATE, 2, &pcm)
}

/// A JPEG of 640 x 480: a shelf with boxes under a lamp.
pub fn picture() -> Vec<u8> {
    jpeg::encode_grey(jpeg::WIDTH, jpeg::HEIGHT, |x, y| {
        let light = 200 - (x.abs_diff(320) + y) / 6;
        let (column, row) = (x / 80, y / 120);
        let (inside_x, inside_y) = (x % 80, y % 120);
        let level = if inside_y > 110 {
            60
        } else if (8..72).contains(&inside_x) && inside_y > 20 + (column * 13 + row * 29) % 50 {
            let label = (24..56).contains(&inside_x) && (84..100).contains(&inside_y);
            if label {
                235
            } else {
                90 + (column * 31 + row * 17) % 70
            }
        } else {
            light
        };
        level.min(255) as u8
    })
}

/// Uniform noise from -1 to 1 that is the same on every machine: a linear congruential generator (Knuth's MMIX).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / f64::from(1u32 << 23) - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier0::sound::{VoiceDetection, captures};

    #[test]
    fn the_speech_has_two_phrases() {
        let wav = wav::read(&speech()).unwrap();
        let found = captures(&wav, &VoiceDetection::default());
        assert_eq!(found.len(), 2);
        assert!(
            found
                .iter()
                .all(|capture| (20_000..40_000).contains(&capture.len()))
        );
    }

    #[test]
    fn the_picture_is_what_the_camera_delivers() {
        let picture = picture();
        assert_eq!(jpeg::check(&picture), Ok(()));
        // Enough frames to flip a byte in the twentieth.
        assert!(
            (40 * 198..200 * 1024).contains(&picture.len()),
            "{}",
            picture.len()
        );
        jpeg_decoder::Decoder::new(picture.as_slice())
            .decode()
            .unwrap();
    }
}
