//! What a PromQL expression names: metrics, labels, and which functions are applied to them. Not a parser: a scanner that knows enough
//! to find every name.

/// What a label is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub operator: String,
    /// The text between the quotes.
    pub value: String,
}

/// A metric as an expression names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric.
    pub name: String,
    /// Its matchers.
    pub matchers: Vec<Matcher>,
    /// The function that is applied to it, such as `rate`; empty without one.
    pub function: String,
}

/// What an expression names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics.
    pub selectors: Vec<Selector>,
    /// Labels by which it groups or joins.
    pub grouping: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    /// A number, a duration, a variable of a dashboard, a range: nothing of interest.
    Other,
    Sign(String),
}

const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const WORDS: [&str; 8] = [
    "and", "or", "unless", "bool", "offset", "atan2", "inf", "nan",
];

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let run = |good: &dyn Fn(char) -> bool| {
            let end = rest.find(|c| !good(c)).unwrap_or(rest.len());
            rest.split_at(end)
        };
        if first.is_whitespace() {
            rest = run(&char::is_whitespace).1;
        } else if first == '#' {
            rest = run(&|c| c != '\n').1;
        } else if first.is_ascii_alphabetic() || first == '_' || first == ':' {
            let (name, after) = run(&|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
            tokens.push(Token::Name(name.to_owned()));
            rest = after;
        } else if first.is_ascii_digit() || first == '.' || first == '$' {
            // Numbers, durations, `$__rate_interval`.
            let (_, after) = run(&|c| c.is_ascii_alphanumeric() || "._$".contains(c));
            tokens.push(Token::Other);
            rest = after;
        } else if first == '"' || first == '\'' {
            let text = &rest[1..];
            let end = text.find(first).ok_or("a quote that is not closed")?;
            tokens.push(Token::Text(text[..end].to_owned()));
            rest = &text[end + 1..];
        } else if first == '[' {
            let end = rest.find(']').ok_or("a range that is not closed")?;
            tokens.push(Token::Other);
            rest = &rest[end + 1..];
        } else if "=!~<>".contains(first) {
            let (sign, after) = run(&|c| "=!~<>".contains(c));
            tokens.push(Token::Sign(sign.to_owned()));
            rest = after;
        } else if "(){},+-*/%^@".contains(first) {
            tokens.push(Token::Sign(first.to_string()));
            rest = &rest[1..];
        } else {
            return Err(format!("{first:?} is not PromQL"));
        }
    }
    Ok(tokens)
}

/// Finds the names in an expression.
///
/// # Errors
/// What is not PromQL, or hides the name of a metric.
pub fn names(expression: &str) -> Result<Names, String> {
    let tokens = tokens(expression)?;
    let mut names = Names::default();
    // The functions whose parentheses are open.
    let mut open: Vec<String> = Vec::new();
    let mut at = 0;
    let sign = |at: usize, text: &str| tokens.get(at) == Some(&Token::Sign(text.to_owned()));
    let mut pending = String::new();
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Name(name) if GROUPING.contains(&name.as_str()) => {
                if !sign(at, "(") {
                    continue;
                }
                at += 1;
                while !sign(at, ")") {
                    match tokens.get(at) {
                        Some(Token::Name(label)) => names.grouping.push(label.clone()),
                        Some(Token::Sign(comma)) if comma == "," => {}
                        _ => return Err(format!("{name}: a list of labels is expected")),
                    }
                    at += 1;
                }
                at += 1;
            }
            Token::Name(name) if WORDS.contains(&name.to_lowercase().as_str()) => {}
            Token::Name(name) => {
                let grouped = |token: Option<&Token>| matches!(token, Some(Token::Name(word)) if ["by", "without"].contains(&word.as_str()));
                if sign(at, "(") || grouped(tokens.get(at)) {
                    pending.clone_from(name);
                    continue;
                }
                let mut matchers = Vec::new();
                if sign(at, "{") {
                    at += 1;
                    while !sign(at, "}") {
                        match tokens.get(at..at + 3) {
                            Some(
                                [
                                    Token::Name(label),
                                    Token::Sign(operator),
                                    Token::Text(value),
                                ],
                            ) => matchers.push(Matcher {
                                label: label.clone(),
                                operator: operator.clone(),
                                value: value.clone(),
                            }),
                            _ => return Err(format!("{name}: a matcher is expected")),
                        }
                        at += 3;
                        at += usize::from(sign(at, ","));
                    }
                    at += 1;
                }
                names.selectors.push(Selector {
                    name: name.clone(),
                    matchers,
                    function: open.last().cloned().unwrap_or_default(),
                });
            }
            Token::Sign(sign) => match sign.as_str() {
                "(" => open.push(std::mem::take(&mut pending)),
                ")" => {
                    open.pop().ok_or("a parenthesis that was not opened")?;
                }
                "{" => return Err("a selector without the name of a metric".to_owned()),
                _ => {}
            },
            Token::Text(_) | Token::Other => {}
        }
    }
    if open.is_empty() {
        Ok(names)
    } else {
        Err("a parenthesis that is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn names_are_found() {
        let names = names(
            r#"histogram_quantile(0.9, sum by (namespace, le) (rate(a_bucket{x="1", y!~"b|c(d)"}[$__rate_interval]))) > 1e3
               and on (tenant) group_left () b:c unless d offset 15m # e"#,
        )
        .unwrap();
        let found: Vec<_> = names
            .selectors
            .iter()
            .map(|one| (one.name.as_str(), one.function.as_str()))
            .collect();
        assert_eq!(found, [("a_bucket", "rate"), ("b:c", ""), ("d", "")]);
        assert_eq!(names.grouping, ["namespace", "le", "tenant"]);
        let matchers = &names.selectors[0].matchers;
        assert_eq!(
            (matchers[1].label.as_str(), matchers[1].operator.as_str()),
            ("y", "!~")
        );
        assert_eq!(matchers[1].value, "b|c(d)");
    }

    #[test]
    fn what_hides_a_name_is_refused() {
        for wrong in [
            r#"{__name__="a"}"#,
            "sum(a",
            "a)",
            "a{b}",
            r#"a{b="c"#,
            "rate(a[5m)",
            "sum by (a b;) (c)",
        ] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }
}
