"""Verifies a session as spec.md, sections 9 to 14, says. Written from that document alone; see check.py."""

import copy

import protocol as p
from chain import Chain
from protocol import Refused, require

# Section 9: event payloads.

SIGNS = {
    (0, "halo_sensor_capture"),
    (1, "halo_tier_routing"),
    (1, "halo_tier_response"),
    (2, "halo_expert_load"),
    (2, "halo_token_emit"),
    (2, "halo_tier_response"),
}


def bitmaps(value):
    p.list_of(p.digits(None))(value)
    require(len({len(item) for item in value}) <= 1, "bitmaps")


PRIVATE = {"sealed?": p.base64url, "commitment?": p.hash_text}
PAYLOADS = {
    (1, "halo_tier_routing"): p.object_of({
        "v": p.one,
        "decision": p.word("local", "escalate", "verification_failed"),
        "reason": p.text,
        "classifier": p.text,
        "request_id?": p.uuid,
        "break_found?": p.object_of({
            "computed": p.hash_text,
            "epoch": p.u32,
            "expected": p.hash_text,
            "first_bad": p.u32,
            "reason": p.text,
        }),
        **PRIVATE,
    }),
    (2, "halo_expert_load"): p.object_of({
        "v": p.one,
        "step": p.u32,
        "experts": bitmaps,
        "loaded?": bitmaps,
        "model?": p.object_of({"build_sha256": p.hash_text, "name": p.text, "weights_sha256": p.hash_text}),
    }),
    (2, "halo_token_emit"): p.object_of({"v": p.one, "step": p.u32, **PRIVATE}),
    (2, "halo_tier_response"): p.object_of({
        "v": p.one,
        "request_id": p.uuid,
        "status": p.word("ok", "refused", "interrupted"),
        "finish": p.text,
        "model": p.text,
        "prompt_tokens": p.u32,
        "completion_tokens": p.u32,
        "first": p.u32,
        "receipts": p.u32,
        "first_receipt_id": p.nullable(p.uuid),
        "last_receipt_id": p.nullable(p.uuid),
        "root": p.hash_text,
        "blocks": p.list_of(p.object_of({"count": p.u32, "first": p.u32, "root": p.hash_text})),
        **PRIVATE,
    }),
    (1, "halo_tier_response"): p.object_of({
        "v": p.one,
        "status": p.word("ok", "refused", "interrupted"),
        "answered_by": p.word("local", "substrate"),
        "receipts": p.u32,
        "device_receipts": p.u32,
        "substrate_receipts": p.u32,
        "root": p.hash_text,
        **PRIVATE,
    }),
}
CONTENTS = {
    (1, "halo_tier_routing"): p.object_of({"prompt": p.text, "prompt_sha256": p.hash_text}),
    (2, "halo_token_emit"): p.object_of({"text": p.text, "token_id": p.u32}),
    (2, "halo_tier_response"): p.object_of({"output_sha256": p.hash_text, "output?": p.text}),
    (1, "halo_tier_response"): p.object_of({"output_sha256": p.hash_text, "output?": p.text}),
}


def read_payload_form(tier, kind, text):
    value = p.parse_canonical(text)
    require((tier, kind) in PAYLOADS, "tier")
    PAYLOADS[(tier, kind)](value)
    both = ("sealed" in value) + ("commitment" in value)
    require(both <= 1, "two contents")
    require(both == 1 or kind in ("halo_expert_load", "halo_tier_routing"), "no content")
    return value


def read_payload(receipt, text):
    return read_payload_form(receipt["tier"], receipt["receipt_kind"], text)


def read_content(receipt, payload, plaintext):
    value = p.parse_canonical(plaintext)
    CONTENTS[(receipt["tier"], receipt["receipt_kind"])](value)
    for name in ("prompt", "output"):
        if name in value:
            require(p.sha256(value[name].encode()).hex() == value[name + "_sha256"], "content hash")
    return None


# Section 11: records.

