//! How a request ends: sealed, refused, broken off, or forgotten because nothing was computed.

use halo_receipts::documents::{EndCode, EndStatus, EscalateEnd};
use halo_receipts::evidence::Block;
use halo_receipts::ids::RequestId;
use halo_receipts::payload::to_raw;
use halo_receipts::time::Timestamp;

use super::{Action, CLOSE_DRAIN, LinkSession, RETRY_LATER, Work};
use crate::answer::{Ending, Random};

impl LinkSession {
    /// Closes the answer under way; its end is sent when all of it is durable.
    pub(super) fn seal(
        &mut self,
        ending: Ending,
        now: Timestamp,
        random: &mut Random<'_>,
        out: &mut Vec<Action>,
    ) {
        let Work::Answering(answer, request_id) =
            self.take_work_if(|work| matches!(work, Work::Answering(..)))
        else {
            return;
        };
        let (status, code, retry_after_ms) = match ending {
            Ending::Finished(_) => (EndStatus::Ok, EndCode::Ok, None),
            Ending::Cancelled => (EndStatus::Cancelled, EndCode::Cancelled, None),
            Ending::Draining => (EndStatus::Failed, EndCode::Draining, Some(RETRY_LATER)),
            Ending::Lost => (EndStatus::Failed, EndCode::EngineFailed, None),
        };
        let mut end = EscalateEnd::bare(request_id, status, code);
        end.retry_after_ms = retry_after_ms;
        match answer.finish(ending, now, random) {
            Ok(sealed) => {
                for block in sealed.blocks {
                    self.append(block, out);
                }
                if let Ok(payload) = to_raw(&sealed.payload) {
                    end.receipts = vec![sealed.receipt];
                    end.payloads = vec![Some(payload)];
                }
                self.work = Work::Sealing(Box::new(end));
            }
            Err(error) => {
                out.push(Action::Log(format!("answer not sealed: {error}")));
                let end = EscalateEnd::bare(request_id, EndStatus::Failed, EndCode::EngineFailed);
                self.work = Work::Sealing(Box::new(end));
                self.finish_if_durable(out);
            }
        }
    }

    pub(super) fn append(&mut self, block: Block, out: &mut Vec<Action>) {
        self.outstanding += 1;
        out.push(Action::Append(block));
    }

    pub(super) fn appended(&mut self, out: &mut Vec<Action>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.finish_if_durable(out);
    }

    fn finish_if_durable(&mut self, out: &mut Vec<Action>) {
        if self.outstanding > 0 {
            return;
        }
        let Work::Sealing(end) = self.take_work_if(|work| matches!(work, Work::Sealing(_))) else {
            return;
        };
        self.conclude(&end, out);
    }

    pub(super) fn append_failed(&mut self, out: &mut Vec<Action>) {
        self.outstanding = 0;
        match self.work {
            Work::Answering(..) => out.push(Action::Cancel),
            Work::Sealing(_) => {}
            _ => return,
        }
        let (status, code) = (EndStatus::Failed, EndCode::LedgerUnavailable);
        self.end_bare(status, code, Some(RETRY_LATER), out);
    }

    pub(super) fn closed(
        &mut self,
        now: Timestamp,
        random: &mut Random<'_>,
        out: &mut Vec<Action>,
    ) {
        self.open = false;
        match self.work {
            Work::Idle | Work::Sealing(_) => {}
            Work::Preparing(_) | Work::Encoding(_) => self.abandon(out),
            Work::Waiting(_) => {
                out.push(Action::Cancel);
                self.abandon(out);
            }
            Work::Answering(..) => {
                out.push(Action::Cancel);
                self.seal(Ending::Cancelled, now, random, out);
            }
        }
    }

    /// Forgets a request of which nothing was computed, and so nothing is written.
    fn abandon(&mut self, out: &mut Vec<Action>) {
        let (status, code) = (EndStatus::Cancelled, EndCode::Cancelled);
        self.end_bare(status, code, None, out);
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        match self.work {
            Work::Idle => self.close_drained(out),
            Work::Preparing(_) | Work::Encoding(_) => {
                self.refuse(EndCode::Draining, Some(RETRY_LATER), out);
            }
            Work::Waiting(_) => {
                out.push(Action::Cancel);
                self.refuse(EndCode::Draining, Some(RETRY_LATER), out);
            }
            Work::Answering(..) | Work::Sealing(_) => {}
        }
    }

    fn close_drained(&mut self, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.open, false) {
            out.push(Action::Close(CLOSE_DRAIN));
        }
    }

    /// Refuses the request that is under way and of which nothing was computed.
    pub(super) fn refuse(
        &mut self,
        code: EndCode,
        retry_after_ms: Option<u32>,
        out: &mut Vec<Action>,
    ) {
        self.end_bare(EndStatus::Refused, code, retry_after_ms, out);
    }

    /// Ends the request under way without a receipt.
    pub(super) fn end_bare(
        &mut self,
        status: EndStatus,
        code: EndCode,
        retry_after_ms: Option<u32>,
        out: &mut Vec<Action>,
    ) {
        let Some(request_id) = self.request_id() else {
            return;
        };
        self.work = Work::Idle;
        let mut end = EscalateEnd::bare(request_id, status, code);
        end.retry_after_ms = retry_after_ms;
        self.conclude(&end, out);
    }

    /// The request is over. The session is given free before the gateway hears of it, so that its next request, on
    /// whatever link, does not find it busy. A draining link then has nothing left to do.
    pub(super) fn conclude(&mut self, end: &EscalateEnd, out: &mut Vec<Action>) {
        out.push(Action::Release {
            status: end.status,
            code: end.code,
            seal: end.receipts.first().map(|seal| seal.body.receipt_id),
        });
        if end.status == EndStatus::Refused {
            out.push(Action::Refused(end.code.name()));
        }
        self.send_end(end, out);
        if self.draining {
            self.close_drained(out);
        }
    }

    /// Refuses a request that was never taken up.
    pub(super) fn turn_away(
        &mut self,
        request_id: RequestId,
        code: EndCode,
        retry_after_ms: Option<u32>,
        out: &mut Vec<Action>,
    ) {
        let mut end = EscalateEnd::bare(request_id, EndStatus::Refused, code);
        end.retry_after_ms = retry_after_ms;
        out.push(Action::Refused(code.name()));
        self.send_end(&end, out);
    }
}
