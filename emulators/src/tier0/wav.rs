//! RIFF WAVE files with 16-bit PCM, read and written.

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WavError {
    /// No RIFF header, or one of another kind of file.
    #[error("not a wav: it does not begin with RIFF and WAVE")]
    NotWav,
    /// It ends in the middle of a chunk.
    #[error("the wav is cut short: chunk '{0}' is not all there")]
    Truncated(String),
    /// A chunk that is needed is not there.
    #[error("the wav has no '{0}' chunk")]
    Missing(&'static str),
    /// Compressed, floating point, or another width.
    #[error(
        "the wav holds {bits}-bit samples of format {format}; only 16-bit PCM (format 1) can be captured"
    )]
    Format {
        /// The format tag.
        format: u16,
        /// Bits a sample.
        bits: u16,
    },
    /// No channel, or a rate outside of what microphones have.
    #[error(
        "the wav has {channels} channels at {rate} Hz; expected 1 to 64 channels at 1000 to 768000 Hz"
    )]
    Shape {
        /// Channels.
        channels: u16,
        /// Samples a second.
        rate: u32,
    },
    /// No sound at all.
    #[error("the wav holds no samples")]
    Empty,
}

/// Sound as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wav {
    /// Samples a second.
    pub rate: u32,
    /// One sample of each channel in turn.
    pub channels: u16,
    /// The samples.
    pub samples: Vec<i16>,
}

/// The tag that says that the true format stands in the extension.
const EXTENSIBLE: u16 = 0xfffe;

/// Reads a file. Chunks other than `fmt ` and `data` are passed over.
pub fn read(bytes: &[u8]) -> Result<Wav, WavError> {
    let (head, mut rest) = bytes.split_at_checked(12).ok_or(WavError::NotWav)?;
    if &head[..4] != b"RIFF" || &head[8..] != b"WAVE" {
        return Err(WavError::NotWav);
    }
    let mut format = None;
    while let Some((&[a, b, c, d, e, f, g, h], more)) = rest.split_first_chunk::<8>() {
        let (id, len) = ([a, b, c, d], u32::from_le_bytes([e, f, g, h]) as usize);
        let truncated = || WavError::Truncated(String::from_utf8_lossy(&id).into_owned());
        let body = more.get(..len).ok_or_else(truncated)?;
        match &id {
            b"fmt " => format = Some(read_format(body).ok_or_else(truncated)?),
            b"data" => {
                let (channels, rate) = format.ok_or(WavError::Missing("fmt "))??;
                let frame = 2 * usize::from(channels);
                if len < frame {
                    return Err(WavError::Empty);
                }
                let whole = &body[..len - len % frame];
                let samples = whole
                    .chunks_exact(2)
                    .map(|s| i16::from_le_bytes([s[0], s[1]]));
                let samples = samples.collect();
                return Ok(Wav {
                    rate,
                    channels,
                    samples,
                });
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        rest = more.get(len + len % 2..).unwrap_or_default();
    }
    Err(WavError::Missing(if format.is_some() {
        "data"
    } else {
        "fmt "
    }))
}

/// Channels and rate, if it is 16-bit PCM; `None` if the chunk is too short.
fn read_format(body: &[u8]) -> Option<Result<(u16, u32), WavError>> {
    let short = |at: usize| Some(u16::from_le_bytes(*body.get(at..at + 2)?.first_chunk()?));
    let (mut format, channels, bits) = (short(0)?, short(2)?, short(14)?);
    let rate = u32::from_le_bytes(*body.get(4..8)?.first_chunk()?);
    if format == EXTENSIBLE {
        format = short(24)?;
    }
    Some(if format != 1 || bits != 16 {
        Err(WavError::Format { format, bits })
    } else if !(1..=64).contains(&channels) || !(1000..=768_000).contains(&rate) {
        Err(WavError::Shape { channels, rate })
    } else {
        Ok((channels, rate))
    })
}

/// Writes a file of 16-bit PCM; `pcm` holds little-endian samples, one of each channel in turn.
pub fn write(rate: u32, channels: u16, pcm: &[u8]) -> Vec<u8> {
    let len = u32::try_from(pcm.len()).unwrap_or(u32::MAX - 36);
    let mut file = Vec::with_capacity(44 + pcm.len());
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(len + 36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16u32.to_le_bytes());
    file.extend_from_slice(&1u16.to_le_bytes());
    file.extend_from_slice(&channels.to_le_bytes());
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * u32::from(channels) * 2).to_le_bytes());
    file.extend_from_slice(&(channels * 2).to_le_bytes());
    file.extend_from_slice(&16u16.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&len.to_le_bytes());
    file.extend_from_slice(pcm);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pcm(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|s| s.to_le_bytes()).collect()
    }

    #[test]
    fn written_files_read_back() {
        let file = write(44_100, 2, &pcm(&[1, -2, 3, -4]));
        let wav = read(&file).unwrap();
        assert_eq!((wav.rate, wav.channels), (44_100, 2));
        assert_eq!(wav.samples, [1, -2, 3, -4]);
    }

    #[test]
    fn other_chunks_are_passed_over() {
        let mut file = write(8000, 1, &pcm(&[5, 6]));
        // An odd chunk takes a byte of padding.
        file.splice(12..12, *b"LIST\x03\0\0\0abc\0");
        assert_eq!(read(&file).unwrap().samples, [5, 6]);
    }

    #[test]
    fn what_is_refused_and_why() {
        let good = write(16_000, 1, &pcm(&[1, 2, 3]));
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let cut = |name: &str| Err(WavError::Truncated(name.to_owned()));
        let table = [
            (vec![], Err(WavError::NotWav)),
            (
                b"\xff\xd8\xff\xe0 a JPEG and no wav".to_vec(),
                Err(WavError::NotWav),
            ),
            (with(8, b"AVI "), Err(WavError::NotWav)),
            (good[..12].to_vec(), Err(WavError::Missing("fmt "))),
            (good[..36].to_vec(), Err(WavError::Missing("data"))),
            (good[..30].to_vec(), cut("fmt ")),
            (good[..48].to_vec(), cut("data")),
            (with(40, &[0; 4]), Err(WavError::Empty)),
            (
                with(20, &[3, 0]),
                Err(WavError::Format {
                    format: 3,
                    bits: 16,
                }),
            ),
            (
                with(34, &[24, 0]),
                Err(WavError::Format {
                    format: 1,
                    bits: 24,
                }),
            ),
            (
                with(22, &[0, 0]),
                Err(WavError::Shape {
                    channels: 0,
                    rate: 16_000,
                }),
            ),
            (
                with(24, &[0; 4]),
                Err(WavError::Shape {
                    channels: 1,
                    rate: 0,
                }),
            ),
        ];
        for (file, expected) in table {
            assert_eq!(read(&file).map(|wav| wav.samples.len()), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), header in any::<bool>()) {
            if header {
                let mut file = write(16_000, 1, &[]);
                file.append(&mut bytes);
                bytes = file;
                bytes[40] = 40;
            }
            if let Ok(wav) = read(&bytes) {
                prop_assert!(!wav.samples.is_empty());
            }
        }
    }
}