RECORDS = {
    "header": p.object_of({
        "v": p.one,
        "session_id": p.uuid,
        "session_epoch": p.u32,
        "tenant_id": p.tenant,
        "device_id": p.device,
        "root_generation": p.u32,
        "key_check_value": p.digits(8),
        "demo_root": p.boolean,
        "content": p.word("sealed", "omit"),
        "opened_at": p.timestamp,
    }),
    "claim": p.object_of({
        "v": p.one,
        "kind": p.word("epoch", "connection", "substrate_link"),
        "session_id": p.uuid,
        "session_epoch": p.u32,
        "link": p.u32,
        "claimed_by": p.text,
        "claimed_at": p.timestamp,
    }),
}


def check_record_mac(record, kind, key):
    tag = p.mac(key, b"halo-%s-v1\n" % kind.encode() + record["body"].encode())
    require(p.same(tag.hex().encode(), record["mac"].encode()), "mac")


def read_record(record, kind, key):
    value = p.parse_canonical(record["body"])
    RECORDS[kind](value)
    if key is not None:
        check_record_mac(record, kind, key)
    return value


# Keys of a verifier.


class RootKeys:
    """A root, which knows every epoch."""

    def __init__(self, root):
        self.root = root

    def session_key(self, tenant_id, session_id, epoch):
        return p.session_key_of(self.root, tenant_id, session_id, epoch)


class SessionKeys:
    """Keys of single epochs."""

    def __init__(self, keys):
        self.keys = {int(epoch): bytes.fromhex(key) for epoch, key in keys.items()}

    def session_key(self, tenant_id, session_id, epoch):
        return self.keys.get(epoch)


def keys_of(vector):
    """`{"root": hex}`, `{"session_keys": {epoch: hex}}`, or null for none."""
    if vector is None:
        return None
    if "root" in vector:
        return RootKeys(bytes.fromhex(vector["root"]))
    return SessionKeys(vector["session_keys"])


# Section 14: bundles, and changes to them.


def patched(document, patch):
    """A copy of `document` with the changes of RFC 6902 that the vectors use: add, remove, replace."""
    document = copy.deepcopy(document)
    for change in patch:
        *path, last = change["path"].split("/")[1:]
        at = document
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at[part]
        place = int(last) if isinstance(at, list) else last
        require(change["op"] in ("add", "remove", "replace"), "patch")
        if change["op"] == "add" and isinstance(at, list):
            at.insert(place, change["value"])
        elif change["op"] == "remove":
            del at[place]
        else:
            at[place] = change["value"]
    return document


class Item:
    """A stored receipt."""

    def __init__(self, stream, number, beside, row):
        self.stream, self.number, self.beside = stream, number, beside
        self.bytes = raw(row["receipt"])
        self.payload = None if row["payload"] is None else raw(row["payload"])
        self.hash = p.sha256(self.bytes)
        try:
            self.receipt = p.parse_receipt(self.bytes.decode())
        except (Refused, UnicodeDecodeError):
            self.receipt = None
        self.mac = None
        self.event = None


def raw(value):
    return value.encode() if isinstance(value, str) else bytes.fromhex(value["hex"])


# Section 13: the verdict.


class Verdict:
    def __init__(self):
        self.codes = set()
        self.completeness = "open"
        self.keys = "unavailable"
        self.receipts = 0
        self.exit_code = 4

    def found(self, code):
        self.codes.add(code)

    def as_dict(self):
        failed = any(SEVERITY.get(code.split(":")[0], "failure") == "failure" for code in self.codes)
        return {
            "integrity": "failed" if failed else "ok",
            "completeness": self.completeness,
            "anchoring": "none",
            "keys": self.keys,
            "exit_code": self.exit_code,
            "codes": sorted(self.codes),
        }


SEVERITY = {
    "session.notFound": "incomplete",
    "epoch.unsealed": "incomplete",
    "chain.leaf.unsealed": "incomplete",
    "seal.missing": "incomplete",
    "seal.interrupted": "incomplete",
    "anchor.missing": "incomplete",
    "time.nonMonotonic": "warning",
    "root.demo": "warning",
    "key.unavailable": "unverifiable",
    "key.mismatch": "unverifiable",
    "root.checkValue.mismatch": "unverifiable",
}


