"""The HALO protocol in Python, written from spec.md alone. Standard library only; shares nothing with the Rust code.

It is slow and small, and exists to be compared with the vectors. Every function raises Refused for what spec.md refuses.
"""

import base64
import datetime
import hashlib
import hmac
import json
import re
import struct


class Refused(Exception):
    """Input that the protocol refuses; `reason` is its short name where it has one."""

    def __init__(self, reason, at=None):
        super().__init__(reason)
        self.reason = reason
        self.at = at


def require(holds, reason):
    if not holds:
        raise Refused(reason)


# Section 2: primitives.

TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DEVICE = re.compile(r"[A-Za-z0-9._-]{1,64}")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
HASH = re.compile(r"[0-9a-f]{64}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
LAST_MICROS = 253402300799999999
START = datetime.datetime(1970, 1, 1)


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def same(a, b):
    return hmac.compare_digest(a, b)


def hkdf(ikm, salt, info, length=32):
    prk = mac(salt or bytes(32), ikm)
    out, block, count = b"", b"", 0
    while len(out) < length:
        count += 1
        block = mac(prk, block + info + bytes([count]))
        out += block
    return out[:length]


def _rotate(value, by):
    return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF


def _chacha_block(key, counter, nonce):
    start = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key))
    start += [counter] + list(struct.unpack("<3I", nonce))
    s = list(start)

    def quarter(a, b, c, d):
        for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = _rotate(s[z] ^ s[x], by)

    for _ in range(10):
        for column in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter(*column)
        for diagonal in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(*diagonal)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(s, start)))


