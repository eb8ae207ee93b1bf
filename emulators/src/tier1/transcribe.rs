//! From captures to words.

use std::collections::VecDeque;

use halo_receipts::messages::CaptureKind;

use crate::tier1::machine::Media;

/// Says what was spoken. A phone has a speech recogniser here.
pub trait Transcriber: Send {
    /// The words of an utterance, one piece for each capture that held some, in order.
    fn transcribe(&mut self, utterance: &[Media]) -> Vec<String>;
}

/// Hears the same words in every utterance.
pub struct Fixed(pub String);

impl Transcriber for Fixed {
    fn transcribe(&mut self, _: &[Media]) -> Vec<String> {
        vec![self.0.clone()]
    }
}

/// Hears nothing.
pub struct Deaf;

impl Transcriber for Deaf {
    fn transcribe(&mut self, _: &[Media]) -> Vec<String> {
        Vec::new()
    }
}

/// Hears what a side file says: its first line in the first audio capture, its second in the second, and after the last
/// line nothing.
pub struct Script(VecDeque<String>);

impl Script {
    /// From the side file's text. An empty line is a capture without words.
    pub fn new(text: &str) -> Self {
        Self(text.lines().map(|line| line.trim().to_owned()).collect())
    }
}

impl Transcriber for Script {
    fn transcribe(&mut self, utterance: &[Media]) -> Vec<String> {
        let sounds = utterance
            .iter()
            .filter(|media| media.kind == CaptureKind::Audio);
        let heard = sounds.filter_map(|_| self.0.pop_front());
        heard.filter(|words| !words.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_receipts::ids::ReceiptId;

    #[test]
    fn a_script_has_a_line_for_each_sound() {
        let media = |kind| Media {
            receipt_id: ReceiptId::from_random([1; 16]),
            kind,
            bytes: vec![1],
        };
        let (sound, image) = (media(CaptureKind::Audio), media(CaptureKind::Image));
        let mut script = Script::new("one\n\nthree\n");
        assert_eq!(
            script.transcribe(&[image.clone(), sound.clone(), sound.clone()]),
            ["one"]
        );
        assert_eq!(script.transcribe(&[sound.clone(), sound]), ["three"]);
        assert!(script.transcribe(&[image]).is_empty());
    }
}
