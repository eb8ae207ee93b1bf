//! XML into a small tree. EC2's answers are elements and text; attributes and namespaces carry nothing.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

/// EC2's answers are at most a dozen levels deep.
const DEEPEST: usize = 64;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node<'a> {
    /// Its name without a prefix.
    pub(super) name: &'a str,
    /// Its text up to its first child element, exact; between children there is only layout.
    pub(super) text: Cow<'a, str>,
    /// Its child elements in order.
    pub(super) children: Vec<Node<'a>>,
}

/// Why bytes are not an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum XmlError {
    #[error("the answer is not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("the answer is not XML: {0}")]
    Syntax(#[from] quick_xml::Error),
    #[error("the answer is not XML: {0}")]
    Encoding(#[from] quick_xml::encoding::EncodingError),
    #[error("the answer has an entity that is not known")]
    Entity,
    #[error("the answer has a document type")]
    DocType,
    #[error("the answer is nested too deeply")]
    Deep,
    #[error("the answer is not one whole element")]
    Shape,
}

impl<'a> Node<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            text: Cow::Borrowed(""),
            children: Vec::new(),
        }
    }

    fn push_text(&mut self, more: Cow<'a, str>) {
        if more.is_empty() || !self.children.is_empty() {
            return;
        }
        // Most texts come in one piece, and that piece is borrowed.
        if self.text.is_empty() {
            self.text = more;
        } else {
            self.text.to_mut().push_str(&more);
        }
    }

    /// The first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Node<'a>> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the element that a path of names leads to; empty if there is none.
    pub(super) fn text_at(&self, path: &[&str]) -> &str {
        let mut node = self;
        for name in path {
            match node.child(name) {
                Some(child) => node = child,
                None => return "",
            }
        }
        &node.text
    }

    /// The `item` elements of the child of this name, which is how EC2 writes lists.
    pub(super) fn items(&self, name: &str) -> impl Iterator<Item = &Node<'a>> {
        self.child(name)
            .into_iter()
            .flat_map(|list| list.children.iter())
            .filter(|child| child.name == "item")
    }

    /// The first element of this name, this one or any below it, in document order.
    pub(super) fn find(&self, name: &str) -> Option<&Node<'a>> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

/// Parses one whole document.
pub(super) fn parse(bytes: &[u8]) -> Result<Node<'_>, XmlError> {
    let text = std::str::from_utf8(bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Node<'_>> = Vec::new();
    let mut root = None;
    loop {
        let from = position(reader.buffer_position());
        let event = reader.read_event()?;
        let to = position(reader.buffer_position());
        // Names and texts are borrowed from the source itself, which lives longer than the event.
        let source = text.get(from..to).unwrap_or_default();
        match event {
            Event::Start(_) => {
                if open.len() >= DEEPEST {
                    return Err(XmlError::Deep);
                }
                if open.is_empty() && root.is_some() {
                    return Err(XmlError::Shape);
                }
                open.push(Node::new(local_name(source)));
            }
            Event::Empty(_) => close(Node::new(local_name(source)), &mut open, &mut root)?,
            Event::End(_) => {
                let node = open.pop().ok_or(XmlError::Shape)?;
                close(node, &mut open, &mut root)?;
            }
            Event::Text(more) => match open.last_mut() {
                Some(node) if !source.contains('\r') => node.push_text(Cow::Borrowed(source)),
                Some(node) => node.push_text(Cow::Owned(more.xml10_content()?.into_owned())),
                None if source.trim().is_empty() => {}
                None => return Err(XmlError::Shape),
            },
            Event::CData(more) => match open.last_mut() {
                Some(node) => node.push_text(Cow::Owned(more.xml10_content()?.into_owned())),
                None => return Err(XmlError::Shape),
            },
            Event::GeneralRef(entity) => {
                let node = open.last_mut().ok_or(XmlError::Shape)?;
                let c = match entity.resolve_char_ref()? {
                    Some(c) => c,
                    None => predefined(&entity.decode()?).ok_or(XmlError::Entity)?,
                };
                node.push_text(Cow::Owned(c.to_string()));
            }
            Event::DocType(_) => return Err(XmlError::DocType),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    if open.is_empty() {
        root.ok_or(XmlError::Shape)
    } else {
        Err(XmlError::Shape)
    }
}

/// A node is complete: it belongs to the one above it, or it is the root.
fn close<'a>(
    node: Node<'a>,
    open: &mut [Node<'a>],
    root: &mut Option<Node<'a>>,
) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(parent) => parent.children.push(node),
        None if root.is_none() => *root = Some(node),
        None => return Err(XmlError::Shape),
    }
    Ok(())
}

