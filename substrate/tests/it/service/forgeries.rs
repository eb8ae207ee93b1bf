//! Requests that must not be answered: each one wrong in one way.

use halo_receipts::documents::{EndCode, Operation};
use halo_receipts::evidence::StoredReceipt;
use halo_receipts::ids::{Epoch, Hash, RequestId, SessionId, Tier};
use halo_receipts::keys::TierKey;
use halo_receipts::payload::{Decision, to_raw};
use halo_receipts::receipt::{Receipt, ReceiptKind};

use super::device::{Ask, Device, PROMPT, stored};

/// A request, what the gateway recorded before it, and how it is refused.
pub struct Forgery {
    pub name: &'static str,
    pub document: Vec<u8>,
    pub recorded: Vec<StoredReceipt>,
    pub code: EndCode,
}

type Change = fn(&mut Device, &mut Ask);
/// A document, and what of it is recorded.
type Made = (Vec<u8>, Vec<StoredReceipt>);

fn resign(device: &Device, receipt: &mut Receipt) {
    let body = receipt.body.clone();
    *receipt = body
        .clone()
        .sign(&device.key_of(body.session_epoch, body.tier));
}

/// Changes to the request alone; the ledger holds what was true before.
const REQUESTS: [(&str, Change); 21] = [
    ("a routing signature with one bit changed", |_, ask| {
        ask.request.receipts[1].hmac_signature[31] ^= 1;
    }),
    ("a capture signature with one bit changed", |_, ask| {
        ask.request.receipts[0].hmac_signature[0] ^= 0x80;
    }),
    (
        "a routing receipt signed with the pod's key",
        |device, ask| {
            let body = ask.request.receipts[1].body.clone();
            ask.request.receipts[1] = body.sign(&device.key(Tier::Substrate));
        },
    ),
    (
        "a routing receipt under the key of another epoch",
        |device, ask| {
            let body = ask.request.receipts[1].body.clone();
            let key = device.key_of(Epoch(device.epoch.0 - 1), Tier::Orchestrator);
            ask.request.receipts[1] = body.sign(&key);
        },
    ),
    (
        "the routing receipt's time changed and signed again",
        |device, ask| {
            let mut receipt = ask.request.receipts[1].clone();
            receipt.body.timestamp_utc = ask.request.receipts[0].body.timestamp_utc;
            resign(device, &mut receipt);
            ask.request.receipts[1] = receipt;
        },
    ),
    ("a payload of another receipt", |device, ask| {
        let (_, payload) = device.routing(Decision::Escalate, ask.request.request_id, PROMPT);
        ask.request.payloads[1] = Some(to_raw(&payload).unwrap());
    }),
    ("a payload for the capture", |_, ask| {
        ask.request.payloads[0] = Some(to_raw(b"{}").unwrap());
    }),
    ("another prompt", |_, ask| ask.request.prompt.push('!')),
    ("no prompt", |_, ask| ask.request.prompt.clear()),
    ("no tokens asked for", |_, ask| ask.request.max_tokens = 0),
    ("a nucleus over one", |_, ask| {
        ask.request.sampling.top_p_milli = 1001
    }),
    ("a resumption's field", |_, ask| {
        ask.request.last_step = Some(3)
    }),
    ("another request id", |_, ask| {
        ask.request.request_id = RequestId::from_random([0x77; 16]);
    }),
    ("a record", |_, ask| ask.request.op = Operation::Record),
    ("a resume", |_, ask| ask.request.op = Operation::Resume),
    ("no receipts", |_, ask| {
        ask.request.receipts.clear();
        ask.request.payloads.clear();
    }),
    ("no routing receipt", |_, ask| {
        ask.request.receipts.truncate(1);
        ask.request.payloads.truncate(1);
    }),
    ("the receipts the wrong way round", |_, ask| {
        ask.request.receipts.swap(0, 1);
        ask.request.payloads.swap(0, 1);
    }),
    ("a receipt twice", |_, ask| {
        let (receipt, payload) = (
            ask.request.receipts[1].clone(),
            ask.request.payloads[1].clone(),
        );
        ask.request.receipts.push(receipt);
        ask.request.payloads.push(payload);
    }),
    ("a tier 2 receipt in between", |device, ask| {
        let parent = Some(ask.request.receipts[1].as_parent());
        let payload = b"{\"experts\":[],\"step\":0,\"v\":1}";
        let kind = ReceiptKind::ExpertLoad;
        let body = device.unsigned(Tier::Substrate, kind, parent, Hash::of(payload));
        let receipt = body.sign(&device.key(Tier::Substrate));
        ask.request.receipts.insert(1, receipt);
        ask.request
            .payloads
            .insert(1, Some(to_raw(payload).unwrap()));
    }),
    ("a routing receipt of an epoch to come", |device, ask| {
        let mut receipt = ask.request.receipts[1].clone();
        receipt.body.session_epoch = Epoch(device.epoch.0 + 1);
        resign(device, &mut receipt);
        ask.request.receipts[1] = receipt;
    }),
];

