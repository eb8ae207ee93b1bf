//! The size of a JPEG, from its frame header (ITU-T T.81, annex B), and a small encoder for the sample picture.

/// The one size that the sensor's camera has.
pub const WIDTH: u16 = 640;
/// Its height.
pub const HEIGHT: u16 = 480;

/// Why a picture was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JpegError {
    /// Another kind of file.
    #[error("not a JPEG: it does not begin with FF D8")]
    NotJpeg,
    /// It ends before its picture does.
    #[error("the JPEG is cut short or damaged: {0}")]
    Damaged(&'static str),
    /// Not what the camera delivers.
    #[error("the picture is {width}x{height}; the sensor's camera delivers {WIDTH}x{HEIGHT}")]
    Size {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// Checks that `bytes` are a whole JPEG of 640 x 480.
pub fn check(bytes: &[u8]) -> Result<(), JpegError> {
    let mut rest = bytes
        .strip_prefix(&[0xff, 0xd8])
        .ok_or(JpegError::NotJpeg)?;
    let mut size = None;
    loop {
        // Any number of FF may stand before a marker.
        let start = rest.iter().take_while(|&&b| b == 0xff).count();
        let [marker, tail @ ..] = rest.get(start..).filter(|_| start > 0).unwrap_or_default()
        else {
            return Err(JpegError::Damaged("no marker where one must stand"));
        };
        rest = tail;
        match marker {
            0x01 | 0xd0..=0xd7 => continue,
            0xd9 => return Err(JpegError::Damaged("it ends before its picture")),
            _ => {}
        }
        let [high, low, ..] = rest else {
            return Err(JpegError::Damaged("a segment has no length"));
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let segment = rest
            .get(2..len)
            .ok_or(JpegError::Damaged("a segment is cut short"))?;
        rest = &rest[len..];
        match marker {
            // Frame headers are C0 to CF, but for the tables C4 and CC and the reserved C8.
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => {
                let [_, a, b, c, d, ..] = segment else {
                    return Err(JpegError::Damaged("the frame header is too short"));
                };
                size = Some((u16::from_be_bytes([*c, *d]), u16::from_be_bytes([*a, *b])));
            }
            0xda => break,
            _ => {}
        }
    }
    let (width, height) = size.ok_or(JpegError::Damaged("no frame header before the picture"))?;
    if (width, height) != (WIDTH, HEIGHT) {
        return Err(JpegError::Size { width, height });
    }
    if !rest.windows(2).any(|pair| pair == [0xff, 0xd9]) {
        return Err(JpegError::Damaged("it ends before its picture does"));
    }
    Ok(())
}

/// The step of every coefficient: one table for all keeps the file short to write and good to look at.
const QUANTIZER: u8 = 12;

/// The order in which the coefficients of a block are written (T.81, figure A.6): row and column swing from edge to edge.
fn zigzag() -> [usize; 64] {
    let mut order: [usize; 64] = std::array::from_fn(|at| at);
    order.sort_by_key(|at| {
        let (row, column) = (at / 8, at % 8);
        let diagonal = row + column;
        (diagonal, if diagonal % 2 == 0 { column } else { row })
    });
    order
}

/// Encodes grey levels, `width` by `height` (multiples of 8), as a baseline JPEG. The Huffman codes all have the same
/// length, which T.81 allows and every decoder reads: 4 bits for a DC category, 8 for an AC run and category.
pub(crate) fn encode_grey(width: u16, height: u16, level: impl Fn(u16, u16) -> u8) -> Vec<u8> {
    let ac_symbols: Vec<u8> = (0..16u8)
        .flat_map(|run| (0..=10u8).map(move |category| run << 4 | category))
        .filter(|symbol| symbol & 15 != 0 || *symbol == 0 || *symbol == 0xf0)
        .collect();
    let [w0, w1] = width.to_be_bytes();
    let [h0, h1] = height.to_be_bytes();
    let mut file = vec![0xff, 0xd8];
    segment(
        &mut file,
        0xe0,
        &[b"JFIF\0".as_slice(), &[1, 1, 0, 0, 1, 0, 1, 0, 0]].concat(),
    );
    segment(
        &mut file,
        0xdb,
        &[[0].as_slice(), &[QUANTIZER; 64]].concat(),
    );
    segment(&mut file, 0xc0, &[8, h0, h1, w0, w1, 1, 1, 0x11, 0]);
    let table = |class: u8, length: usize, symbols: &[u8]| {
        let mut counts = [0; 16];
        counts[length - 1] = symbols.len() as u8;
        [[class].as_slice(), &counts, symbols].concat()
    };
    let dc_symbols: Vec<u8> = (0..12).collect();
    segment(&mut file, 0xc4, &table(0x00, 4, &dc_symbols));
    segment(&mut file, 0xc4, &table(0x10, 8, &ac_symbols));
    segment(&mut file, 0xda, &[1, 1, 0, 0, 63, 0]);
    let ac_code = |symbol: u8| ac_symbols.iter().position(|&s| s == symbol).unwrap_or(0) as u32;
    let (order, basis) = (zigzag(), cosines());
    let mut bits = Bits {
        file,
        held: 0,
        count: 0,
    };
    let mut last_dc = 0;
    for (top, left) in (0..height)
        .step_by(8)
        .flat_map(|y| (0..width).step_by(8).map(move |x| (y, x)))
    {
        let block = transform(&basis, |y, x| {
            f64::from(level(left + x as u16, top + y as u16)) - 128.0
        });
        let quantized = order.map(|at| (block[at] / f64::from(QUANTIZER)).round() as i32);
        let difference = quantized[0] - last_dc;
        last_dc = quantized[0];
        bits.push(category(difference), 4);
        bits.magnitude(difference);
        let mut run = 0u8;
        for &value in &quantized[1..] {
            if value == 0 {
                run += 1;
                continue;
            }
            while run > 15 {
                bits.push(ac_code(0xf0), 8);
                run -= 16;
            }
            bits.push(ac_code(run << 4 | category(value) as u8), 8);
            bits.magnitude(value);
            run = 0;
        }
        if run > 0 {
            bits.push(ac_code(0), 8);
        }
    }
    bits.finish()
}

fn segment(file: &mut Vec<u8>, marker: u8, body: &[u8]) {
    file.extend_from_slice(&[0xff, marker]);
    file.extend_from_slice(&(body.len() as u16 + 2).to_be_bytes());
    file.extend_from_slice(body);
}

/// How many bits a value takes (T.81, table F.1).
fn category(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

/// Bits on their way into the file; an FF is followed by a zero.
struct Bits {
    file: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, width: u32) {
        for at in (0..width).rev() {
            self.held = self.held << 1 | (value >> at & 1);
            self.count += 1;
            if self.count == 8 {
                let byte = self.held as u8;
                self.file.push(byte);
                if byte == 0xff {
                    self.file.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    /// The bits behind a category: a negative value is written less one.
    fn magnitude(&mut self, value: i32) {
        let bits = if value < 0 { value - 1 } else { value };
        self.push(bits as u32, category(value));
    }

    fn finish(mut self) -> Vec<u8> {
        while self.count > 0 {
            self.push(1, 1);
        }
        self.file.extend_from_slice(&[0xff, 0xd9]);
        self.file
    }
}

/// `basis[u][x]`: the cosines of the transform with their scale.
fn cosines() -> [[f64; 8]; 8] {
    std::array::from_fn(|u| {
        let scale = if u == 0 { 0.125f64.sqrt() } else { 0.5 };
        std::array::from_fn(|x| {
            scale * ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos()
        })
    })
}

/// The 8 x 8 discrete cosine transform (T.81, A.3.3), rows first.
fn transform(basis: &[[f64; 8]; 8], sample: impl Fn(usize, usize) -> f64) -> [f64; 64] {
    let rows: [[f64; 8]; 8] = std::array::from_fn(|y| {
        let row: [f64; 8] = std::array::from_fn(|x| sample(y, x));
        std::array::from_fn(|u| (0..8).map(|x| basis[u][x] * row[x]).sum())
    });
    std::array::from_fn(|at| {
        let (v, u) = (at / 8, at % 8);
        (0..8).map(|y| basis[v][y] * rows[y][u]).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picture(width: u16, height: u16) -> Vec<u8> {
        encode_grey(width, height, |x, y| (x / 3 + y / 4) as u8)
    }

    /// An independent decoder finds the picture that was encoded.
    #[test]
    fn other_programs_can_read_it() {
        let level = |x: u16, y: u16| {
            if (x / 40 + y / 40).is_multiple_of(2) {
                40
            } else {
                (x / 3) as u8
            }
        };
        let file = encode_grey(WIDTH, HEIGHT, level);
        let mut decoder = jpeg_decoder::Decoder::new(file.as_slice());
        let pixels = decoder.decode().unwrap();
        let info = decoder.info().unwrap();
        assert_eq!((info.width, info.height), (WIDTH, HEIGHT));
        let differences: Vec<u8> = pixels
            .iter()
            .enumerate()
            .map(|(at, pixel)| pixel.abs_diff(level((at % 640) as u16, (at / 640) as u16)))
            .collect();
        let mean =
            differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
        assert!(mean < 3.0, "{mean}");
        assert_eq!(check(&file), Ok(()));
    }

    #[test]
    fn what_is_refused_and_why() {
        let good = picture(WIDTH, HEIGHT);
        let end = good.len();
        let damaged = |why| Err(JpegError::Damaged(why));
        let mut no_frame = good.clone();
        no_frame[2 + 18 + 69 + 1] = 0xe1;
        let table = [
            (vec![], Err(JpegError::NotJpeg)),
            (b"RIFF....WAVE".to_vec(), Err(JpegError::NotJpeg)),
            (
                picture(320, 240),
                Err(JpegError::Size {
                    width: 320,
                    height: 240,
                }),
            ),
            (
                picture(480, 640),
                Err(JpegError::Size {
                    width: 480,
                    height: 640,
                }),
            ),
            (
                good[..2].to_vec(),
                damaged("no marker where one must stand"),
            ),
            (good[..10].to_vec(), damaged("a segment is cut short")),
            (
                good[..end - 2].to_vec(),
                damaged("it ends before its picture does"),
            ),
            (no_frame, damaged("no frame header before the picture")),
            (
                vec![0xff, 0xd8, 0xff, 0xd9],
                damaged("it ends before its picture"),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(check(&bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = check(&bytes);
            let good = picture(WIDTH, HEIGHT);
            let mut begun = good[..cut].to_vec();
            begun.append(&mut bytes);
            let _ = check(&begun);
        }
    }
}
