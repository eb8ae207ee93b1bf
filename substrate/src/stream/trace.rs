//! The spans of one request: the request itself, and the part of it that is under way.

use halo_receipts::documents::EndCode;
use halo_receipts::ids::{ReceiptId, RequestId, SessionId};
use tracing::Span;
use tracing::field::{Empty, display};

use crate::pod::Pod;

/// The spans of one request; each ends when it is dropped.
#[derive(Default)]
pub(super) struct Trace {
    stage: Option<Span>,
    request: Option<Span>,
}

impl Trace {
    /// A request begins to be worked on: its session is read.
    pub(super) fn begin(pod: &Pod, session: &SessionId, request: &RequestId) -> Self {
        let span = tracing::info_span!(
            target: "halo::trace",
            "substrate.request",
            %session,
            %request,
            tenant = %pod.tenant,
            pod = %pod.name,
            status = Empty,
            code = Empty,
            receipt = Empty,
        );
        let mut trace = Self {
            stage: None,
            request: Some(span),
        };
        trace.enter("read");
        trace
    }

    /// The request comes to its next part.
    pub(super) fn enter(&mut self, stage: &'static str) {
        if let Some(request) = &self.request {
            let span = tracing::info_span!(target: "halo::trace", parent: request, "substrate.stage", stage);
            self.stage = Some(span);
        }
    }

    /// The request is over; `seal` is the receipt that closes its answer.
    pub(super) fn end(&mut self, status: &'static str, code: EndCode, seal: Option<ReceiptId>) {
        self.stage = None;
        if let Some(request) = self.request.take() {
            request.record("status", status);
            request.record("code", code.name());
            if let Some(seal) = seal {
                request.record("receipt", display(seal));
            }
        }
    }
}
