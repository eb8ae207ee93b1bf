//! The documents of the 0x60 family: they carry receipts unchanged, and have one spelling.

use halo_receipts::documents::{
    EndCode, EndStatus, EscalateEnd, EscalateRequest, Notice, Operation, Progress, Sampling,
};
use halo_receipts::evidence::Stream;
use halo_receipts::fragment::{self, END_MAX, REQUEST_MAX, Reassembler};
use halo_receipts::ids::RequestId;
use halo_receipts::payload::{PayloadError, V1, to_raw};
use halo_receipts::receipt::{Receipt, ReceiptKind};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::RawValue;

use crate::golden;

/// The receipts of stream `d` of the golden session, with their payloads.
fn bundle() -> (Vec<Receipt>, Vec<Option<Box<RawValue>>>) {
    let golden = golden::golden();
    let stored = golden.evidence.receipts(Stream::Device);
    stored
        .map(|(_, stored)| {
            let payload = stored
                .payload
                .as_deref()
                .map(|bytes| to_raw(bytes).unwrap());
            (Receipt::parse(&stored.bytes).unwrap(), payload)
        })
        .unzip()
}

fn request(prompt: &str) -> EscalateRequest {
    let (receipts, payloads) = bundle();
    EscalateRequest {
        v: V1,
        op: Operation::Infer,
        request_id: RequestId::from_random([1; 16]),
        receipts,
        payloads,
        prompt: prompt.to_owned(),
        max_tokens: 64,
        sampling: Sampling::default(),
        last_step: None,
    }
}

#[test]
fn a_bundle_arrives_with_the_same_bytes() {
    let json = request("how many?").to_json().unwrap();
    assert!(json.len() <= REQUEST_MAX);
    let mut reassembler = Reassembler::new(REQUEST_MAX);
    let payloads = fragment::split(&json, REQUEST_MAX).unwrap();
    let arrived = payloads
        .iter()
        .find_map(|payload| reassembler.push(payload).unwrap());
    let read = EscalateRequest::parse(&arrived.unwrap()).unwrap();
    let (receipts, payloads) = bundle();
    assert_eq!(read.receipts, receipts);
    let raw = |payloads: &[Option<Box<RawValue>>]| -> Vec<Option<String>> {
        let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map(|raw| raw.get().to_owned());
        payloads.iter().map(text).collect()
    };
    assert_eq!(raw(&read.payloads), raw(&payloads));
    assert_eq!(read.to_json().unwrap(), json);
}

#[test]
fn other_spellings_are_refused() {
    let json = String::from_utf8(request("how many?").to_json().unwrap()).unwrap();
    let refused = |from: &str, to: &str| {
        let other = json.replacen(from, to, 1);
        assert_ne!(other, json, "{from}");
        assert!(EscalateRequest::parse(other.as_bytes()).is_err(), "{to}");
    };
    refused("{", "{ ");
    refused("{\"max_tokens\":64", "{\"extra\":1,\"max_tokens\":64");
    refused("\"max_tokens\":64", "\"max_tokens\":64,\"max_tokens\":64");
    refused("\"max_tokens\":64", "\"max_tokens\":64.0");
    refused("\"max_tokens\":64", "\"max_tokens\":-64");
    refused("\"op\":\"infer\"", "\"op\":\"Infer\"");
    refused("\"op\":\"infer\"", "\"op\":\"cancel\"");
    refused("\"seed\":0", "\"seed\":0,\"seed\":0");
    refused("\"seed\":0,", "");
    refused("\"v\":1", "\"v\":2");
    refused("}", "} ");
    // Inside a receipt and inside a payload.
    refused("\"tier\":0", "\"tier\":0,\"tier\":0");
    refused("\"tier\":0", "\"tier\": 0");
    refused("\"classifier\"", "\"classifier\":\"a\",\"classifier\"");
    refused("\"device_receipts\":", "\"device_receipts\": ");
    // Receipts without their payloads, or with another's.
    refused("\"payloads\":[null,null,", "\"payloads\":[null,");
    refused("\"payloads\":[null,", "\"payloads\":[{},");
    refused(
        "\"payloads\":[null,null,{",
        "\"payloads\":[null,null,null,{",
    );
}

