//! Text to token ids and back: a Hugging Face `tokenizer.json` of the byte-level BPE kind that Qwen3 uses.
//!
//! In a byte-level vocabulary each character of a token stands for one byte, so a token's bytes are known without its
//! neighbours. They are laid out in one table when the file is read; decoding is then a copy, and a character that
//! spans tokens is held back until its last byte is there.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tokenizers::DecoderWrapper;

use crate::engine::EngineError;

/// The most bytes of text that one step hands out: what one token frame carries.
pub const MAX_PIECE: usize = 122;

/// A tokenizer and the bytes of its tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    /// Token `i` stands for `bytes[starts[i]..starts[i + 1]]`; special tokens and gaps stand for nothing.
    starts: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is no tokenizer, or decodes otherwise than byte by byte.
    pub fn from_file(file: &Path) -> Result<Self, EngineError> {
        let text = std::fs::read(file).map_err(|source| EngineError::Io {
            file: file.into(),
            error: source,
        })?;
        let format = |what: &str, expected: &str, found: String| EngineError::Format {
            file: file.into(),
            what: what.into(),
            expected: expected.into(),
            found,
        };
        let inner = tokenizers::Tokenizer::from_bytes(&text)
            .map_err(|error| format("content", "a Hugging Face tokenizer", error.to_string()))?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            let found = match inner.get_decoder() {
                None => "none".to_owned(),
                Some(decoder) => serde_json::to_value(decoder)
                    .ok()
                    .and_then(|v| v.get("type").and_then(|t| t.as_str()).map(str::to_owned))
                    .unwrap_or_else(|| "another one".to_owned()),
            };
            return Err(format("decoder", "ByteLevel", found));
        }

        // An added token that does not continue the vocabulary gets another id than the file says, silently.
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        for added in json
            .get("added_tokens")
            .and_then(|list| list.as_array())
            .into_iter()
            .flatten()
        {
            let (Some(content), id) = (
                added.get("content").and_then(|c| c.as_str()),
                added.get("id"),
            ) else {
                continue;
            };
            let assigned = inner.token_to_id(content);
            if id.and_then(serde_json::Value::as_u64) != assigned.map(u64::from) {
                let say = |id: Option<String>| {
                    id.map_or_else(|| "no id".to_owned(), |id| format!("id {id}"))
                };
                return Err(format(
                    &format!("added token {content}"),
                    &say(id.map(ToString::to_string)),
                    assigned.map_or_else(|| "none".to_owned(), |id| id.to_string()),
                ));
            }
        }

        let mut by_id: Vec<(u32, String)> = inner
            .get_vocab(true)
            .into_iter()
            .map(|(token, id)| (id, token))
            .collect();
        by_id.sort_unstable();
        let highest = by_id.last().map_or(0, |(id, _)| *id as usize + 1);
        if highest == 0 || highest > 1 << 24 {
            return Err(format(
                "highest token id",
                "one below 16777216",
                highest.to_string(),
            ));
        }
        let special: std::collections::HashSet<u32> = inner
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, t)| t.special)
            .map(|(id, _)| *id)
            .collect();
        let alphabet = byte_alphabet();
        let mut starts = Vec::with_capacity(highest + 1);
        let mut bytes = Vec::new();
        let mut next = by_id.into_iter().peekable();
        for id in 0..highest {
            starts.push(bytes.len());
            while let Some((_, token)) = next.next_if(|(i, _)| *i as usize == id) {
                if !special.contains(&(id as u32)) {
                    match token
                        .chars()
                        .map(|c| alphabet.get(&c).copied())
                        .collect::<Option<Vec<u8>>>()
                    {
                        Some(mapped) => bytes.extend(mapped),
                        None => bytes.extend(token.as_bytes()), // an added token, written as itself
                    }
                }
            }
        }
        starts.push(bytes.len());
        Ok(Self {
            inner,
            file: file.into(),
            starts,
            bytes,
        })
    }

    /// One more than the highest token id.
    pub fn vocab(&self) -> usize {
        self.starts.len() - 1
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The ids of a text. Control tokens that the text spells out (`<|im_end|>`) become themselves, as everywhere in
    /// this family. `add_special` lets the tokenizer add the tokens with which it begins or ends a text by itself:
    /// wanted for a raw prompt, not after a chat template.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        let encoding =
            self.inner
                .encode_fast(text, add_special)
                .map_err(|error| EngineError::Encode {
                    file: self.file.clone(),
                    message: error.to_string(),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of a token, given as it is written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes that a token stands for: none for a special token or an id that the vocabulary lacks.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&from), Some(&to)) => &self.bytes[from..to],
            _ => &[],
        }
    }

    /// The text of a whole sequence, special tokens left out; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| self.token_bytes(*id))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The byte that each character of a byte-level vocabulary stands for (GPT-2's table: printable Latin-1 characters
/// stand for themselves, the other bytes for the characters from U+0100 on, in order).
fn byte_alphabet() -> std::collections::HashMap<char, u8> {
    let mut others = 0x100_u32..;
    (0..=255_u8)
        .filter_map(|byte| {
            let c = match byte {
                b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => Some(char::from(byte)),
                _ => others.next().and_then(char::from_u32),
            };
            c.map(|c| (c, byte))
        })
        .collect()
}

/// Turns the bytes of tokens into pieces of text, never splitting a character.
///
/// The pieces, one after the other, are what decoding all bytes at once gives: bytes that can never become a character
/// turn into U+FFFD as soon as that is certain. A piece has at most [`MAX_PIECE`] bytes; what is over comes out with
/// the next one.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The beginning of a character that is not whole yet: at most 3 bytes.
    partial: Vec<u8>,
    ready: VecDeque<char>,
}

impl TextStream {
    /// Takes a token's bytes and gives the next piece.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let mut rest = std::mem::take(&mut self.partial);
        loop {
            match std::str::from_utf8(&rest) {
                Ok(text) => {
                    self.ready.extend(text.chars());
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    self.ready.extend(String::from_utf8_lossy(valid).chars());
                    match error.error_len() {
                        None => {
                            self.partial = bad.to_vec();
                            break;
                        }
                        Some(length) => {
                            self.ready.push_back(char::REPLACEMENT_CHARACTER);
                            rest = bad[length..].to_vec();
                        }
                    }
                }
            }
        }
        self.piece()
    }

    /// As [`push`](Self::push), for the last token: a character that never became whole turns into U+FFFD.
    pub fn finish(&mut self, bytes: &[u8]) -> String {
        let mut text = self.push(bytes);
        if !std::mem::take(&mut self.partial).is_empty() {
            self.ready.push_back(char::REPLACEMENT_CHARACTER);
        }
        let room = MAX_PIECE - text.len();
        text.push_str(&self.take(room));
        text
    }

    /// Bytes of text that did not fit into the pieces given so far.
    pub fn backlog(&self) -> usize {
        self.ready.iter().map(|c| c.len_utf8()).sum()
    }

    fn piece(&mut self) -> String {
        self.take(MAX_PIECE)
    }

    fn take(&mut self, room: usize) -> String {
        let mut piece = String::new();
        while let Some(c) = self.ready.front().copied() {
            if piece.len() + c.len_utf8() > room {
                break;
            }
            piece.push(c);
            self.ready.pop_front();
        }
        piece
    }
}