/// A request whose routing receipt the device really signed, with nothing of it recorded.
fn unrecorded(device: &mut Device, change: Change) -> Made {
    let mut ask = device.ask(PROMPT, 8);
    change(device, &mut ask);
    (ask.document(), Vec::new())
}

pub fn forgeries(fresh: impl Fn(u8) -> Device) -> Vec<(Device, Forgery)> {
    let mut all = Vec::new();
    let mut seed = 0;
    let mut add = |name, make: &dyn Fn(&mut Device) -> Made| {
        seed += 1;
        let mut device = fresh(seed);
        let (document, recorded) = make(&mut device);
        let code = EndCode::BundleInvalid;
        all.push((
            device,
            Forgery {
                name,
                document,
                recorded,
                code,
            },
        ));
    };
    for (name, change) in REQUESTS {
        add(name, &|device| {
            let mut ask = device.ask(PROMPT, 8);
            change(device, &mut ask);
            (ask.document(), std::mem::take(&mut ask.stored))
        });
    }
    add("a local decision", &|device| {
        let mut ask = device.ask(PROMPT, 8);
        let (routing, payload) = device.routing(Decision::Local, ask.request.request_id, PROMPT);
        ask.stored[1] = stored(&routing, Some(&payload));
        ask.request.receipts[1] = routing;
        ask.request.payloads[1] = Some(to_raw(&payload).unwrap());
        (ask.document(), ask.stored)
    });
    add(
        "a new routing receipt with one bit of its signature changed",
        &|device| {
            unrecorded(device, |_, ask| {
                ask.request.receipts[1].hmac_signature[7] ^= 4;
            })
        },
    );
    add("a new routing receipt that the sensor signed", &|device| {
        unrecorded(device, |device, ask| {
            let body = ask.request.receipts[1].body.clone();
            ask.request.receipts[1] = body.sign(&device.key(Tier::Sensor));
        })
    });
    add("a new routing receipt under another root", &|device| {
        unrecorded(device, |_, ask| {
            let body = ask.request.receipts[1].body.clone();
            ask.request.receipts[1] = body.sign(&TierKey::from_bytes([1; 32]));
        })
    });
    add("a new capture that nobody signed", &|device| {
        unrecorded(device, |device, ask| {
            ask.request.receipts[0].hmac_signature = [0; 32];
            let parent = ask.request.receipts[0].as_parent();
            ask.request.receipts[1].body.parent = Some(parent);
            let mut routing = ask.request.receipts[1].clone();
            resign(device, &mut routing);
            ask.request.receipts[1] = routing;
        })
    });
    add("an epoch that nobody claimed", &|device| {
        unrecorded(device, |device, ask| {
            let before = Epoch(device.epoch.0 - 5);
            for receipt in &mut ask.request.receipts {
                receipt.body.session_epoch = before;
            }
            let mut capture = ask.request.receipts[0].clone();
            resign(device, &mut capture);
            let mut routing = ask.request.receipts[1].clone();
            routing.body.parent = Some(capture.as_parent());
            // The private content is sealed under the other epoch's key, so it is sealed again.
            let now = std::mem::replace(&mut device.epoch, before);
            let request_id = ask.request.request_id;
            let (fresh, payload) = device.routing(Decision::Escalate, request_id, PROMPT);
            device.epoch = now;
            routing.body.receipt_id = fresh.body.receipt_id;
            routing.body.event_payload_hash = fresh.body.event_payload_hash;
            resign(device, &mut routing);
            ask.request.receipts = vec![capture, routing];
            ask.request.payloads[1] = Some(to_raw(&payload).unwrap());
        })
    });
    add("receipts of another session", &|device| {
        let mut other = Device::new(200);
        let ask = other.ask(PROMPT, 8);
        assert_ne!(other.session, device.session);
        (ask.document(), Vec::new())
    });
    add(
        "another session's number over this one's signature",
        &|device| {
            unrecorded(device, |_, ask| {
                ask.request.receipts[1].body.session_id = SessionId::from_random([0x55; 16]);
            })
        },
    );
    add("receipts of another tenant", &|device| {
        device.tenant = "evil".parse().unwrap();
        device.chain = halo_receipts::chain::Chain::new(device.session, device.tenant.clone());
        let ask = device.ask(PROMPT, 8);
        device.tenant = super::device::tenant();
        (ask.document(), Vec::new())
    });
    add("a field that no request has", &|device| {
        let ask = device.ask(PROMPT, 8);
        let text = String::from_utf8(ask.document()).unwrap();
        (
            text.replacen("{\"max", "{\"extra\":1,\"max", 1)
                .into_bytes(),
            ask.stored,
        )
    });
    add("white space", &|device| {
        let ask = device.ask(PROMPT, 8);
        let text = String::from_utf8(ask.document()).unwrap();
        (
            text.replacen("{\"max", "{ \"max", 1).into_bytes(),
            ask.stored,
        )
    });
    all
}