#[test]
fn a_payload_that_is_not_its_receipts_is_refused() {
    let mut swapped = request("how many?");
    let routing = |r: &Receipt| r.body.receipt_kind == ReceiptKind::TierRouting;
    let places: Vec<usize> = (0..swapped.receipts.len())
        .filter(|&at| routing(&swapped.receipts[at]))
        .collect();
    swapped.payloads.swap(places[0], places[1]);
    let json = swapped.to_json().unwrap();
    assert!(matches!(
        EscalateRequest::parse(&json),
        Err(PayloadError::Unpaired)
    ));
}

proptest! {
    #[test]
    fn requests_read_back(
        prompt in "\\PC{0,200}",
        op in select(&[Operation::Infer, Operation::Record, Operation::Resume][..]),
        max_tokens in any::<u32>(),
        last_step in proptest::option::of(any::<u32>()),
        (temperature_milli, top_p_milli, top_k, seed) in any::<(u32, u32, u32, u32)>(),
    ) {
        let request = EscalateRequest {
            op,
            max_tokens,
            last_step,
            sampling: Sampling { temperature_milli, top_p_milli, top_k, seed },
            receipts: Vec::new(),
            payloads: Vec::new(),
            ..request(&prompt)
        };
        let json = request.to_json().unwrap();
        let read = EscalateRequest::parse(&json).unwrap();
        prop_assert_eq!((read.op, read.max_tokens, read.last_step, read.sampling), (op, max_tokens, last_step, request.sampling));
        prop_assert_eq!(&read.prompt, &prompt);
        prop_assert_eq!(read.to_json().unwrap(), json);
    }

    #[test]
    fn ends_and_notices_read_back(
        status in select(&[EndStatus::Ok, EndStatus::Recorded, EndStatus::Refused, EndStatus::Failed, EndStatus::Cancelled][..]),
        code in select(&[EndCode::Ok, EndCode::BundleInvalid, EndCode::Busy, EndCode::RateLimited, EndCode::Lost, EndCode::Cancelled][..]),
        retry_after_ms in proptest::option::of(any::<u32>()),
        state in select(&[Progress::Waking, Progress::Queued, Progress::Loading, Progress::Ready][..]),
        (position, eta_ms) in any::<(u32, u32)>(),
    ) {
        let mut end = EscalateEnd::bare(RequestId::from_random([1; 16]), status, code);
        end.retry_after_ms = retry_after_ms;
        let json = end.to_json().unwrap();
        prop_assert!(json.len() < END_MAX);
        let read = EscalateEnd::parse(&json).unwrap();
        prop_assert_eq!((read.status, read.code, read.retry_after_ms), (status, code, retry_after_ms));
        let (text, code) = (String::from_utf8(json).unwrap(), format!("\"code\":\"{}\"", code.name()));
        prop_assert!(text.contains(&code));
        let notice = Notice { state, position, eta_ms };
        prop_assert_eq!(Notice::parse(&notice.to_json().unwrap()).unwrap(), notice.clone());
        prop_assert!(notice.encode().unwrap().len() <= halo_receipts::frame::PAYLOAD_MAX);
    }

    #[test]
    fn any_bytes_are_no_document(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(EscalateRequest::parse(&bytes).is_err());
        prop_assert!(EscalateEnd::parse(&bytes).is_err());
        prop_assert!(Notice::parse(&bytes).is_err());
    }

    #[test]
    fn a_changed_byte_of_a_bundle_is_refused_or_is_another_prompt(at in any::<prop::sample::Index>(), bit in 0..7u8) {
        let json = request("how many?").to_json().unwrap();
        let mut changed = json.clone();
        let at = at.index(json.len());
        changed[at] ^= 1 << bit;
        if let Ok(read) = EscalateRequest::parse(&changed) {
            // What still reads is canonical, and no payload differs from its receipt.
            prop_assert_eq!(read.to_json().unwrap(), changed);
        }
    }
}
