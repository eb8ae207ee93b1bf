#!/usr/bin/env python3
"""Checks every vector file beside it against spec.md, as protocol.py and session.py implement it.

    python3 check.py

Standard library only, Python 3.9 or newer; shares nothing with the Rust code that wrote the files. Exit status 0 if all
vectors hold; 1 with a sentence about the first one that does not.
"""

import json
import re
import struct
import sys
from pathlib import Path

import protocol as p
import session
from protocol import Refused, require

HERE = Path(__file__).resolve().parent
COUNTS = {}


class Mismatch(Exception):
    """A vector that does not hold."""


def load(name):
    with open(HERE / name, encoding="utf-8") as file:
        return json.load(file)


def count(what):
    COUNTS[what] = COUNTS.get(what, 0) + 1


def equal(found, expected, what):
    if found != expected:
        raise Mismatch(f"{what}: computed {found!r}, and the vector says {expected!r}")


def refused(what, run, reason=None):
    """Runs what must be refused, for this reason if one is given."""
    try:
        run()
    except Refused as error:
        if reason is not None:
            equal(error.reason, reason, what)
        return
    raise Mismatch(f"{what}: should be refused and was taken")


def hx(text):
    return bytes.fromhex(text)


def tier_keys(session_key):
    return [p.tier_key(session_key, tier) for tier in range(3)]


def own_session_key(vectors):
    """The SESSION_KEY of the session that a file names, from the root of keys.json."""
    root = hx(load("keys.json")["root_secret"])
    return p.session_key_of(root, vectors["tenant_id"], vectors["session_id"], vectors["session_epoch"])


# The published vectors.


def check_rfc():
    rfc = load("rfc.json")
    for case in rfc["rfc5869"]:
        okm = p.hkdf(hx(case["ikm"]), hx(case["salt"]), hx(case["info"]), case["length"])
        equal(okm.hex(), case["okm"], "RFC 5869 " + case["name"])
        prk = p.mac(hx(case["salt"]) or bytes(32), hx(case["ikm"]))
        equal(prk.hex(), case["prk"], "RFC 5869 " + case["name"])
        count("published vectors")
    for case in rfc["rfc4231"]:
        equal(p.mac(hx(case["key"]), hx(case["data"])).hex(), case["tag"], "RFC 4231 " + case["name"])
        count("published vectors")
    for case in rfc["rfc8439"]:
        key, nonce, aad = hx(case["key"]), hx(case["nonce"]), hx(case["aad"])
        sealed = p.aead_seal(key, nonce, aad, hx(case["plaintext"]))
        equal(sealed.hex(), case["sealed"], "RFC 8439 " + case["name"])
        equal(p.aead_open(key, nonce, aad, sealed).hex(), case["plaintext"], "RFC 8439 " + case["name"])
        refused("RFC 8439, changed", lambda: p.aead_open(key, nonce, aad, sealed[:-1] + b"\0"))
        count("published vectors")
    for case in rfc["rfc8785"]["objects"]:
        name = "RFC 8785 " + case["name"]
        if "3.2.2" in case["name"]:
            # Its fractions are no part of the protocol; the strings and the order are checked.
            value = json.loads(case["input"], parse_float=lambda text: 0)
            want = json.loads(hx(case["output_utf8"]), parse_float=lambda text: 0)
            equal(p.canonical(value), p.canonical(want), name)
            count("published vectors")
            continue
        value = json.loads(case["input"])
        out = p.canonical(value)
        if "output_utf8" in case:
            equal(out.encode().hex(), case["output_utf8"], name)
        if "values_in_order" in case:
            equal(list(json.loads(out).values()), case["values_in_order"], name)
        count("published vectors")
    leaves = [hx(leaf) for leaf in rfc["rfc6962"]["leaves"]]
    for size, root in enumerate(rfc["rfc6962"]["roots"]):
        equal(p.merkle_root(leaves[:size]).hex(), root, f"RFC 6962, {size} leaves")
        count("published vectors")


# keys.json


