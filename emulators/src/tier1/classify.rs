//! What a person wants, by rules: the same words always lead to the same decision, and the reason names the rule.
//!
//! A reason goes into a receipt in the clear, so it never repeats what was said.

use crate::tier1::local::{Conversion, LocalIntent};

/// The name and version of these rules in a routing receipt. Another rule means another version.
pub const RULES: &str = "rules/1";

/// The longest prompt, in bytes; it travels in one request together with its receipts.
pub const PROMPT_MAX: usize = 12 * 1024;

/// What was said and done in one utterance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// What was said, one piece for each capture that held words.
    pub segments: Vec<String>,
    /// The number of pictures.
    pub images: usize,
    /// The number of gestures.
    pub gestures: usize,
    /// Whether the words were typed on the phone, and so certainly meant for it.
    pub typed: bool,
}

impl Heard {
    /// Whether the speaker said that this may not leave the phone. It holds whatever a classifier would say.
    pub fn is_private(&self) -> bool {
        self.segments.iter().any(|segment| {
            let plain = format!(" {} ", plain(segment));
            PRIVATE
                .iter()
                .any(|phrase| plain.contains(&format!(" {phrase} ")))
        })
    }
}

/// What to do with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Intent {
    /// The substrate answers.
    Escalate,
    /// The phone answers.
    Local(LocalIntent),
    /// Nothing was asked of anyone here. No word of it is kept.
    Ambient,
}

/// A decision before it is signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Understanding {
    /// What to do.
    pub intent: Intent,
    /// What was asked: the words that were meant for the assistant and no others. Empty if nothing was asked.
    pub prompt: String,
    /// The rule that decided. Goes into the receipt in the clear.
    pub reason: String,
    /// Who decided, with a version.
    pub classifier: String,
}

/// Words that ask, and words that tell the assistant to do something.
const ASKING: [&str; 13] = [
    "what", "who", "where", "when", "why", "how", "which", "is", "are", "can", "could", "does",
    "do",
];

/// Words with which people talk to each other rather than to an assistant.
const TALKING: [&str; 24] = [
    "the", "a", "an", "i", "we", "he", "she", "they", "it", "this", "that", "these", "those",
    "and", "but", "so", "yeah", "yes", "no", "my", "our", "there", "you", "thanks",
];

/// Words that say that nothing of a request may leave the phone.
const PRIVATE: [&str; 12] = [
    "keep this private",
    "keep it private",
    "keep this local",
    "keep it local",
    "this is private",
    "private note",
    "private briefing",
    "stay on the phone",
    "stays on the phone",
    "off the record",
    "do not send",
    "don't send",
];

/// Words that are commands for the device itself.
const DEVICE: [&str; 10] = [
    "set a timer",
    "cancel the timer",
    "set an alarm",
    "volume up",
    "volume down",
    "the volume",
    "stop listening",
    "start listening",
    "repeat that",
    "say that again",
];

/// Beginnings that ask although they begin as talk does.
const WISHES: [&str; 8] = [
    "i need",
    "i want",
    "i would like",
    "i'd like",
    "we need",
    "we want",
    "you should tell me",
    "my notes",
];

/// Decides by rules alone.
pub fn by_rules(heard: &Heard) -> Understanding {
    let understood = |intent, prompt: String, rule: String| Understanding {
        intent,
        prompt,
        reason: rule,
        classifier: RULES.to_owned(),
    };
    let spoken: Vec<&str> = heard
        .segments
        .iter()
        .map(|s| s.trim())
        .filter(|s| !s.is_empty())
        .collect();
    if spoken.is_empty() {
        let (intent, rule) = if heard.images > 0 {
            (LocalIntent::Photo, "picture_without_words")
        } else if heard.gestures > 0 {
            (LocalIntent::Gesture, "gesture_without_words")
        } else {
            (LocalIntent::NotHeard, "no_words")
        };
        return understood(Intent::Local(intent), String::new(), rule.to_owned());
    }
    let (asked, how) = asked(&spoken, heard.typed);
    if asked.is_empty() {
        let rule = format!("ambient: nothing asked in {} segments", spoken.len());
        return understood(Intent::Ambient, String::new(), rule);
    }
    let prompt = asked.join(" ");
    let counts = format!("{how}, {} of {} segments", asked.len(), spoken.len());
    if prompt.len() > PROMPT_MAX {
        let rule = format!("too_long: {counts}");
        return understood(Intent::Local(LocalIntent::TooLong), String::new(), rule);
    }
    match local(&prompt) {
        Some((intent, name)) => {
            understood(Intent::Local(intent), prompt, format!("{name}: {counts}"))
        }
        // It may have been said in another breath than the question.
        None if heard.is_private() => {
            let intent = Intent::Local(LocalIntent::Private);
            understood(intent, prompt, format!("private_by_request: {counts}"))
        }
        None if heard.images > 0 => understood(
            Intent::Escalate,
            prompt,
            format!("question_with_picture: {counts}"),
        ),
        None => understood(Intent::Escalate, prompt, format!("question: {counts}")),
    }
}

