//! An image of one program, as the OCI archive that containerd imports.

use std::{fs, io, path::Path};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What every pod's sandbox runs.
pub(super) const PAUSE: &str = "halo.test/pause:1";

/// Writes an image whose only file is its program.
pub(super) fn write(path: &Path, reference: &str, program: &[u8]) -> io::Result<()> {
    let mut layer = Tar::default();
    layer.add("program", program, 0o755)?;
    let layer = layer.end();
    let mut archive = Tar::default();
    archive.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    let top = blob(&mut archive, "layer.v1.tar", &layer)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [top["digest"]]},
    });
    let config = blob(
        &mut archive,
        "config.v1+json",
        config.to_string().as_bytes(),
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media("manifest.v1+json"),
        "config": config,
        "layers": [top],
    });
    let mut manifest = blob(
        &mut archive,
        "manifest.v1+json",
        manifest.to_string().as_bytes(),
    )?;
    manifest["annotations"] = json!({"io.containerd.image.name": reference});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    archive.add("index.json", index.to_string().as_bytes(), 0o644)?;
    fs::write(path, archive.end())
}

fn media(kind: &str) -> String {
    format!("application/vnd.oci.image.{kind}")
}

/// Adds a blob and returns its descriptor.
fn blob(archive: &mut Tar, kind: &str, bytes: &[u8]) -> io::Result<Value> {
    let hash: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    archive.add(&format!("blobs/sha256/{hash}"), bytes, 0o644)?;
    Ok(json!({"mediaType": media(kind), "digest": format!("sha256:{hash}"), "size": bytes.len()}))
}

/// A ustar archive.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn add(&mut self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        if name.len() >= 100 {
            return Err(io::Error::other("a name too long for ustar"));
        }
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, "00000000000");
        // The checksum is taken with its own field as spaces.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(header);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        Ok(())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn tar_reads_what_is_written_and_blobs_are_what_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        super::write(&path, "halo.test/x:1", b"a program").unwrap();
        let tar = |arguments: &[&str]| {
            let output = Command::new("tar")
                .args(arguments)
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        tar(&["-xf", "image.tar"]);
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("index.json")).unwrap())
                .unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let named = folder.path().join("blobs").join(digest.replace(':', "/"));
        let output = Command::new("sha256sum").arg(named).output().unwrap();
        let sum = String::from_utf8(output.stdout).unwrap();
        assert_eq!(format!("sha256:{}", &sum[..64]), digest);
    }
}
