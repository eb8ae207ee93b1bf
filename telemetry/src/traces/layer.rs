//! The edge to `tracing`: spans that end become [`Span`]s in the queue.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::span::{self, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use super::span::{Attributes, Span, SpanId, TraceId};
use super::{TARGET, count};

/// What is remembered of a span that is under way.
struct Begun {
    id: SpanId,
    /// Its trace unless a request says otherwise.
    trace: TraceId,
    start: SystemTime,
    clock: Instant,
    attributes: Attributes,
}

/// Puts spans of the target into the queue when they end.
pub struct TraceLayer {
    queue: mpsc::Sender<Span>,
    // Ids need to be unique, not secret: a hash under keys that the system drew.
    seed: RandomState,
    next: AtomicU64,
}

impl TraceLayer {
    pub(super) fn new(queue: mpsc::Sender<Span>) -> Self {
        Self {
            queue,
            seed: RandomState::new(),
            next: AtomicU64::new(1),
        }
    }

    fn random(&self) -> u64 {
        // Zero is not an id.
        self.seed
            .hash_one(self.next.fetch_add(1, Ordering::Relaxed))
            .max(1)
    }

    fn exported(metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && metadata.is_span()
    }
}

/// The trace of a span: the request's that it or one around it names, else the outermost span's.
fn trace<'a, S>(span: &SpanRef<'a, S>) -> Option<TraceId>
where
    S: Subscriber + LookupSpan<'a>,
{
    let mut trace = None;
    for around in span.scope() {
        if let Some(begun) = around.extensions().get::<Begun>() {
            if let Some(request) = begun.attributes.request() {
                return Some(request);
            }
            trace = Some(begun.trace);
        }
    }
    trace
}

impl<S> Layer<S> for TraceLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !Self::exported(attributes.metadata()) {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let mut known = Attributes::default();
        attributes.record(&mut known);
        let [high, low] = [self.random(), self.random()];
        span.extensions_mut().insert(Begun {
            id: self.random().to_be_bytes(),
            trace: (u128::from(high) << 64 | u128::from(low)).to_be_bytes(),
            start: SystemTime::now(),
            clock: Instant::now(),
            attributes: known,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(begun) = span.extensions_mut().get_mut::<Begun>() {
            values.record(&mut begun.attributes);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(own) = trace(&span) else { return };
        let Some(begun) = span.extensions_mut().remove::<Begun>() else {
            return;
        };
        let around = span.scope().skip(1).find_map(|around| {
            let id = around.extensions().get::<Begun>().map(|begun| begun.id)?;
            Some((trace(&around)?, id))
        });
        let ended = Span {
            trace: own,
            id: begun.id,
            parent: around.filter(|(trace, _)| *trace == own).map(|(_, id)| id),
            link: around.filter(|(trace, _)| *trace != own),
            name: span.name(),
            start: begun.start,
            took: begun.clock.elapsed(),
            attributes: begun.attributes,
        };
        if self.queue.try_send(ended).is_err() {
            count("dropped", 1);
        }
    }
}
