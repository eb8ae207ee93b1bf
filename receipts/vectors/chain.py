"""The chain rules of spec.md, section 10. Written from that document alone; see check.py."""


class Chain:
    """The receipts of one session so far, as far as they decide what may follow."""

    def __init__(self, session_id, tenant_id):
        self.session_id, self.tenant_id = session_id, tenant_id
        self.epoch = None
        self.nodes = {}
        self.last_capture = self.last_break = self.last_device = None
        self.device = 0

    def check(self, receipt, payload, signs):
        """The code of the first rule that the receipt breaks, or None."""
        tier, kind = receipt["tier"], receipt["receipt_kind"]
        if receipt["session_id"] != self.session_id or receipt["tenant_id"] != self.tenant_id:
            return "session.binding.mismatch"
        if tier != 2 and self.epoch is not None and receipt["session_epoch"] < self.epoch:
            return "session.binding.mismatch"
        if (tier, kind) not in signs:
            return "receipt.tier.mismatch"
        if receipt["receipt_id"] in self.nodes:
            return "receipt.duplicate"
        parent = receipt["parent_receipt_id"]
        if parent is not None:
            if parent not in self.nodes:
                return "receipt.parent.missing"
            if self.nodes[parent]["hash"] != receipt["parent_receipt_hash"]:
                return "receipt.parentHash.mismatch"
        if kind == "halo_sensor_capture":
            return self._expect(parent, self.last_break or self.last_capture)
        if payload is None:
            return None
        return self._rule(tier, kind, parent, payload)

    def _expect(self, parent, expected):
        """The parent is the one expected; none is only for the first receipt."""
        if parent is None and expected is None:
            return None if self.last_device is None else "receipt.parent.rule"
        return None if parent == expected else "receipt.parent.rule"

    def _rule(self, tier, kind, parent, payload):
        node = self.nodes.get(parent, {})
        if kind == "halo_tier_routing":
            if payload["decision"] == "verification_failed":
                return self._expect(parent, self.last_device)
            return None if parent is not None and parent == self.last_capture else "receipt.parent.rule"
        if kind == "halo_expert_load":
            if node.get("kind") == "escalate":
                if node["answered"] or node["answer"]:
                    return "chain.fork"
                return None if payload["step"] == 0 else "chain.step.mismatch"
            if node.get("kind") != "load":
                return "receipt.parent.rule"
            if node["next"] or self.nodes[node["routing"]]["answered"]:
                return "chain.fork"
            follows = node["token"] and payload["step"] == node["step"] + 1
            return None if follows else "chain.step.mismatch"
        if kind == "halo_token_emit":
            if node.get("kind") != "load":
                return "receipt.parent.rule"
            if node["token"] or self.nodes[node["routing"]]["answered"]:
                return "chain.fork"
            return None if payload["step"] == node["step"] else "chain.step.mismatch"
        if tier == 2:
            return self._substrate_response(parent, node, payload)
        return self._orchestrator_response(node, payload)

    def _substrate_response(self, parent, node, payload):
        if node.get("kind") not in ("escalate", "load", "token"):
            return "receipt.parent.rule"
        routing = self.nodes[node.get("routing", parent)]
        if routing["answered"]:
            return "chain.fork"
        if routing["request_id"] != payload["request_id"]:
            return "session.binding.mismatch"
        answer = routing["answer"]
        if parent != (answer[-1] if answer else parent):
            return "receipt.parent.rule"
        return None if payload["receipts"] == len(answer) else "seal.count.mismatch"

    def _orchestrator_response(self, node, payload):
        if node.get("kind") not in ("escalate", "local", "response"):
            return "receipt.parent.rule"
        if node["answered"]:
            return "chain.fork"
        total = payload["device_receipts"] + payload["substrate_receipts"]
        holds = payload["device_receipts"] == self.device and payload["receipts"] == total
        return None if holds else "seal.count.mismatch"

    def add(self, receipt, payload, digest):
        """Appends a receipt, whatever `check` says of it."""
        tier, kind, own = receipt["tier"], receipt["receipt_kind"], receipt["receipt_id"]
        parent = self.nodes.get(receipt["parent_receipt_id"], {})
        node = {"hash": digest, "kind": "unknown", "answered": False, "answer": []}
        routing = self.nodes.get(parent.get("routing", receipt["parent_receipt_id"]))
        if kind == "halo_sensor_capture":
            self.last_capture, self.last_break = own, None
        elif kind == "halo_tier_routing" and payload is not None:
            node["kind"] = payload["decision"]
            node["request_id"] = payload.get("request_id")
            if payload["decision"] == "verification_failed":
                self.last_break = own
        elif kind in ("halo_expert_load", "halo_token_emit") and payload is not None:
            load = kind == "halo_expert_load"
            node["kind"] = "load" if load else "token"
            node["routing"] = parent.get("routing", receipt["parent_receipt_id"])
            if routing is None or "request_id" not in routing:
                node["kind"] = "unknown"
            else:
                routing["answer"].append(own)
            if load:
                node.update(step=payload["step"], token=False, next=False)
            if parent.get("kind") == "load":
                parent["next" if load else "token"] = True
        elif kind == "halo_tier_response":
            node["kind"] = "response" if tier == 2 else "seal"
            closed = routing if tier == 2 else parent
            if closed:
                closed["answered"] = True
        if tier != 2:
            self.last_device = own
            self.device += 1
        self.epoch = max(self.epoch or 0, receipt["session_epoch"])
        self.nodes[own] = node
