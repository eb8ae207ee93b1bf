//! What a request leaves in traces: ids and names, and nothing that was said.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use halo_receipts::documents::EndStatus;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::device::PROMPT;
use super::engine::{Gate, Scripted};
use super::server::Server;

type Fields = BTreeMap<&'static str, String>;

/// Spans for a collector, in the order in which they ended.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(&'static str, Fields)>>>);

struct Reader<'a>(&'a mut Fields);

impl tracing::field::Visit for Reader<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::Id,
        context: Context<'_, S>,
    ) {
        let mut fields = Fields::new();
        attributes.record(&mut Reader(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(
        &self,
        id: &tracing::Id,
        values: &tracing::span::Record<'_>,
        context: Context<'_, S>,
    ) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(&mut Reader(extensions.get_mut().unwrap()));
    }

    fn on_close(&self, id: tracing::Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.metadata().target() == "halo::trace" {
            let fields = span.extensions_mut().remove().unwrap();
            self.0.lock().unwrap().push((span.name(), fields));
        }
    }
}

/// On one thread, so that the subscriber of this test sees the server too and no other test's.
#[tokio::test]
async fn a_request_is_a_span_with_its_ids_and_its_stages() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::loading().await;
    server.scripted(Scripted::saying("secret answer", Gate::open()), 1, 4);
    let (device, mut link) = server.asked(71, 200).await;
    let (_, end) = link.answer().await;
    assert_eq!(end.status, EndStatus::Ok);
    server.settled(&device).await;

    let spans = seen.0.lock().unwrap().clone();
    let stages: Vec<&str> = spans
        .iter()
        .filter(|(name, _)| *name == "substrate.stage")
        .map(|(_, fields)| fields["stage"].as_str())
        .collect();
    assert!(stages.starts_with(&["read", "encode"]), "{stages:?}");
    assert_eq!(stages.last(), Some(&"compute"));
    let (_, request) = spans
        .iter()
        .find(|(name, _)| *name == "substrate.request")
        .unwrap();
    assert_eq!(request["session"], device.session.to_string());
    assert_eq!(request["request"], end.request_id.to_string());
    let seal = end.receipts[0].body.receipt_id.to_string();
    assert_eq!(request["receipt"], seal);
    assert_eq!(
        (request["status"].as_str(), request["code"].as_str()),
        ("ok", "ok")
    );
    let all = format!("{spans:?}");
    assert!(!all.contains("secret") && !all.contains(PROMPT), "{all}");
}
