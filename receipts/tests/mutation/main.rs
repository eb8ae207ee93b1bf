//! What the verdict says of a session that was changed, in every way that a ledger's file can be.

#[path = "../support/golden.rs"]
mod golden;

#[test]
fn golden_builds() {
    let g = golden::golden();
    assert_eq!(
        g.evidence
            .next_number(halo_receipts::evidence::Stream::Device),
        11
    );
}