def verify(session_id, bundle, keys):
    """The verdict over a bundle; `keys` is RootKeys, SessionKeys or None."""
    verdict = Verdict()
    streams, damaged = read_blocks(bundle, verdict)
    items = streams["d"] + streams["s"]
    if not items and not damaged:
        verdict.found("session.notFound")
        return verdict
    verdict.receipts = len(items)
    header, claims = read_records(bundle, verdict)
    named = [item.receipt["tenant_id"] for item in items if item.receipt]
    tenant_id = max(set(named), key=named.count) if named else (header or {}).get("tenant_id")
    used = {item.receipt["session_epoch"] for item in items if item.receipt}
    used |= {record["session_epoch"] for record in [header, *claims] if record}
    ring = {epoch: tiers_of(keys, tenant_id, session_id, epoch) for epoch in used}
    check_macs(bundle, items, header, claims, ring, keys, verdict)
    claimed = sorted({claim["session_epoch"] for claim in claims if claim and claim["kind"] == "epoch"})
    check_records(session_id, tenant_id, header, claims, claimed, verdict)
    walk(streams, session_id, tenant_id, claimed, verdict)
    check_attributes(streams, bundle, verdict)
    check_seals(streams, verdict)
    verdict.completeness = completeness(streams, claimed, verdict)
    verdict.keys = "ok" if all(ring.values()) else "unavailable"
    unexplained = not {"key.mismatch", "root.checkValue.mismatch"} & verdict.codes
    if keys is not None and verdict.keys == "unavailable" and unexplained:
        verdict.found("key.unavailable")
    failed = verdict.as_dict()["integrity"] == "failed"
    unverifiable = verdict.keys == "unavailable" and keys is not None
    sealed = verdict.completeness == "sealed"
    verdict.exit_code = 1 if failed else 5 if unverifiable else 0 if sealed else 3
    return verdict


def tiers_of(keys, tenant_id, session_id, epoch):
    key = keys.session_key(tenant_id, session_id, epoch) if keys and tenant_id else None
    return key and [p.tier_key(key, tier) for tier in range(3)]


def read_blocks(bundle, verdict):
    streams, damaged = {"d": [], "s": []}, False
    expected = {"d": 0, "s": 0}
    for block in sorted(bundle["blocks"], key=lambda block: (block["stream"], block["first"])):
        stream, first = block["stream"], block["first"]
        if first > expected[stream]:
            verdict.found("stream.gap")
        if first < expected[stream]:
            verdict.found("chain.fork")
        rows = block.get("receipts") or []
        if not rows:
            verdict.found("block.damaged")
            damaged = True
        elif len(rows) != len(block["ids"]):
            verdict.found("block.ids.mismatch")
        for at, row in enumerate(rows):
            beside = block["ids"][at] if at < len(block["ids"]) else None
            streams[stream].append(Item(stream, first + at, beside, row))
        expected[stream] = max(expected[stream], first + (len(rows) or max(1, len(block["ids"]))))
    for item in streams["d"] + streams["s"]:
        if item.receipt is None:
            # Without a search for the byte that was changed nothing tells which of the two it is.
            verdict.codes |= {"receipt.form", "receipt.hmac.mismatch"}
        elif item.beside is not None and item.beside != item.receipt["receipt_id"]:
            verdict.found("block.ids.mismatch")
    return streams, damaged


def read_records(bundle, verdict):
    def read(record, kind):
        try:
            return read_record(record, kind, None)
        except Refused:
            verdict.found(kind + ".form")
            return None

    header = bundle["header"]
    if header is None:
        verdict.found("header.missing")
    claims = [read(record, "claim") for record in bundle["claims"]]
    return header and read(header, "header"), claims


