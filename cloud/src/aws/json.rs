//! The text of a JSON string, decoded without a copy that stays behind.

use zeroize::Zeroizing;

/// The bytes of a JSON string that stands in an answer as it was sent, quotes included; `None` if it is not one.
///
/// The JSON library decodes escapes through a buffer of its own, which is not wiped; this decodes into one that is, and that is
/// large enough from the start, so that growing it leaves nothing behind.
pub(super) fn string(raw: &str) -> Option<Zeroizing<Vec<u8>>> {
    let inner = raw.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' | 0..=0x1f => return None,
            b'\\' => match rest.next()? {
                plain @ (b'"' | b'\\' | b'/') => out.push(plain),
                b'b' => out.push(0x08),
                b'f' => out.push(0x0c),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let first = unit(&mut rest)?;
                    let c = match first {
                        0xd800..=0xdbff => {
                            if (rest.next()?, rest.next()?) != (b'\\', b'u') {
                                return None;
                            }
                            let second = unit(&mut rest)?;
                            if !(0xdc00..=0xdfff).contains(&second) {
                                return None;
                            }
                            char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?
                        }
                        // A lone low surrogate is no character: char::from_u32 refuses it.
                        _ => char::from_u32(first)?,
                    };
                    let mut buffer = Zeroizing::new([0; 4]);
                    out.extend_from_slice(c.encode_utf8(&mut *buffer).as_bytes());
                }
                _ => return None,
            },
            _ => out.push(byte),
        }
    }
    Some(out)
}

/// Four hexadecimal digits.
fn unit(rest: &mut std::str::Bytes<'_>) -> Option<u32> {
    let mut value = 0;
    for _ in 0..4 {
        value = value * 16 + char::from(rest.next()?).to_digit(16)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table() {
        let good: &[(&str, &str)] = &[
            (r#""""#, ""),
            (r#""plain ü""#, "plain ü"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u0041\u00fc\u20ac\ud83d\ude00\u0000""#, "Aü€😀\0"),
            (r#"" trailing ""#, " trailing "),
        ];
        for (raw, text) in good {
            assert_eq!(string(raw).unwrap().as_slice(), text.as_bytes(), "{raw}");
        }
        for bad in [
            "",
            "\"",
            "x",
            "null",
            r#""\""#,
            r#""\x""#,
            r#""\u12""#,
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
            r#""a"b""#,
            "\"a\nb\"",
            r#""\u+123""#,
        ] {
            assert!(string(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn as_the_library_does(text in ".*", raw in "\"[a\\\\u\"d8c0-9ü]{0,12}\"") {
            let written = serde_json::to_string(&text).unwrap();
            let ours = string(&written).unwrap();
            prop_assert_eq!(ours.as_slice(), text.as_bytes());
            let theirs: Option<String> = serde_json::from_str(&raw).ok();
            let ours = string(&raw).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            prop_assert_eq!(ours, theirs);
        }
    }
}