def check_keys():
    keys = load("keys.json")
    root = hx(keys["root_secret"])
    equal(p.key_check_value(root).hex(), keys["key_check_value"], "key check value")
    for case in keys["sessions"]:
        what = f"keys of {case['tenant_id']}, epoch {case['session_epoch']}"
        month = p.epoch_month(case["session_epoch"])
        equal(month, case["epoch_month"], what)
        tenant_key = p.tenant_key(root, case["tenant_id"], month)
        equal(tenant_key.hex(), case["tenant_key"], what)
        session_key = p.session_key(tenant_key, case["session_id"], case["session_epoch"])
        equal(session_key.hex(), case["session_key"], what)
        keys_of_tiers = tier_keys(session_key)
        equal([key.hex() for key in keys_of_tiers], case["tier_keys"], what)
        equal([p.payload_key(key).hex() for key in keys_of_tiers], case["payload_keys"], what)
        count("session keys")
    for case in keys["devices"]:
        what = f"keys of device {case['device_id']}"
        enroll = p.enroll_key(root, case["tenant_id"], case["root_generation"])
        equal(enroll.hex(), case["enroll_key"], what)
        key = p.device_key(enroll, case["device_id"], case["device_generation"])
        equal(key.hex(), case["device_key"], what)
        count("device keys")
    for case in keys["pairing"]:
        key = p.reset_key(hx(case["pairing_key"]), case["session_id"], case["session_epoch"])
        equal(key.hex(), case["reset_key"], "reset key")
        count("reset keys")
    for text in keys["refused"]["root_secrets"]:
        refused("a short root", lambda: p.tenant_key(hx(text), "acme", "2026-01"))
        count("refused names and roots")
    for name, check in (("tenant_ids", p.tenant), ("device_ids", p.device), ("session_ids", p.uuid)):
        for text in keys["refused"][name]:
            refused(f"{name}: {text!r}", lambda: check(text))
            count("refused names and roots")


# opening.json


def check_opening():
    opening = load("opening.json")
    for case in opening["requests"]:
        key, what = hx(case["key"]), case["note"]
        equal(p.sha256(case["body"].encode()).hex(), case["body_sha256"], what)
        signed = p.signed_request(case["method"], case["path"], case["body"])
        equal(signed, case["signed"], what)
        equal("v1=" + p.mac(key, signed.encode()).hex(), case["halo_signature"], what)
        p.check_signature(key, case["method"], case["path"], case["body"], case["halo_signature"])
        if case["body"]:
            p.OPEN_REQUEST(p.parse_json(case["body"]))
        count("signed requests")
    for case in opening["refused"]:
        args = (hx(case["key"]), case["method"], case["path"], case["body"], case["halo_signature"])
        refused("a signature with " + case["note"], lambda: p.check_signature(*args))
        count("refused requests")
    for case in opening["bodies_refused"]:
        refused("a body with " + case["note"], lambda: p.OPEN_REQUEST(p.parse_json(case["body"])))
        count("refused requests")


# frames.json

TIERS = {"sensor": 0, "gateway": 1, "substrate": 2}


def check_fields(case, payload, capture, reassemblers, vectors, key):
    """What a frame's payload says, against the fields beside it."""
    name, fields = case["name"], case["fields"]
    if name in ("AUDIO_CHUNK", "IMAGE_CHUNK"):
        capture.append(payload)
        return
    if name == "GESTURE_EVENT":
        capture.append(payload)
        return equal(p.gesture_event(payload), fields, name)
    if name == "SENSOR_END":
        end = p.sensor_end(payload)
        data, chunks = b"".join(capture), len(capture)
        capture.clear()
        shape = {name: fields[name] for name in ("kind", "bytes", "chunks")}
        equal({name: end[name] for name in shape}, shape, name)
        equal((end["bytes"], end["chunks"]), (len(data), chunks), name)
        equal(p.sha256(data).hex(), end["event_payload_hash"], name)
        names = ("kind", "bytes", "chunks")
        receipt = {name: value for name, value in end.items() if name not in names}
        receipt.update(
            tier=0,
            receipt_kind="halo_sensor_capture",
            session_id=vectors["session_id"],
            session_epoch=vectors["session_epoch"],
            tenant_id=vectors["tenant_id"],
        )
        equal(p.canonical(receipt), fields["receipt"], name)
        p.check_receipt_mac(p.parse_receipt(fields["receipt"]), [key, None, None])
        return None
    if name == "ACK":
        return equal(p.ack(payload), fields, name)
    if name == "BACKPRESSURE":
        receiver = {"tier 0": 0, "tier 1": 1, "gateway": 2}[case["to"]]
        equal(p.backpressure(payload, receiver), fields, name)
        return refused("a reflected BACKPRESSURE", lambda: p.backpressure(payload, fields["sender"]))
    if name == "DISPLAY_RENDER":
        return equal(payload.decode(), fields["text"], name)
    if name == "AUDIO_RENDER":
        return equal(len(payload), 2 * fields["samples"], name)
    if name == "VERIFICATION_FAILED":
        return equal(p.verification_failed(payload), fields, name)
    if name == "ESCALATE_TOKEN":
        return equal(p.escalate_token(payload), fields, name)
    require(name in ("ESCALATE_REQUEST", "ESCALATE_END"), name)
    limit = 65536 if name == "ESCALATE_REQUEST" else 262144
    place = (case["link"], case["from"])
    message = reassemblers.setdefault(place, p.Reassembler(limit)).push(payload)
    equal(struct.unpack(">HH", payload[:4]), (fields["index"], fields["count"]), name)
    equal(message and message.decode(), fields.get("document"), name)
    if message:
        read = p.request_document if name == "ESCALATE_REQUEST" else p.end_document
        read(message.decode())
    return None


