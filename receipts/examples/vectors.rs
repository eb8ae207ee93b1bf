//! Writes the vector files that are made from this code: `cargo run -p halo-receipts --example vectors`.
//!
//! A change in what it writes is a change of the protocol: bump a version instead, unless nothing was released yet.

use std::error::Error;
use std::path::Path;

#[path = "../tests/support/vectors/mod.rs"]
mod vectors;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for (name, text) in vectors::files()? {
        let path = folder.join(name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, &text)?;
        let word = if before == text {
            "unchanged"
        } else {
            "written"
        };
        println!("{name}: {word}, {} bytes", text.len());
    }
    Ok(())
}
