//! Chat templates: what transformers makes of them, and what is refused.

use std::path::Path;

use halo_substrate::engine::EngineError;
use halo_substrate::template::{ChatTemplate, Message};
use serde::Deserialize;

use crate::synthetic::fixture;

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    messages: Vec<Said>,
    enable_thinking: Option<bool>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Cases {
    special: std::collections::BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[test]
fn templates_give_what_transformers_makes_of_them() {
    let cases: Cases =
        serde_json::from_slice(&std::fs::read(fixture("templates.json")).unwrap()).unwrap();
    let special: Vec<(String, String)> = cases.special.into_iter().collect();
    assert!(cases.cases.len() > 20);
    for case in cases.cases {
        let template = ChatTemplate::new(Path::new("t"), case.template, special.clone()).unwrap();
        let messages: Vec<Message> = case
            .messages
            .into_iter()
            .map(|said| Message {
                role: said.role,
                content: said.content,
            })
            .collect();
        let found = template.render(&messages, case.enable_thinking);
        match case.text {
            Some(expected) => assert_eq!(
                found.unwrap(),
                expected,
                "{}, {} messages",
                case.name,
                messages.len()
            ),
            None => assert!(
                found.is_err(),
                "{}, {} messages: {found:?}",
                case.name,
                messages.len()
            ),
        }
    }
}

fn render(source: &str) -> Result<String, EngineError> {
    ChatTemplate::new(Path::new("t.jinja"), source.into(), Vec::new())?
        .render(&[Message::user("Hi")], None)
}

#[test]
fn what_a_template_says_or_does_wrong_is_an_error() {
    let cases = [
        ("{% if %}", "syntax error"),
        (
            "{{ raise_exception('no system message') }}",
            "no system message",
        ),
        ("{{ messages.explode() }}", "has no method named explode"),
        ("{{ strange() }}", "strange is unknown"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "out of fuel",
        ),
        (
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
            "recursion limit",
        ),
    ];
    for (source, message) in cases {
        let error = render(source).unwrap_err().to_string();
        assert!(
            error.starts_with("t.jinja: chat template: ") && error.contains(message),
            "{source}: {error}"
        );
    }
}

#[test]
fn a_template_is_found_where_models_keep_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("tokenizer_config.json");
    let rendered = || {
        ChatTemplate::from_folder(folder.path()).map(|found| {
            found.map(|template| template.render(&[Message::user("Hi")], None).unwrap())
        })
    };
    assert_eq!(rendered().unwrap(), None);
    std::fs::write(
        &settings,
        r#"{"eos_token": {"content": "<e>"}, "bos_token": null}"#,
    )
    .unwrap();
    assert_eq!(rendered().unwrap(), None);
    std::fs::write(&settings, r#"{"eos_token": {"content": "<e>"}, "chat_template": "{{ messages[0].content }}{{ eos_token }}"}"#)
        .unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "Hi<e>");
    let list = r#"{"eos_token": "<f>", "chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes{{ eos_token }}"}]}"#;
    std::fs::write(&settings, list).unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "yes<f>");
    // a file of its own wins
    std::fs::write(
        folder.path().join("chat_template.jinja"),
        "own{{ eos_token }}",
    )
    .unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "own<f>");
    for (text, message) in [
        (
            "{",
            "tokenizer_config.json: content: expected a JSON object",
        ),
        (
            r#"{"chat_template": 3}"#,
            "chat_template: expected a text, or a list of named texts, found something else",
        ),
        (
            r#"{"chat_template": []}"#,
            "found a list without one named default",
        ),
    ] {
        std::fs::remove_file(folder.path().join("chat_template.jinja")).ok();
        std::fs::write(&settings, text).unwrap();
        let error = rendered().unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}
