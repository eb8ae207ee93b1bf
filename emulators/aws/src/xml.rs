//! The XML of EC2 answers.

/// One element: text, or further elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: &'static str,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Children(Vec<Element>),
}

/// An element that holds text.
pub fn text(name: &'static str, value: impl ToString) -> Element {
    Element {
        name,
        content: Content::Text(value.to_string()),
    }
}

/// An element that holds elements.
pub fn group(name: &'static str, children: Vec<Element>) -> Element {
    Element {
        name,
        content: Content::Children(children),
    }
}

/// A list: one `item` for each entry.
pub fn list(name: &'static str, items: impl IntoIterator<Item = Vec<Element>>) -> Element {
    group(
        name,
        items
            .into_iter()
            .map(|children| group("item", children))
            .collect(),
    )
}

/// A list of texts: one `item` for each.
pub fn texts<T: ToString>(name: &'static str, items: impl IntoIterator<Item = T>) -> Element {
    group(
        name,
        items.into_iter().map(|value| text("item", value)).collect(),
    )
}

impl Element {
    /// Writes the element.
    pub fn render(&self, out: &mut String) {
        match &self.content {
            Content::Text(value) if value.is_empty() => empty(self.name, out),
            Content::Children(children) if children.is_empty() => empty(self.name, out),
            Content::Text(value) => {
                open(self.name, out);
                escape(value, out);
                close(self.name, out);
            }
            Content::Children(children) => {
                open(self.name, out);
                for child in children {
                    child.render(out);
                }
                close(self.name, out);
            }
        }
    }
}

fn empty(name: &str, out: &mut String) {
    out.push('<');
    out.push_str(name);
    out.push_str("/>");
}

fn open(name: &str, out: &mut String) {
    out.push('<');
    out.push_str(name);
    out.push('>');
}

fn close(name: &str, out: &mut String) {
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// Writes text so that a parser reads the same text. Characters that XML 1.0 cannot carry become U+FFFD.
pub fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // As a reference: parsers turn bare carriage returns into line feeds.
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(character),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
}

/// A whole answer to an action that succeeded.
pub fn answer(action: &str, request_id: &str, children: &[Element]) -> String {
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
         xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">"
    );
    text("requestId", request_id).render(&mut out);
    for child in children {
        child.render(&mut out);
    }
    close(&format!("{action}Response"), &mut out);
    out
}

/// A whole answer to an action that failed.
pub fn failure(request_id: &str, code: &str, message: &str) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    group(
        "Response",
        vec![
            group(
                "Errors",
                vec![group(
                    "Error",
                    vec![text("Code", code), text("Message", message)],
                )],
            ),
            text("RequestID", request_id),
        ],
    )
    .render(&mut out);
    out
}
