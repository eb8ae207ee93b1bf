//! The vector files are what the code makes, and the published vectors of the standards below it hold.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/standards.rs"]
mod standards;
#[path = "support/vectors/mod.rs"]
mod vectors;

use std::path::Path;

#[test]
fn the_files_are_what_the_code_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for (name, text) in vectors::files().unwrap() {
        let stored = std::fs::read_to_string(folder.join(name)).unwrap();
        let same = stored.lines().zip(text.lines()).take_while(|(a, b)| a == b);
        assert!(
            stored == text,
            "vectors/{name} differs from line {} on. If the change is meant, it changes the protocol: say so in spec.md and run `cargo run -p halo-receipts --example vectors`",
            same.count() + 1
        );
    }
}