def check_frames():
    vectors = load("frames.json")
    keys = [hx(key) for key in vectors["tier_keys"]]
    equal(tier_keys(own_session_key(vectors)), keys, "the keys of frames.json")
    directions, captures, reassemblers, types = {}, {}, {}, set()
    for case in vectors["frames"]:
        place = (case["link"], case["from"])
        key = keys[TIERS[case["link"]]]
        receiver = directions.setdefault(place, p.Direction(*place, vectors["session_id"], key))
        what = f"{case['name']} {case['sequence']} from {case['from']}"
        equal(receiver.next, case["sequence"], what)
        message = hx(case["frame"])
        built = p.frame(key, vectors["session_id"], case["type"], case["sequence"], hx(case["payload"]))
        equal(built.hex(), case["frame"], what)
        typ, payload = receiver.receive(message)
        equal((typ, payload.hex()), (case["type"], case["payload"]), what)
        refused(what + ", again", lambda: receiver.receive(message), "sequence")
        check_fields(case, payload, captures.setdefault(place, []), reassemblers, vectors, key)
        types.add(typ)
        count("frames")
    equal(types | {0x81}, p.TYPES, "the types that have a vector")
    check_refused_frames(vectors, keys)
    check_reset(vectors["session_reset"])
    check_fragments(vectors["fragments"])


def check_refused_frames(vectors, keys):
    cases = vectors["frames_refused"]
    receiver = p.Direction("sensor", "tier 0", vectors["session_id"], keys[0])
    for message in cases["accepted_before"]:
        receiver.receive(hx(message))
    for case in cases["refused"]:
        refused(case["note"], lambda: receiver.receive(hx(case["frame"])), case["reason"])
        equal(p.REASONS.index(case["reason"]) + 1, case["number"], case["note"])
        count("refused frames")
    for message in cases["accepted_after"]:
        receiver.receive(hx(message))
    readers = {
        "GESTURE_EVENT": lambda payload, tier: p.gesture_event(payload),
        "SENSOR_END": lambda payload, tier: p.sensor_end(payload),
        "ACK": lambda payload, tier: p.ack(payload),
        "BACKPRESSURE": p.backpressure,
        "VERIFICATION_FAILED": lambda payload, tier: p.verification_failed(payload),
        "ESCALATE_TOKEN": lambda payload, tier: p.escalate_token(payload),
    }
    for case in vectors["payloads_refused"]:
        read = readers[case["name"]]
        what = f"{case['name']} with {case['note']}"
        refused(what, lambda: read(hx(case["payload"]), case["receiver_tier"]))
        count("refused payloads")