def check_macs(bundle, items, header, claims, ring, keys, verdict):
    """Every MAC whose key is at hand. Keys under which nothing verifies are other keys, and are put away."""
    signed = [(record, kind, value) for record, kind, value in
              [(bundle["header"], "header", header)]
              + [(record, "claim", claim) for record, claim in zip(bundle["claims"], claims)] if value]

    def holds(run):
        try:
            run()
        except Refused:
            return False
        return True

    results = []
    for record, kind, value in signed:
        epoch = value["session_epoch"]
        if ring[epoch]:
            good = holds(lambda: check_record_mac(record, kind, ring[epoch][1]))
            results.append((epoch, good, kind + ".mac.mismatch"))
    for item in items:
        epoch = item.receipt and item.receipt["session_epoch"]
        if item.receipt and ring[epoch]:
            item.mac = holds(lambda: p.check_receipt_mac(item.receipt, ring[epoch]))
            results.append((epoch, item.mac, "receipt.hmac.mismatch"))
    good = {epoch for epoch, verified, _ in results if verified}
    tried = {epoch for epoch, _, _ in results}
    wrong = set()
    if isinstance(keys, SessionKeys):
        wrong = tried - good
        if wrong:
            verdict.found("key.mismatch")
    elif isinstance(keys, RootKeys) and not good:
        own = p.key_check_value(keys.root).hex()
        if header is None or header["key_check_value"] != own:
            wrong = tried
            verdict.found("root.checkValue.mismatch")
    for epoch in wrong:
        ring[epoch] = None
    for epoch, verified, code in results:
        if not verified and epoch not in wrong:
            verdict.found(code)


def check_records(session_id, tenant_id, header, claims, claimed, verdict):
    if header:
        if header["session_id"] != session_id or header["tenant_id"] != tenant_id:
            verdict.found("session.binding.mismatch")
        if claimed[:1] != [header["session_epoch"]]:
            verdict.found("epoch.unclaimed")
        if header["demo_root"]:
            verdict.found("root.demo")
    seen = set()
    for claim in filter(None, claims):
        if claim["session_id"] != session_id:
            verdict.found("session.binding.mismatch")
        place = (claim["kind"], claim["session_epoch"], claim["link"])
        if place in seen:
            verdict.found("claim.duplicate")
        seen.add(place)


def causal_order(streams):
    """Section 11.3: every parent stands before its children."""
    substrate, at = streams["s"], 0
    for item in streams["d"]:
        if item.event and "substrate_receipts" in item.event:
            while at < len(substrate) and substrate[at].number < item.event["substrate_receipts"]:
                yield substrate[at]
                at += 1
        yield item
    yield from substrate[at:]


def read_event(item, verdict):
    receipt = item.receipt
    capture = receipt["receipt_kind"] == "halo_sensor_capture"
    if capture or item.payload is None:
        if not capture or item.payload is not None:
            verdict.found("payload.hash.mismatch")
        return None
    if p.sha256(item.payload).hex() != receipt["event_payload_hash"]:
        verdict.found("payload.hash.mismatch")
        return None
    try:
        return read_payload(receipt, item.payload.decode())
    except (Refused, UnicodeDecodeError):
        verdict.found("payload.form")
        return None


def walk(streams, session_id, tenant_id, claimed, verdict):
    for item in streams["d"] + streams["s"]:
        item.event = read_event(item, verdict) if item.receipt else None
    chain = Chain(session_id, tenant_id)
    times = {}
    for item in causal_order(streams):
        receipt = item.receipt
        if receipt is None:
            continue
        if (receipt["tier"] == 2) != (item.stream == "s"):
            verdict.found("receipt.tier.mismatch")
        if receipt["session_epoch"] not in claimed:
            verdict.found("epoch.unclaimed")
        code = chain.check(receipt, item.event, SIGNS)
        if code:
            verdict.found(code)
        chain.add(receipt, item.event, item.hash.hex())
        time = p.time_micros(receipt["timestamp_utc"])
        if times.get(receipt["parent_receipt_id"], 0) - time > 120 * 1000000:
            verdict.found("time.nonMonotonic")
        times[receipt["receipt_id"]] = time