/// The segments that are meant for the assistant, without its name, and how that was told.
fn asked<'a>(spoken: &[&'a str], typed: bool) -> (Vec<&'a str>, &'static str) {
    if typed {
        return (spoken.to_vec(), "typed");
    }
    let called: Vec<Option<&str>> = spoken.iter().map(|segment| after_name(segment)).collect();
    if called.iter().any(Option::is_some) {
        let mut asked = Vec::new();
        let mut named_before = false;
        for (segment, rest) in spoken.iter().zip(called) {
            match rest {
                Some(rest) if !rest.is_empty() => asked.push(rest),
                // The name alone calls for what follows.
                None if named_before => asked.push(segment),
                _ => {}
            }
            named_before = rest == Some("");
        }
        return (asked, "called_by_name");
    }
    let asked = spoken
        .iter()
        .copied()
        .filter(|segment| sounds_asked(segment));
    (asked.collect(), "by_form")
}

/// What follows the assistant's name at the beginning of a segment.
fn after_name(segment: &str) -> Option<&str> {
    let mut rest = segment;
    for word in ["hey", "ok", "okay"] {
        if let Some(found) = strip_word(rest, word) {
            rest = found;
        }
    }
    strip_word(rest, "halo")
}

/// `text` without its first word, if that is `word` in any case, and without what separates the two.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    let separate = rest.chars().next().is_none_or(|c| !c.is_alphanumeric());
    (head.eq_ignore_ascii_case(word) && separate)
        .then(|| rest.trim_start_matches(|c: char| !c.is_alphanumeric()))
}

fn sounds_asked(segment: &str) -> bool {
    let plain = plain(segment);
    let first = plain.split(' ').next().unwrap_or_default();
    segment.contains('?')
        || ASKING.contains(&first)
        || WISHES.iter().any(|wish| plain.starts_with(wish))
        || !TALKING.contains(&first)
}

/// Lower case, words separated by single spaces, without punctuation but the one inside words and numbers.
fn plain(text: &str) -> String {
    let word = |word: &str| {
        let kept = |c: char| c.is_alphanumeric() || c == '-';
        word.trim_end_matches(|c: char| !c.is_alphanumeric())
            .trim_start_matches(|c: char| !kept(c))
            .to_lowercase()
    };
    let words: Vec<String> = text
        .split_whitespace()
        .map(word)
        .filter(|w| !w.is_empty())
        .collect();
    words.join(" ")
}

/// A request that the phone answers, and the name of its rule.
pub(super) fn local(prompt: &str) -> Option<(LocalIntent, &'static str)> {
    let plain = plain(prompt);
    let words: Vec<&str> = plain.split(' ').collect();
    let has = |phrase: &str| format!(" {plain} ").contains(&format!(" {phrase} "));
    let short = words.len() <= 8;
    if short && (has("what time") || has("the time")) && !has("time zone") {
        return Some((LocalIntent::Time, "local_time"));
    }
    if short
        && (has("what day")
            || has("today's date")
            || has("what is the date")
            || has("the date today"))
    {
        return Some((LocalIntent::Date, "local_date"));
    }
    if short && has("battery") && !has("replace") {
        return Some((LocalIntent::Battery, "local_battery"));
    }
    if let Some(conversion) = Conversion::find(&words) {
        return Some((LocalIntent::Convert(conversion), "local_units"));
    }
    if short && (has("my notes") || has("read notes")) {
        return Some((LocalIntent::ReadNotes, "local_notes"));
    }
    for opening in [
        "take a note",
        "make a note",
        "note that",
        "note",
        "remember that",
        "remember",
        "private note",
    ] {
        if let Some(rest) = strip_phrase(prompt, opening)
            && !rest.is_empty()
        {
            return Some((LocalIntent::Note(rest.to_owned()), "local_note"));
        }
    }
    if has("executive briefing") || has("brief me") || has("my briefing") || has("the briefing") {
        return Some((LocalIntent::Briefing, "local_briefing"));
    }
    if short && DEVICE.iter().any(|phrase| has(phrase)) {
        return Some((LocalIntent::Device, "local_device"));
    }
    None
}

