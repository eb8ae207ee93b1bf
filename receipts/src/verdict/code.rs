//! The machine codes of a verdict, and what each one means to whoever reads it.

use std::fmt;

/// What a finding does to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Integrity has failed.
    Failure,
    /// Nothing is known to be wrong, and a check could not be made.
    Unverifiable,
    /// All that is there is right, and something that closes the session is not there.
    Incomplete,
    /// Worth a look; the verdict does not depend on it.
    Warning,
}

impl Severity {
    /// The word for it in JSON and in text.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Failure => "failure",
            Severity::Unverifiable => "unverifiable",
            Severity::Incomplete => "incomplete",
            Severity::Warning => "warning",
        }
    }
}

/// Declares the codes with their spelling, severity and explanation, so that none can lack one.
macro_rules! codes {
    ($($name:ident, $text:literal, $severity:ident, $explanation:literal;)*) => {
        /// A machine code. Some are followed by `:` and a detail, such as the name of a field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $explanation] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code's stable spelling, without the detail that may follow it.
            pub const fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What a finding with this code does to the verdict.
            pub const fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)* }
            }

            /// What the code means, what can cause it, and what to do.
            pub const fn explanation(self) -> &'static str {
                match self { $(Code::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    SessionNotFound, "session.notFound", Incomplete,
        "The evidence holds no receipt of this session. That is never a pass: check the session id, the ledger and the tenant. If the session is known to have existed, its receipts were deleted, which only an anchor outside the ledger can prove.";
    HeaderMissing, "header.missing", Failure,
        "Receipts of the session are there and its header is not. A header is written in the same step as the session's first claim and never removed by the product.";
    HeaderForm, "header.form", Failure,
        "The session header is not the canonical JSON that the protocol defines, so its bytes were changed.";
    HeaderMac, "header.mac.mismatch", Failure,
        "The session header's MAC does not verify under TIER_KEY[1] of its epoch: a byte of the header or of its MAC was changed, or someone without the key wrote it.";
    ClaimForm, "claim.form", Failure,
        "A claim is not the canonical JSON that the protocol defines, so its bytes were changed.";
    ClaimMac, "claim.mac.mismatch", Failure,
        "A claim's MAC does not verify under TIER_KEY[1] of its epoch: a byte of it was changed, or someone without the key wrote it.";
    ClaimDuplicate, "claim.duplicate", Failure,
        "The same epoch, connection or link is claimed twice. Every claim is a conditional write, so one of them came another way.";
    ClaimMissing, "claim.missing", Failure,
        "Receipts stand in an epoch without the claim that must come before them: of the connection that brought receipts of tiers 0 and 1, or of the link on which the pod was asked. The claim was deleted.";
    EpochUnclaimed, "epoch.unclaimed", Failure,
        "A receipt is signed in an epoch that nobody claimed. An epoch's number is claimed in the ledger before its keys exist, so the claim was deleted or the receipt does not belong here.";
    EpochUnsealed, "epoch.unsealed", Incomplete,
        "A later epoch was opened after the last seal, and nothing sealed it. Either the device went away before it wrote anything, or what it wrote was cut off.";
    BlockDamaged, "block.damaged", Failure,
        "A stored block cannot be read, so its receipts cannot be checked. Damage on the disk and tampering look alike here; restore the block from a copy and verify again.";
    BlockIds, "block.ids.mismatch", Failure,
        "The ids beside a block are not the ids of the receipts in it. They serve searching only; one of the two was changed.";
    StreamGap, "stream.gap", Failure,
        "Numbers are missing in a stream. Every receipt is written at the next free number, so what stood there was deleted.";
    ReceiptForm, "receipt.form", Failure,
        "The bytes of a receipt are not in its one canonical form: unknown, missing, repeated or reordered fields, another spelling, or bytes after its end.";
    ReceiptHmac, "receipt.hmac.mismatch", Failure,
        "A receipt's bytes do not verify under the key of its own epoch and tier: at least one byte changed after it was signed, or someone without the key wrote it. Where the verdict names a field, an offset and two bytes, putting the old byte back makes the signature (or the hash that the next receipt holds of it) match again, which is proof of what changed.";
    ReceiptDuplicate, "receipt.duplicate", Failure,
        "A receipt_id stands twice in the session.";
    ReceiptTier, "receipt.tier.mismatch", Failure,
        "A receipt has a kind that its tier does not sign, or stands in the stream of another tier.";
    ParentMissing, "receipt.parent.missing", Failure,
        "The parent that a receipt names is not in the session: it was deleted, or the receipt was moved before it.";
    ParentHash, "receipt.parentHash.mismatch", Failure,
        "A receipt names its parent's SHA-256, and the parent as it stands has another. The parent was replaced or changed; without keys it cannot be told which of the two it was.";
    ParentRule, "receipt.parent.rule", Failure,
        "A receipt's parent is not the one that its kind must have, such as the most recent capture for a routing decision. Receipts were left out, moved or added.";
    ChainStep, "chain.step.mismatch", Failure,
        "A step of an answer is not the next one. A step was left out, repeated or moved.";
    ChainFork, "chain.fork", Failure,
        "Two receipts stand where only one can: under one number, or as the same successor of one parent.";
    ChainLeafUnsealed, "chain.leaf.unsealed", Incomplete,
        "Receipts of tier 2 stand in the ledger and no seal commits to them yet. Their own signatures are checked, but another one after them could have been removed without a trace.";
    Attribute, "receipt.attribute.mismatch", Failure,
        "The searchable copy of a field beside a receipt differs from the signed bytes. The signed bytes decide; a search on that field would have been misled.";
    PayloadHash, "payload.hash.mismatch", Failure,
        "The bytes of an event payload do not have the SHA-256 that the signed receipt holds of them. The receipt is right and its payload was changed, removed or added.";
    PayloadForm, "payload.form", Failure,
        "A payload has the right hash and is not what its receipt's kind must have. Its signer wrote something that the protocol does not know.";
    SealCount, "seal.count.mismatch", Failure,
        "A seal counts other receipts than the ledger holds: receipts were deleted or added after it was signed.";
    SealRoot, "seal.root.mismatch", Failure,
        "The Merkle root that a seal commits to is not the root over the receipts as they stand. Where a block is named, the change is inside that block.";
    SealIds, "seal.ids.mismatch", Failure,
        "A seal names other first or last receipts than stand in the ledger.";
    SealMissing, "seal.missing", Incomplete,
        "No seal of tier 1 commits to every receipt, so receipts after the last one could have been cut off unseen. The session is still running, its device went away, or its end was deleted.";
    SealInterrupted, "seal.interrupted", Incomplete,
        "The last answer broke off and was closed as interrupted. What is there is committed to; the answer is not whole.";
    AnchorMissing, "anchor.missing", Incomplete,
        "An anchor was required and the evidence has none. An anchor is a seal that was signed or witnessed outside the ledger and its keys.";
    SessionBinding, "session.binding.mismatch", Failure,
        "A record names another session, tenant or epoch than the one that is verified: it was moved here from elsewhere.";
    TimeNonMonotonic, "time.nonMonotonic", Warning,
        "A receipt's time lies more than 120 seconds before its parent's. Clocks of two machines may differ; look at it if they should not.";
    KeyUnavailable, "key.unavailable", Unverifiable,
        "No key for an epoch of this session is at hand, so its signatures could not be checked. Give the root, or the SESSION_KEY of every epoch. This says nothing about tampering.";
    KeyMismatch, "key.mismatch", Unverifiable,
        "Not one signature of an epoch verifies under the SESSION_KEY that was given for it, so it is most likely the key of another epoch or session. This says nothing about tampering.";
    RootMismatch, "root.checkValue.mismatch", Unverifiable,
        "The session was keyed from another root secret than those given: the check value in its header is none of theirs, and not one signature verifies. Give the root of the generation that the header names. This says nothing about tampering.";
    RootDemo, "root.demo", Warning,
        "The session was keyed from a demo root. Whoever ran the demo can sign anything, so its receipts prove nothing to anyone else.";
}

impl Code {
    /// The code with this spelling; what follows a `:` is ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let base = text.split_once(':').map_or(text, |(base, _)| base);
        Self::ALL.iter().copied().find(|code| code.text() == base)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_and_are_unique() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.text()), Some(*code));
            assert_eq!(Code::parse(&format!("{code}:tier")), Some(*code));
            assert!(code.explanation().ends_with('.'), "{code}");
        }
        assert_eq!(Code::parse("no.such.code"), None);
    }
}