def check_attributes(streams, bundle, verdict):
    for row in bundle["attributes"]:
        found = [item for item in streams[row["stream"]] if item.number == row["number"]]
        if not found:
            verdict.found("receipt.attribute.mismatch:receipt_id")
        for item in found:
            if item.receipt is None or item.mac is False:
                continue
            for name, copy_of in row["fields"]:
                value = item.receipt.get(name)
                if name not in item.receipt or (None if value is None else str(value)) != copy_of:
                    verdict.found("receipt.attribute.mismatch:" + name)


def root_of(items, first, count):
    """The root over `count` receipts from number `first` on, or None if one is not there."""
    at = {item.number: item.hash for item in items}
    numbers = range(first, first + count)
    if count > len(at) or not all(number in at for number in numbers):
        return None
    return p.merkle_root([at[number] for number in numbers]).hex()


def check_seals(streams, verdict):
    substrate = streams["s"]
    ids = {item.number: item.receipt and item.receipt["receipt_id"] for item in substrate}
    for item in substrate:
        seal = item.event
        if seal is None or "blocks" not in seal:
            continue
        first, count = seal["first"], seal["receipts"]
        at, holds = first, first + count == item.number
        for block in seal["blocks"]:
            holds = holds and block["first"] == at
            at += block["count"]
        if not holds or at != item.number:
            verdict.found("seal.count.mismatch")
            continue
        roots = [(seal["first"], count, seal["root"])]
        roots += [(block["first"], block["count"], block["root"]) for block in seal["blocks"]]
        if any(root_of(substrate, *place) != root for *place, root in roots):
            verdict.found("seal.root.mismatch")
        ends = (ids.get(first), ids.get(first + count - 1)) if count else (None, None)
        if ends != (seal["first_receipt_id"], seal["last_receipt_id"]):
            verdict.found("seal.ids.mismatch")
    for item in streams["d"]:
        seal = item.event
        if seal is None or "substrate_receipts" not in seal:
            continue
        device, count = seal["device_receipts"], seal["substrate_receipts"]
        leaves = [other.hash for other in streams["d"] if other.number < device]
        leaves += [other.hash for other in substrate if other.number < count]
        if device != item.number or seal["receipts"] != device + count or len(leaves) != device + count:
            verdict.found("seal.count.mismatch")
        elif p.merkle_root(leaves).hex() != seal["root"]:
            verdict.found("seal.root.mismatch")


def completeness(streams, claimed, verdict):
    device, substrate = streams["d"], streams["s"]
    covered = [item.event["substrate_receipts"] for item in device
               if item.event and "substrate_receipts" in item.event]
    covered += [item.number + 1 for item in substrate if item.event and "blocks" in item.event]
    if any(item.number >= max(covered, default=0) for item in substrate):
        verdict.found("chain.leaf.unsealed")
    end = substrate[-1].number + 1 if substrate else 0
    last = device[-1].event if device else None
    if last and last.get("substrate_receipts") == end:
        if claimed and claimed[-1] > device[-1].receipt["session_epoch"]:
            verdict.found("epoch.unsealed")
            return "open"
        if last["status"] == "interrupted":
            verdict.found("seal.interrupted")
            return "interrupted"
        return "sealed"
    verdict.found("seal.missing")
    answer = substrate[-1].event if substrate else None
    interrupted = answer and "blocks" in answer and answer["status"] == "interrupted"
    return "interrupted" if interrupted else "open"


def conversation(bundle, keys, tenant_id, session_id):
    """The private content of every receipt that has any, in the order of the streams."""
    streams, _ = read_blocks(bundle, Verdict())
    out = []
    for item in streams["d"] + streams["s"]:
        receipt = item.receipt
        if item.payload is None:
            continue
        payload = read_payload(receipt, item.payload.decode())
        if "sealed" not in payload:
            continue
        key = keys.session_key(tenant_id, session_id, receipt["session_epoch"])
        key = p.payload_key(p.tier_key(key, receipt["tier"]))
        own = p.uuid_bytes(receipt["receipt_id"])
        text = p.aead_open(key, own[:12], own, p.base64url(payload["sealed"])).decode()
        read_content(receipt, payload, text)
        out.append({"stream": item.stream, "number": item.number, "content": text})
    return out