def check_reset(reset):
    pairing = hx(reset["pairing_key"])
    session_id, epoch = reset["session_id"], reset["session_epoch"]
    key = p.reset_key(pairing, session_id, epoch)
    equal(key.hex(), reset["reset_key"], "SESSION_RESET")
    head = p.uuid_bytes(session_id) + struct.pack(">I", epoch)
    nonce = hx(reset["nonce"])
    payload = head + nonce + p.aead_seal(key, nonce, head, hx(reset["tier_key_0"]))
    equal(p.frame(key, session_id, 0x81, 0, payload).hex(), reset["frame"], "SESSION_RESET")
    opened = p.session_reset(hx(reset["frame"]), pairing, reset["last_epoch"])
    equal(opened, (session_id, epoch, hx(reset["tier_key_0"]), None), "SESSION_RESET")
    count("session resets")
    for case in reset["with_context"]:
        _, _, _, context = p.session_reset(hx(case["frame"]), pairing, reset["last_epoch"])
        expected = (case["tenant_id"], case["parent_receipt_id"], case["parent_receipt_hash"])
        equal(context, expected, "SESSION_RESET with a context")
        count("session resets")
    for case in reset["refused"]:
        what = "SESSION_RESET with " + case["note"]
        run = lambda: p.session_reset(hx(case["frame"]), pairing, case["last_epoch"])
        refused(what, run, case["error"])
        count("refused frames")


def check_fragments(vectors):
    limit = vectors["limit"]
    for case in vectors["cut"]:
        message = bytes(i % 251 for i in range(case["length"]))
        payloads = [hx(payload) for payload in case["payloads"]]
        equal(p.fragments(message), payloads, f"fragments of {case['length']} bytes")
        reassembler = p.Reassembler(limit)
        outcomes = [reassembler.push(payload) for payload in payloads]
        equal(outcomes[-1], message, f"fragments of {case['length']} bytes")
        equal(set(outcomes[:-1]) <= {None}, True, f"fragments of {case['length']} bytes")
        count("fragmented messages")
    for case in vectors["refused"]:
        reassembler = p.Reassembler(limit)
        payloads = [hx(payload) for payload in case["payloads"]]
        for payload in payloads[:-1]:
            reassembler.push(payload)
        refused("fragments with " + case["note"], lambda: reassembler.push(payloads[-1]))
        count("refused payloads")


# receipts.json


