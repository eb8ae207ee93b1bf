//! Properties of the form parser, the XML writer and wildcards.

use std::collections::BTreeMap;

use halo_aws_emulator::form::{Form, FormError};
use halo_aws_emulator::world::filters::wildcard;
use halo_aws_emulator::xml::{answer, list, text};
use proptest::prelude::*;

use crate::wire::Leaves;

/// What XML 1.0 can carry.
fn writable() -> impl Strategy<Value = String> {
    let characters = prop_oneof![
        any::<char>().prop_filter("not in XML", |c| {
            matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        }),
        prop::sample::select(vec!['&', '<', '>', '"', '\'', ']', '\r']),
    ];
    prop::collection::vec(characters, 0..40).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_form_is_read_as_it_was_written(pairs in prop::collection::btree_map(".{1,20}", ".{0,40}", 0..20)) {
        let form = Form::of(pairs.clone());
        let read = Form::parse(form.encode().as_bytes()).unwrap();
        prop_assert_eq!(read.pairs(), &pairs);
    }

    #[test]
    fn no_bytes_make_the_form_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Form::parse(&bytes);
    }

    #[test]
    fn lists_keep_the_order_of_their_numbers(values in prop::collection::vec("[a-z]{1,5}", 0..30)) {
        let form = Form::of(values.iter().enumerate().map(|(index, value)| {
            (format!("InstanceId.{}", index + 1), value.clone())
        }));
        prop_assert_eq!(form.list("InstanceId"), values.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn structures_are_read_whole(tags in prop::collection::vec(("[a-z]{1,8}", ".{0,20}"), 0..20)) {
        let mut pairs = BTreeMap::new();
        for (index, (key, value)) in tags.iter().enumerate() {
            pairs.insert(format!("Tag.{}.Key", index + 1), key.clone());
            pairs.insert(format!("Tag.{}.Value", index + 1), value.clone());
        }
        let read: Vec<(String, String)> = Form::of(pairs)
            .structures("Tag")
            .iter()
            .map(|tag| (tag.get("Key").unwrap().to_owned(), tag.get("Value").unwrap().to_owned()))
            .collect();
        prop_assert_eq!(read, tags);
    }

    #[test]
    fn another_parser_reads_what_the_writer_wrote(values in prop::collection::vec(writable(), 1..8)) {
        let items = values.iter().map(|value| vec![text("value", value)]);
        let xml = answer("DescribeTags", "id", &[list("tagSet", items)]);
        let leaves = Leaves::read(&xml);
        prop_assert_eq!(leaves.all("tagSet/item/value"), values.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(leaves.one("requestId"), "id");
    }

    #[test]
    fn characters_that_xml_cannot_carry_are_replaced(value in any::<String>()) {
        let xml = answer("DescribeTags", "id", &[text("value", &value)]);
        let read = Leaves::read(&xml).one("value");
        prop_assert_eq!(read.chars().count(), value.chars().count());
    }

    #[test]
    fn a_value_matches_itself_and_stars(value in ".{0,20}", before in 0usize..20) {
        let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert!(wildcard(&escaped, &value));
        prop_assert!(wildcard("*", &value));
        let cut: String = value.chars().take(before).collect();
        let escaped: String = cut.chars().flat_map(|c| ['\\', c]).collect();
        let pattern = format!("{escaped}*");
        prop_assert!(wildcard(&pattern, &value));
    }
}

#[test]
fn bad_forms_are_named() {
    for (bytes, error) in [
        (&b"a=%"[..], FormError::Percent),
        (b"a=%2", FormError::Percent),
        (b"a=%zz", FormError::Percent),
        (b"a=%ff", FormError::Utf8),
        (b"a=1&a=2", FormError::Twice),
    ] {
        assert_eq!(Form::parse(bytes), Err(error), "{bytes:?}");
    }
    let many: Vec<String> = (0..10_001).map(|number| format!("p{number}=")).collect();
    assert_eq!(
        Form::parse(many.join("&").as_bytes()),
        Err(FormError::TooMany)
    );
}

#[test]
fn plus_is_a_space_and_a_missing_value_is_empty() {
    let form = Form::parse(b"a=1+2%2B3&b&&c=").unwrap();
    assert_eq!(form.get("a"), Some("1 2+3"));
    assert_eq!(form.get("b"), Some(""));
    assert_eq!(form.get("c"), Some(""));
}

#[test]
fn lists_with_gaps_and_ten_members_are_in_order() {
    let form = Form::parse(b"X.10=j&X.2=b&X.1=a&X.1.Y=no&XX.1=no&X.a=no").unwrap();
    assert_eq!(form.list("X"), ["a", "b", "j"]);
    assert_eq!(form.structures("X").len(), 1);
}

#[test]
fn wildcards() {
    for (pattern, value, matches) in [
        ("r7iz.*", "r7iz.4xlarge", true),
        ("r7iz.?xlarge", "r7iz.4xlarge", true),
        ("r7iz.?xlarge", "r7iz.16xlarge", false),
        ("*large", "m7i.large", true),
        ("*a*b*c", "aXbXbYc", true),
        ("*a*b*c", "aXcXb", false),
        ("", "", true),
        ("", "x", false),
        ("?", "", false),
        ("a\\*", "a*", true),
        ("a\\*", "ab", false),
        ("a\\", "a\\", true),
    ] {
        assert_eq!(wildcard(pattern, value), matches, "{pattern} {value}");
    }
}
