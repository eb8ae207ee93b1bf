//! Text to tokens and back, against the tokenizers library's own decoding.

use halo_substrate::tokenizer::{MAX_PIECE, TextStream, Tokenizer};
use proptest::prelude::*;

use crate::synthetic::tokenizer_json;

/// The tokenizer, and the library's view of the same file.
pub fn tokenizer() -> (Tokenizer, tokenizers::Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, tokenizer_json().to_string()).unwrap();
    (
        Tokenizer::from_file(&file).unwrap(),
        tokenizers::Tokenizer::from_file(&file).unwrap(),
    )
}

/// All pieces of a sequence; the last token ends it.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> (Vec<String>, usize) {
    let mut stream = TextStream::default();
    let mut pieces = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let bytes = tokenizer.token_bytes(*id);
        pieces.push(if i + 1 == ids.len() {
            stream.finish(bytes)
        } else {
            stream.push(bytes)
        });
    }
    (pieces, stream.backlog())
}

#[test]
fn text_becomes_tokens_and_control_tokens_are_themselves() {
    let (tokenizer, _) = tokenizer();
    let ids = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.vocab(), 263);
    assert_eq!(ids("ab the"), [97, 98, 256]);
    assert_eq!(ids("<|im_start|>a<think>"), [260, 97, 262]);
    assert_eq!(ids("€"), [0xe2, 0x82, 0xac]);
    assert_eq!(tokenizer.id("<|im_end|>"), Some(259));
    assert_eq!(tokenizer.id("nothing"), None);
}

#[test]
fn a_character_is_held_back_until_it_is_whole() {
    let (tokenizer, _) = tokenizer();
    let cases: [(&[u32], &[&str]); 7] = [
        (&[97, 98], &["a", "b"]),
        // a euro sign as two tokens, and as three
        (&[257, 0xac, 33], &["", "€", "!"]),
        (&[0xe2, 0x82, 0xac], &["", "", "€"]),
        // an emoji in the middle of a word
        (
            &[97, 0xf0, 0x9f, 0x99, 0x82, 98],
            &["a", "", "", "", "🙂", "b"],
        ),
        // special tokens have no text; added ones do
        (&[260, 97, 262, 259], &["", "a", "<think>", ""]),
        // a beginning that is followed by something else cannot become whole any more
        (&[0xe2, 97], &["", "\u{fffd}a"]),
        // one that the end cuts off
        (&[97, 257], &["a", "\u{fffd}"]),
    ];
    for (ids, expected) in cases {
        assert_eq!(stream(&tokenizer, ids).0, expected, "{ids:?}");
    }
}

#[test]
fn a_token_longer_than_a_piece_comes_out_over_several_steps() {
    let (tokenizer, _) = tokenizer();
    let (pieces, left) = stream(&tokenizer, &[258, 97, 98]);
    assert_eq!(
        pieces.iter().map(String::len).collect::<Vec<_>>(),
        [122, 79, 1]
    );
    assert_eq!((pieces.concat(), left), ("-".repeat(200) + "ab", 0));
    // and says what the last step had no room for
    let (pieces, left) = stream(&tokenizer, &[97, 258]);
    assert_eq!((pieces[1].len(), left), (122, 78));
    // a character does not straddle two pieces
    let mut text = TextStream::default();
    assert_eq!(text.push("€".repeat(50).as_bytes()), "€".repeat(40));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,60}") {
        let (tokenizer, _) = tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assume!(!text.contains("<|"));
        prop_assert_eq!(tokenizer.decode(&ids), text.clone());
        prop_assert_eq!(stream(&tokenizer, &ids).0.concat(), text);
    }

    #[test]
    fn any_tokens_stream_as_the_library_decodes_them(ids in prop::collection::vec(0_u32..263, 0..60)) {
        let (tokenizer, library) = tokenizer();
        let expected = library.decode(&ids, true).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), expected.clone());
        let (pieces, left) = stream(&tokenizer, &ids);
        prop_assert!(pieces.iter().all(|piece| piece.len() <= MAX_PIECE));
        let text = pieces.concat();
        prop_assert!(expected.starts_with(&text));
        prop_assert_eq!(text.len() + left, expected.len());
    }

    #[test]
    fn any_bytes_in_any_cuts_stream_as_they_read_at_once(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..0xc0, 0xe0_u8..0xf5], 0..100),
        cuts in prop::collection::vec(1_usize..5, 1..100),
    ) {
        let mut stream = TextStream::default();
        let (mut rest, mut text) = (bytes.as_slice(), String::new());
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at(rest.len().min(*cut));
            rest = after;
            if rest.is_empty() {
                text += &stream.finish(part);
                break;
            }
            text += &stream.push(part);
        }
        prop_assert_eq!(stream.backlog(), 0);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}