def check_receipts():
    vectors = load("receipts.json")
    equal(own_session_key(vectors).hex(), vectors["session_key"], "the key of receipts.json")
    keys = tier_keys(hx(vectors["session_key"]))
    by_id = {}
    for case in vectors["receipts"]:
        what = "receipt " + case["name"]
        receipt = p.parse_receipt(case["full"])
        equal(p.canonical_body(receipt), case["canonical_body"], what)
        # The rule of byte 88: the body is the full receipt without 84 bytes.
        equal(case["full"][:88] + case["full"][172:], case["canonical_body"], what)
        tag = p.mac(keys[receipt["tier"]], case["canonical_body"].encode())
        equal(tag.hex(), case["hmac_signature"], what)
        equal(receipt["hmac_signature"], case["hmac_signature"], what)
        digest = p.sha256(case["full"].encode()).hex()
        equal(digest, case["hash"], what)
        equal((receipt["tier"], receipt["receipt_kind"]), (case["tier"], case["receipt_kind"]), what)
        parent = by_id.get(receipt["parent_receipt_id"])
        if parent is not None:
            equal(receipt["parent_receipt_hash"], parent, what)
        by_id[receipt["receipt_id"]] = digest
        data = hx(case["capture"]) if case["payload"] is None else case["payload"].encode()
        equal(p.sha256(data).hex(), receipt["event_payload_hash"], what)
        if case["payload"] is not None:
            payload = session.read_payload(receipt, case["payload"])
            check_private(what, case, receipt, payload, p.payload_key(keys[receipt["tier"]]))
        count("receipts")
    kinds = {(case["tier"], case["receipt_kind"]) for case in vectors["receipts"]}
    equal(kinds, session.SIGNS, "the kinds that have a vector")
    for case in vectors["records"]:
        record = {"body": case["body"], "mac": case["mac"]}
        session.read_record(record, case["name"], hx(case["key"]))
        swapped = "claim" if case["name"] == "header" else "header"
        refused("a record as another kind", lambda: session.check_record_mac(record, swapped, hx(case["key"])))
        count("records")
    for case in vectors["receipts_refused"]:
        refused("a receipt with " + case["note"], lambda: p.parse_receipt(case["text"]))
        count("refused receipts")
    for case in vectors["payloads_refused"]:
        run = lambda: session.read_payload_form(case["tier"], case["receipt_kind"], case["payload"])
        refused("a payload with " + case["note"], run)
        count("refused payloads")
    for case in vectors["expert_sets"]:
        width = -(-case["experts"] // 8)
        maps = [bytearray(width) for _ in range(case["layers"])]
        for layer, expert in case["members"]:
            maps[layer][expert // 8] |= 1 << expert % 8
        equal([bytes(m).hex() for m in maps], case["bitmaps"], "expert bitmaps")
        count("expert bitmaps")
    for case in vectors["merkle"]:
        leaves = [p.sha256(struct.pack(">I", i)) for i in range(case["leaves"])]
        equal(p.merkle_root(leaves).hex(), case["root"], f"Merkle root of {case['leaves']} leaves")
        count("Merkle roots")


def check_private(what, case, receipt, payload, key):
    private = case.get("private")
    if private is None:
        return equal("sealed" in payload or "commitment" in payload, False, what)
    plaintext = private["plaintext"].encode()
    if private["policy"] == "omit":
        return equal(payload["commitment"], p.mac(key, plaintext).hex(), what)
    receipt_id = p.uuid_bytes(receipt["receipt_id"])
    sealed = p.base64url(payload["sealed"])
    equal(p.aead_open(key, receipt_id[:12], receipt_id, sealed), plaintext, what)
    equal(p.aead_seal(key, receipt_id[:12], receipt_id, plaintext), sealed, what)
    return session.read_content(receipt, payload, private["plaintext"])


# session.json and broken.json


def check_session():
    golden = load("session.json")
    root = hx(golden["root_secret"])
    verdict = session.verify(golden["session_id"], golden["bundle"], session.RootKeys(root))
    equal(verdict.as_dict(), golden["verdict"], "the golden session")
    equal(golden["bundle"]["session_id"], golden["session_id"], "the golden session")
    equal(golden["bundle"]["format"], "halo-bundle/1", "the golden session")
    for key in golden["bundle"]["session_keys"]:
        tenant_id = golden["tenant_id"]
        own = p.session_key_of(root, tenant_id, golden["session_id"], int(key))
        equal(own.hex(), golden["bundle"]["session_keys"][key], "the golden session's keys")
    words = session.conversation(golden["bundle"], session.RootKeys(root), tenant_id, golden["session_id"])
    equal(words, golden["conversation"], "the golden session's private content")
    COUNTS["receipts of the golden session"] = verdict.receipts


def check_broken():
    golden, broken = load("session.json"), load("broken.json")
    for case in broken["cases"]:
        bundle = session.patched(golden["bundle"], case["patch"])
        keys = session.keys_of(case["keys"])
        verdict = session.verify(golden["session_id"], bundle, keys)
        what = f"the session '{case['name']}'"
        found, expected = verdict.as_dict(), dict(case["verdict"])
        codes = set(expected.pop("codes"))
        if expected["integrity"] == "failed":
            # After a failure a verifier may report its consequences too.
            missing = codes - set(found.pop("codes"))
            equal(missing, set(), what + ", codes that were not found")
            found.pop("completeness"), expected.pop("completeness")
        else:
            equal(found.pop("codes"), sorted(codes), what)
        equal(found, expected, what)
        count("broken sessions")


# The examples in spec.md.


def check_examples():
    spec = HERE.parent / "spec.md"
    files = {}
    found = re.findall(r"<!-- vector: (\S+)#(\S+) -->\n```\n(.*?)```", spec.read_text("utf-8"), re.S)
    for name, pointer, block in found:
        value = files.setdefault(name, load(name))
        for part in pointer.strip("/").split("/"):
            value = value[int(part)] if isinstance(value, list) else value[part]
        equal("".join(block.split()), "".join(str(value).split()), f"spec.md, example {name}#{pointer}")
        count("examples in spec.md")
    if not found:
        raise Mismatch("spec.md has no examples")


def main():
    checks = (
        check_rfc, check_keys, check_opening, check_frames, check_receipts, check_session, check_broken,
        check_examples,
    )
    for check in checks:
        try:
            check()
        except Mismatch as mismatch:
            print(f"{check.__name__}: {mismatch}", file=sys.stderr)
            return 1
        except Refused as error:
            print(f"{check.__name__}: refused what should be taken: {error.reason}", file=sys.stderr)
            return 1
        except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
            print(f"{check.__name__}: a vector file is not what it should be: {error!r}", file=sys.stderr)
            return 1
    for what, number in COUNTS.items():
        print(f"{number:6} {what}")
    print("all vectors hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
