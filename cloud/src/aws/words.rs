//! The cloud's words, made fit for status, events and logs: one line, bounded, without what must not be shown.

/// No message is longer, in characters.
const LONGEST: usize = 400;
/// A word that is longer is a token, a signature or an encoded blob, not something to read. An ARN is at most about 150.
const LONGEST_WORD: usize = 200;
/// What follows these is cut off: a blob that changes with every call, or the request that was signed with its session token.
const CUT: [&str; 3] = [
    "Encoded authorization failure message",
    "The Canonical String for this request",
    "The String-to-Sign should have been",
];

/// A message that can be shown.
pub(super) fn one_line(message: &str) -> String {
    let end = CUT
        .iter()
        .filter_map(|cut| message.find(cut))
        .min()
        .unwrap_or(message.len());
    let mut line = String::new();
    let mut length = 0;
    let words = message
        .get(..end)
        .unwrap_or_default()
        .split(|c: char| c.is_whitespace() || c.is_control());
    for word in words.filter(|word| !word.is_empty()) {
        let word = if word.chars().count() > LONGEST_WORD {
            "[...]"
        } else {
            word
        };
        length += word.chars().count() + usize::from(!line.is_empty());
        if length > LONGEST {
            line.push_str(" ...");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

/// An error code that can be a label: letters, digits, dots, dashes; at most 64 of them.
pub(super) fn code(code: &str) -> String {
    code.trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .take(64)
        .collect()
}

/// The IAM action that a message says is denied, as in `not authorized to perform: ec2:RunInstances on resource`.
pub(super) fn denied_action(message: &str) -> Option<&str> {
    let (_, after) = message.split_once("not authorized to perform: ")?;
    let end = after
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '*')))
        .unwrap_or(after.len());
    let action = after.get(..end)?;
    let (service, name) = action.split_once(':')?;
    (!service.is_empty() && !name.is_empty() && action.len() <= 128).then_some(action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        let blob = "Zx9".repeat(200);
        for (raw, shown) in [
            ("", String::new()),
            (" a\n\tb\r\n c\u{0}d ", "a b c d".to_owned()),
            (
                &format!(
                    "You are not authorized to perform: ec2:RunInstances on resource: arn:x. Encoded authorization failure message: {blob}"
                ),
                "You are not authorized to perform: ec2:RunInstances on resource: arn:x."
                    .to_owned(),
            ),
            (
                "The signature does not match. The Canonical String for this request should have been 'POST x-amz-security-token:secret'",
                "The signature does not match.".to_owned(),
            ),
            (&format!("see {blob} here"), "see [...] here".to_owned()),
        ] {
            assert_eq!(one_line(raw), shown);
        }
        let long = one_line(&"word ".repeat(1_000));
        assert!(long.ends_with(" ...") && long.len() < 410, "{}", long.len());
    }

    #[test]
    fn codes() {
        assert_eq!(
            code(" InvalidInstanceID.NotFound\n"),
            "InvalidInstanceID.NotFound"
        );
        assert_eq!(code("<script>"), "script");
        assert_eq!(code(&"A".repeat(100)).len(), 64);
    }

    #[test]
    fn denied() {
        let message = "User: arn:aws:sts::123456789012:assumed-role/halo/i is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/x";
        assert_eq!(denied_action(message), Some("iam:PassRole"));
        for none in [
            "",
            "not authorized to perform: ",
            "not authorized to perform: x",
            "not authorized to perform this operation",
            "not authorized to perform: :x",
        ] {
            assert_eq!(denied_action(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn always_one_bounded_line(text in "(?s).{0,600}") {
            let line = one_line(&text);
            prop_assert!(line.chars().count() <= LONGEST + 4);
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(code(&text).len() <= 64);
            let _ = denied_action(&text);
        }
    }
}