fn strip_phrase<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    phrase.split(' ').try_fold(text.trim_start(), strip_word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(segments: &[&str]) -> Heard {
        Heard {
            segments: segments.iter().map(|s| (*s).to_owned()).collect(),
            ..Heard::default()
        }
    }

    /// The use cases that the product is shown with, and what becomes of them.
    #[test]
    fn use_cases() {
        let escalated = [
            "What is sovereign inference, in one sentence?",
            "How many pallets of SKU 4417 are in aisle nine?",
            "Show me the lab certificate for lot 88-B.",
            "Which deliveries broke the cold chain last week?",
            "List the open findings of the last compliance audit.",
            "I need the torque for the flange on pump three",
            "Stock of SKU 44",
        ];
        for said in escalated {
            let found = by_rules(&heard(&[said]));
            assert_eq!(found.intent, Intent::Escalate, "{said}");
            assert_eq!(found.prompt, said);
            assert!(
                found.reason.starts_with("question: by_form"),
                "{}",
                found.reason
            );
        }
        let local = [
            ("What time is it?", "local_time"),
            ("what day is it", "local_date"),
            ("How much battery is left?", "local_battery"),
            ("Convert 12 inches to centimeters", "local_units"),
            ("Note that dock four is blocked", "local_note"),
            ("Read my notes", "local_notes"),
            ("Halo, brief me", "local_briefing"),
            ("Private note: the board meets on Friday", "local_note"),
            (
                "Keep this local: what are the three points for the board?",
                "private_by_request",
            ),
            ("What did he say? Off the record.", "private_by_request"),
            ("Keep it private, who is on the list?", "private_by_request"),
            ("Turn the volume up", "local_device"),
            ("Set a timer for five minutes", "local_device"),
            ("Give me my executive briefing for today", "local_briefing"),
        ];
        for (said, rule) in local {
            let found = by_rules(&heard(&[said]));
            assert!(
                matches!(found.intent, Intent::Local(_)),
                "{said}: {:?}",
                found.intent
            );
            assert_eq!(found.reason.split(':').next(), Some(rule), "{said}");
        }
    }

    #[test]
    fn what_is_private_stays_whatever_it_is_said_beside() {
        for segments in [
            ["This is private.", "What does the board decide?"],
            [
                "What does the board decide?",
                "and don't send that anywhere",
            ],
        ] {
            let found = by_rules(&heard(&segments));
            assert_eq!(
                found.intent,
                Intent::Local(LocalIntent::Private),
                "{segments:?}"
            );
        }
    }

    #[test]
    fn only_what_is_asked_becomes_the_prompt() {
        let table: [(&[&str], &str); 6] = [
            (
                &[
                    "the coffee is cold again",
                    "we should call Bo",
                    "Halo, how many trucks are due?",
                ],
                "how many trucks are due?",
            ),
            (
                &[
                    "Hey Halo",
                    "where is the torque wrench",
                    "it was here yesterday",
                ],
                "where is the torque wrench",
            ),
            (
                &["I saw him on Monday", "what is the load limit of rack two?"],
                "what is the load limit of rack two?",
            ),
            (&["The weather is nice.", "They said it would rain."], ""),
            (
                &["halogen lamps are banned", "the lamp is out"],
                "halogen lamps are banned",
            ),
            (&["  ", ""], ""),
        ];
        for (segments, prompt) in table {
            assert_eq!(by_rules(&heard(segments)).prompt, prompt, "{segments:?}");
        }
        let ambient = by_rules(&heard(&[
            "The weather is nice.",
            "They said it would rain.",
        ]));
        assert_eq!(ambient.intent, Intent::Ambient);
        let typed = Heard {
            typed: true,
            ..heard(&["The weather is nice."])
        };
        assert_eq!(by_rules(&typed).intent, Intent::Escalate);
    }

    #[test]
    fn captures_without_words() {
        let silent = |images, gestures| {
            by_rules(&Heard {
                images,
                gestures,
                ..Heard::default()
            })
            .intent
        };
        assert_eq!(silent(1, 1), Intent::Local(LocalIntent::Photo));
        assert_eq!(silent(0, 1), Intent::Local(LocalIntent::Gesture));
        assert_eq!(silent(0, 0), Intent::Local(LocalIntent::NotHeard));
        let long = "what is ".repeat(PROMPT_MAX);
        assert_eq!(
            by_rules(&heard(&[&long])).intent,
            Intent::Local(LocalIntent::TooLong)
        );
    }

    proptest! {
        /// Whatever is said, the reason is one of the rules' own sentences.
        #[test]
        fn a_reason_never_repeats_what_was_said(segments in proptest::collection::vec("\\PC{0,40}", 0..5), images in 0usize..2) {
            let found = by_rules(&Heard { segments, images, ..Heard::default() });
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:, ".contains(c);
            prop_assert!(found.reason.chars().all(allowed), "{}", found.reason);
            prop_assert!(found.reason.len() < 80);
            prop_assert_eq!(&found.classifier, RULES);
            if found.intent == Intent::Ambient {
                prop_assert_eq!(&found.prompt, "");
            }
        }
    }
}