def _chacha(key, nonce, data):
    out = bytearray()
    for at in range(0, len(data), 64):
        stream = _chacha_block(key, 1 + at // 64, nonce)
        out += bytes(a ^ b for a, b in zip(data[at : at + 64], stream))
    return bytes(out)


def _poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(key[16:], "little")
    total = 0
    for at in range(0, len(data), 16):
        block = data[at : at + 16] + b"\x01"
        total = (total + int.from_bytes(block, "little")) * r % ((1 << 130) - 5)
    return ((total + s) & ((1 << 128) - 1)).to_bytes(16, "little")


def _aead_tag(key, nonce, aad, ciphertext):
    def pad(data):
        return data + bytes(-len(data) % 16)

    one_time = _chacha_block(key, 0, nonce)[:32]
    lengths = struct.pack("<QQ", len(aad), len(ciphertext))
    return _poly1305(one_time, pad(aad) + pad(ciphertext) + lengths)


def aead_seal(key, nonce, aad, plaintext):
    ciphertext = _chacha(key, nonce, plaintext)
    return ciphertext + _aead_tag(key, nonce, aad, ciphertext)


def aead_open(key, nonce, aad, sealed):
    require(len(sealed) >= 16, "sealed")
    ciphertext, tag = sealed[:-16], sealed[-16:]
    require(same(tag, _aead_tag(key, nonce, aad, ciphertext)), "sealed")
    return _chacha(key, nonce, ciphertext)


def merkle_root(leaves):
    """RFC 6962, section 2.1, word for word; `leaves` are the data of the leaves."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + merkle_root(leaves[:k]) + merkle_root(leaves[k:]))


ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def canonical(value):
    """RFC 8785 for what the protocol has: objects, lists, strings, integers, true, false and null."""
    if isinstance(value, str):
        out = (ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value)
        return '"' + "".join(out) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, dict):
        # UTF-16 code units, not code points: they differ above U+FFFF.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(canonical(k) + ":" + canonical(value[k]) for k in keys) + "}"
    require(value is None or isinstance(value, (bool, int)), "number")
    return json.dumps(value)


def _once(pairs):
    require(len({key for key, _ in pairs}) == len(pairs), "repeated field")
    return dict(pairs)


def _no_float(text):
    raise Refused("number")


def parse_json(text):
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float)
    except ValueError:
        raise Refused("json") from None


def parse_canonical(text):
    value = parse_json(text)
    require(canonical(value) == text, "not canonical")
    return value


def unhex(text, length=None):
    require(isinstance(text, str) and re.fullmatch(r"([0-9a-f]{2})*", text), "hex")
    data = bytes.fromhex(text)
    require(length is None or len(data) == length, "length")
    return data


def uuid_text(data):
    digits = data.hex()
    text = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    require(UUID4.fullmatch(text), "uuid")
    return text


def uuid_bytes(text):
    require(isinstance(text, str) and UUID4.fullmatch(text), "uuid")
    return bytes.fromhex(text.replace("-", ""))


def time_text(micros):
    require(0 <= micros <= LAST_MICROS, "time")
    time = START + datetime.timedelta(microseconds=micros)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond:06d}Z"


def time_micros(text):
    require(isinstance(text, str) and TIME.fullmatch(text), "time")
    try:
        time = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        raise Refused("time") from None
    require(time >= START, "time")
    return (time - START) // datetime.timedelta(microseconds=1)


def base64url(text):
    require(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Refused("base64url") from None
    require(base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text, "base64url")
    return data


# Typed fields of canonical JSON: a table of checks by field name; a name that ends in "?" may be left out.


def u32(value):
    require(type(value) is int and 0 <= value <= 0xFFFFFFFF, "number")


def text(value):
    require(isinstance(value, str), "text")


def boolean(value):
    require(isinstance(value, bool), "boolean")


def hash_text(value):
    require(isinstance(value, str) and HASH.fullmatch(value), "hash")


def uuid(value):
    uuid_bytes(value)


def timestamp(value):
    time_micros(value)


def tenant(value):
    require(isinstance(value, str) and TENANT.fullmatch(value), "tenant")


def device(value):
    require(isinstance(value, str) and DEVICE.fullmatch(value), "device")


def digits(count):
    return lambda value: unhex(value, count) and None


def one(value):
    require(type(value) is int and value == 1, "version")


def word(*words):
    return lambda value: require(isinstance(value, str) and value in words, "word")


def nullable(check):
    return lambda value: None if value is None else check(value)


def list_of(check):
    def run(value):
        require(isinstance(value, list), "list")
        for item in value:
            check(item)

    return run


def object_of(fields):
    def run(value):
        require(isinstance(value, dict), "object")
        known = {name.rstrip("?"): check for name, check in fields.items()}
        required = {name for name in fields if not name.endswith("?")}
        require(required <= set(value), "missing field")
        require(set(value) <= set(known), "unknown field")
        for name, item in value.items():
            known[name](item)

    return run


# Section 3: keys.


def tenant_key(root, tenant_id, month):
    require(len(root) >= 32, "root")
    tenant(tenant_id)
    return hkdf(root, b"halo-tenant-v1", tenant_id.encode() + month.encode())


def epoch_month(epoch):
    return time_text(epoch * 1000000)[:7]


def session_key(key, session_id, epoch):
    uuid(session_id)
    return hkdf(key, b"halo-session-v1", session_id.encode() + struct.pack(">I", epoch))


def session_key_of(root, tenant_id, session_id, epoch):
    return session_key(tenant_key(root, tenant_id, epoch_month(epoch)), session_id, epoch)


def tier_key(key, tier):
    return hkdf(key, b"halo-tier-v1", b"tier-%d" % tier)


def payload_key(key):
    return hkdf(key, b"halo-payload-v1", b"payload")


def enroll_key(root, tenant_id, generation):
    return hkdf(root, b"halo-enroll-v1", tenant_id.encode() + struct.pack(">I", generation))


def device_key(key, device_id, generation):
    device(device_id)
    return hkdf(key, b"halo-device-v1", device_id.encode() + struct.pack(">I", generation))


def reset_key(pairing, session_id, epoch):
    return hkdf(pairing, b"halo-pair-v1", session_id.encode() + struct.pack(">I", epoch))


def key_check_value(root):
    return hkdf(root, b"halo-kcv-v1", b"")[:8]


# Section 4: opening.


def signed_request(method, path, body):
    return f"{method}\n{path}\n{sha256(body.encode()).hex()}"


def check_signature(key, method, path, body, header):
    require(header.startswith("v1="), "signature")
    tag = unhex(header[3:], 32)
    require(same(tag, mac(key, signed_request(method, path, body).encode())), "signature")


OPEN_REQUEST = object_of({
    "tenant_id": tenant,
    "device_id": device,
    "device_generation": u32,
    "timestamp": timestamp,
    "nonce": digits(16),
})

# Section 5: frames.

CARRIES = {
    ("sensor", "tier 0"): {0x10, 0x11, 0x12, 0x20, 0x50},
    ("sensor", "tier 1"): {0x40, 0x50, 0x70, 0x71, 0x80},
    ("gateway", "tier 1"): {0x60},
    ("gateway", "gateway"): {0x50, 0x61, 0x62},
    ("substrate", "gateway"): {0x60},
    ("substrate", "pod"): {0x61, 0x62},
}
TYPES = {0x10, 0x11, 0x12, 0x20, 0x40, 0x50, 0x60, 0x61, 0x62, 0x70, 0x71, 0x80, 0x81}
REASONS = ["length", "version", "type", "direction", "tag", "sequence", "hmac"]


class Direction:
    """The receiver of one direction of a link."""

    def __init__(self, link, sender, session_id, key):
        self.types = CARRIES[(link, sender)]
        self.tag = uuid_bytes(session_id)[:4]
        self.key = key
        self.next = 0

    def receive(self, message):
        """Type and payload of the next frame; a refusal changes nothing."""
        require(42 <= len(message) <= 240, "length")
        require(message[0] == 1, "version")
        require(message[1] in TYPES, "type")
        require(message[1] in self.types, "direction")
        require(message[2:6] == self.tag, "tag")
        require(struct.unpack(">I", message[6:10])[0] == self.next, "sequence")
        require(same(mac(self.key, message[:-32]), message[-32:]), "hmac")
        self.next += 1
        return message[1], message[10:-32]


def frame(key, session_id, typ, sequence, payload):
    require(len(payload) <= 198, "length")
    head = bytes([1, typ]) + uuid_bytes(session_id)[:4] + struct.pack(">I", sequence)
    return head + payload + mac(key, head + payload)


# Section 6: payloads of the sensor link.


def gesture_event(payload):
    require(len(payload) == 9 and payload[0] in (1, 2, 3), "gesture")
    return {"gesture": payload[0], "timestamp_utc": time_text(int.from_bytes(payload[1:], "big"))}


def parent_of(data):
    require(len(data) == 48, "length")
    if data == bytes(48):
        return None, None
    return uuid_text(data[:16]), data[16:].hex()


def sensor_end(payload):
    require(len(payload) == 156 and payload[0] in (1, 2, 3), "sensor_end")
    require(payload[113:124] == bytes(11), "reserved")
    parent_id, parent_hash = parent_of(payload[17:65])
    length, chunks = struct.unpack(">II", payload[105:113])
    return {
        "kind": ("audio", "image", "gesture")[payload[0] - 1],
        "receipt_id": uuid_text(payload[1:17]),
        "parent_receipt_id": parent_id,
        "parent_receipt_hash": parent_hash,
        "event_payload_hash": payload[65:97].hex(),
        "timestamp_utc": time_text(int.from_bytes(payload[97:105], "big")),
        "bytes": length,
        "chunks": chunks,
        "hmac_signature": payload[124:].hex(),
    }


def ack(payload):
    require(len(payload) == 4, "length")
    return {"accepted": int.from_bytes(payload, "big")}


def backpressure(payload, receiver_tier):
    require(len(payload) == 6 and payload[0] in (0, 1, 2) and payload[1] in (1, 2, 3), "backpressure")
    require(payload[0] != receiver_tier, "reflected")
    return {"sender": payload[0], "reason": payload[1], "pause_ms": int.from_bytes(payload[2:], "big")}


BREAKS = {**dict(enumerate(REASONS, 1)), 16: "capture", 17: "receipt", 18: "parent"}


def verification_failed(payload):
    require(len(payload) == 69 and payload[4] in BREAKS, "verification_failed")
    return {
        "first_bad": int.from_bytes(payload[:4], "big"),
        "reason": payload[4],
        "reason_name": BREAKS[payload[4]],
        "expected": payload[5:37].hex(),
        "computed": payload[37:].hex(),
    }


def session_reset(message, pairing, last_epoch):
    """Session, epoch, TIER_KEY[0] and the context (tenant, parent id, parent hash) or None."""
    require(42 <= len(message) <= 240 and message[:2] == b"\x01\x81" and message[6:10] == bytes(4), "not_authentic")
    payload = message[10:-32]
    require(len(payload) >= 80, "length")
    try:
        session_id = uuid_text(payload[:16])
    except Refused:
        raise Refused("not_authentic") from None
    epoch = int.from_bytes(payload[16:20], "big")
    key = reset_key(pairing, session_id, epoch)
    require(message[2:6] == payload[:4], "not_authentic")
    require(same(mac(key, message[:-32]), message[-32:]), "not_authentic")
    tier_key_0 = aead_open(key, payload[20:32], payload[:20], payload[32:80])
    require(len(tier_key_0) == 32, "not_authentic")
    require(last_epoch is None or epoch > last_epoch, "replay")
    context = None
    if len(payload) > 80:
        tenant_id = payload[128:].decode()
        tenant(tenant_id)
        context = (tenant_id, *parent_of(payload[80:128]))
    return session_id, epoch, tier_key_0, context


# Section 7: the 0x60 family.


def fragments(message):
    pieces = [message[at : at + 194] for at in range(0, len(message), 194)] or [b""]
    return [struct.pack(">HH", index, len(pieces)) + piece for index, piece in enumerate(pieces)]


class Reassembler:
    def __init__(self, limit):
        self.limit = limit
        self.count, self.data = None, []

    def push(self, payload):
        """The message if this was its last fragment, else None. A refusal forgets the message."""
        try:
            return self._push(payload)
        except Refused:
            self.count, self.data = None, []
            raise

    def _push(self, payload):
        require(len(payload) >= 4, "header")
        index, count = struct.unpack(">HH", payload[:4])
        data = payload[4:]
        require(count > 0, "header")
        require(count <= max(1, -(-self.limit // 194)), "too long")
        require(index == len(self.data) and index < count and self.count in (None, count), "order")
        require(len(data) == 194 or index == count - 1, "size")
        require(len(data) <= 194 and (data or count == 1), "size")
        self.count = count
        self.data.append(data)
        require(sum(map(len, self.data)) <= self.limit, "too long")
        if index < count - 1:
            return None
        message = b"".join(self.data)
        self.count, self.data = None, []
        return message


NOTICE = object_of({
    "eta_ms": u32,
    "position": u32,
    "state": word("waking", "queued", "loading", "ready"),
})


def escalate_token(payload):
    require(len(payload) >= 8 and payload[:4] == b"\x00\x00\x00\x01", "fragment header")
    try:
        if payload[4:8] == b"\xff\xff\xff\xff":
            notice = payload[8:].decode()
            NOTICE(parse_canonical(notice))
            return {"notice": notice}
        require(76 <= len(payload) <= 198, "length")
        return {
            "step": int.from_bytes(payload[4:8], "big"),
            "token_id": int.from_bytes(payload[8:12], "big"),
            "expert_load": payload[12:44].hex(),
            "token_emit": payload[44:76].hex(),
            "text": payload[76:].decode(),
        }
    except UnicodeDecodeError:
        raise Refused("utf-8") from None


def pairs(value):
    """Each receipt of a document has its own payload beside it, and a capture none."""
    require(len(value["receipts"]) == len(value["payloads"]), "unpaired")
    for receipt, payload in zip(value["receipts"], value["payloads"]):
        capture = receipt["receipt_kind"] == "halo_sensor_capture"
        require(capture == (payload is None), "unpaired")
        if payload is not None:
            require(sha256(canonical(payload).encode()).hex() == receipt["event_payload_hash"], "unpaired")


def request_document(document):
    value = parse_canonical(document)
    object_of({
        "v": one,
        "op": word("infer", "record", "resume"),
        "request_id": uuid,
        "receipts": list_of(RECEIPT),
        "payloads": list_of(lambda payload: None),
        "prompt": text,
        "max_tokens": u32,
        "sampling": object_of({"seed": u32, "temperature_milli": u32, "top_k": u32, "top_p_milli": u32}),
        "last_step?": u32,
    })(value)
    pairs(value)
    return value


END_CODES = (
    "ok bundle_invalid busy rate_limited context_exceeded unavailable wake_deadline draining "
    "unknown_request lost ledger_unavailable engine_failed cancelled"
).split()


def end_document(document):
    value = parse_canonical(document)
    object_of({
        "request_id": uuid,
        "status": word("ok", "recorded", "refused", "failed", "cancelled"),
        "code": word(*END_CODES),
        "retry_after_ms": nullable(u32),
        "receipts": list_of(RECEIPT),
        "payloads": list_of(lambda payload: None),
    })(value)
    pairs(value)
    return value


# Section 8: receipts.

KINDS = (
    "halo_sensor_capture", "halo_tier_routing", "halo_expert_load", "halo_token_emit", "halo_tier_response",
)
RECEIPT = object_of({
    "event_payload_hash": hash_text,
    "hmac_signature": hash_text,
    "parent_receipt_hash": nullable(hash_text),
    "parent_receipt_id": nullable(uuid),
    "receipt_id": uuid,
    "receipt_kind": word(*KINDS),
    "session_epoch": u32,
    "session_id": uuid,
    "tenant_id": tenant,
    "tier": lambda value: require(type(value) is int and value in (0, 1, 2), "tier"),
    "timestamp_utc": timestamp,
})


def parse_receipt(full):
    value = parse_canonical(full)
    RECEIPT(value)
    require((value["parent_receipt_id"] is None) == (value["parent_receipt_hash"] is None), "parent")
    return value


def canonical_body(receipt):
    return canonical({name: value for name, value in receipt.items() if name != "hmac_signature"})


def check_receipt_mac(receipt, keys):
    """`keys`: the three TIER_KEYs of the receipt's epoch."""
    tag = mac(keys[receipt["tier"]], canonical_body(receipt).encode())
    require(same(tag.hex().encode(), receipt["hmac_signature"].encode()), "hmac")
