//! What ends in which order.

use halo_crds::{TENANT_LABEL, reasons};
use serde_json::json;

use super::super::cleanup::{NamespaceEnd, Step, plan};
use super::super::dereference::World;
use super::worlds::*;

fn ending(substrates: &[(&str, bool)]) -> World {
    let mut world = world(tenant(json!({}), None));
    world.substrates = substrates
        .iter()
        .map(|(name, deleting)| (("halo-acme".to_owned(), (*name).to_owned()), *deleting))
        .collect();
    world
}

#[test]
fn substrates_end_first_and_are_waited_for() {
    let Step::Substrates { delete, waits } = plan(&ending(&[("a", true), ("b", false)])) else {
        panic!("did not wait");
    };
    assert_eq!(delete, [("halo-acme".to_owned(), "b".to_owned())]);
    assert_eq!(waits.reason, reasons::SUBSTRATES_REMAIN);
    assert!(
        waits.message.contains("halo-acme/a, halo-acme/b"),
        "{}",
        waits.message
    );
    let names: Vec<String> = (10..35).map(|n| format!("s{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    let Step::Substrates { delete, waits } = plan(&ending(&many)) else {
        panic!("did not wait");
    };
    assert!(delete.is_empty());
    assert!(
        waits.message.ends_with("halo-acme/s19 and 15 more"),
        "{}",
        waits.message
    );
}

#[test]
fn only_a_namespace_that_was_made_is_deleted() {
    let terminating = record(
        &[
            (TENANT_LABEL, "acme"),
            ("halo.howdify.io/namespace-origin", "created"),
        ],
        true,
    );
    let foreign = record(
        &[
            (TENANT_LABEL, "other"),
            ("halo.howdify.io/namespace-origin", "created"),
        ],
        false,
    );
    for (found, end) in [
        (None, NamespaceEnd::Leave),
        (Some(created()), NamespaceEnd::Delete),
        (Some(adopted()), NamespaceEnd::Release),
        (Some(terminating), NamespaceEnd::Leave),
        (Some(foreign), NamespaceEnd::Leave),
    ] {
        let mut world = ending(&[]);
        world.namespace = found;
        assert_eq!(plan(&world), Step::Rest { namespace: end });
    }
}