fn position(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The name in `<prefix:name attributes/>`.
fn local_name(tag: &str) -> &str {
    let tag = tag.strip_prefix('<').unwrap_or(tag);
    let end = tag
        .find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/')
        .unwrap_or(tag.len());
    let name = tag.get(..end).unwrap_or_default();
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

fn predefined(entity: &str) -> Option<char> {
    Some(match entity {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tree() {
        let node = parse(
            b"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- c --><e:a xmlns=\"x\">\n <b k='v'>1 &lt;&amp;&#x41;&#66;&gt;</b>\n <c/>\n\
              <r>1\r\n2</r><list><item><n>x</n></item><other/><item><n>y</n></item></list><b>2</b><d><![CDATA[<&]]></d></e:a>\n",
        )
        .unwrap();
        assert_eq!(node.name, "a");
        assert_eq!(node.text_at(&["b"]), "1 <&AB>");
        assert_eq!(node.text_at(&["c"]), "");
        assert_eq!(node.text_at(&["d"]), "<&");
        assert_eq!(node.text_at(&["r"]), "1\n2");
        assert_eq!(node.text_at(&["no", "such"]), "");
        let names: Vec<_> = node
            .items("list")
            .map(|item| item.text_at(&["n"]))
            .collect();
        assert_eq!(names, ["x", "y"]);
        assert_eq!(node.items("none").count(), 0);
        assert_eq!(node.find("n").map(|n| n.text.as_ref()), Some("x"));
        assert!(node.find("z").is_none());
    }

    #[test]
    fn what_is_not_an_answer() {
        let nested = |depth| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(parse(nested(DEEPEST).as_bytes()).is_ok());
        let (deep, deeper) = (nested(DEEPEST + 1), nested(100_000));
        for bad in [
            "",
            "   ",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a></a><b></b>",
            "<a/>text",
            "<a>&nosuch;</a>",
            "<a>&#x110000;</a>",
            "<a>&#0;</a>",
            "<a>&unfinished",
            "<a><![CDATA[x</a>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a",
            "{\"json\": true}",
            "&lt;",
            &deep,
            &deeper,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{:.60}", bad);
        }
        assert!(parse(b"<a>\xff</a>").is_err());
    }

    fn escape(text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                '"' => out.push_str("&quot;"),
                '\r' => out.push_str("&#xd;"),
                c => out.push(c),
            }
        }
        out
    }

    #[derive(Debug, Clone)]
    struct Tree(String, String, Vec<Tree>);

    impl Tree {
        fn write(&self, out: &mut String) {
            out.push_str(&format!("<{}>{}", self.0, escape(&self.1)));
            self.2.iter().for_each(|child| child.write(out));
            out.push_str(&format!("</{}>", self.0));
        }
    }

    fn same(tree: &Tree, node: &Node<'_>) -> bool {
        tree.0 == node.name
            && tree.1 == node.text
            && tree.2.len() == node.children.len()
            && tree.2.iter().zip(&node.children).all(|(t, n)| same(t, n))
    }

    fn trees() -> impl Strategy<Value = Tree> {
        // No control characters: XML 1.0 has no way to write them.
        let leaf = (
            "[a-zA-Z][a-zA-Z0-9_-]{0,8}",
            "[^\\p{Cc}\\u{fffe}\\u{ffff}]{0,20}|[\\r\\n\\t <>&\"']{0,6}",
        )
            .prop_map(|(name, text)| Tree(name, text, Vec::new()));
        leaf.prop_recursive(5, 40, 6, |inner| {
            (
                "[a-zA-Z][a-zA-Z0-9]{0,8}",
                proptest::collection::vec(inner, 0..6),
            )
                .prop_map(|(name, children)| Tree(name, String::new(), children))
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tree in trees()) {
            let mut text = String::from("<?xml version=\"1.0\"?>");
            tree.write(&mut text);
            let node = parse(text.as_bytes()).unwrap();
            prop_assert!(same(&tree, &node), "{text} became {node:?}");
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[<>/&;#a-c!\\[\\]\"'?x0-9 -]{0,60}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
        }
    }
}
