//! Reading weight files from front to back, hashing every byte on the way, so that what was hashed is what was loaded.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::engine::EngineError;

/// A file that is read once, in order.
pub struct HashedFile {
    path: PathBuf,
    reader: BufReader<File>,
    hasher: Sha256,
    position: u64,
    length: u64,
}

impl HashedFile {
    /// Opens a file at its beginning.
    ///
    /// # Errors
    /// When it cannot be opened, or is no file.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Io {
            file: path.into(),
            error: source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        Ok(Self {
            path: path.into(),
            reader: BufReader::with_capacity(1 << 20, file),
            hasher: Sha256::new(),
            position: 0,
            length: metadata.len(),
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the whole file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// Fills `buffer`; `what` names it in the error.
    ///
    /// # Errors
    /// When the file ends first or cannot be read.
    pub fn fill(
        &mut self,
        buffer: &mut [u8],
        what: &dyn Fn() -> String,
    ) -> Result<(), EngineError> {
        let wanted = buffer.len() as u64;
        if wanted > self.remaining() {
            return Err(EngineError::Truncated {
                file: self.path.clone(),
                what: what(),
                expected: self.position.saturating_add(wanted),
                found: self.length,
            });
        }
        self.reader
            .read_exact(buffer)
            .map_err(|source| EngineError::Io {
                file: self.path.clone(),
                error: source,
            })?;
        self.hasher.update(&*buffer);
        self.position += wanted;
        Ok(())
    }

    /// Reads on to `offset`, which must not lie behind.
    ///
    /// # Errors
    /// When the file ends first or cannot be read.
    pub fn skip_to(&mut self, offset: u64, what: &dyn Fn() -> String) -> Result<(), EngineError> {
        let mut scratch = [0; 4096];
        while self.position < offset {
            let part = (offset - self.position).min(scratch.len() as u64) as usize;
            self.fill(&mut scratch[..part], what)?;
        }
        Ok(())
    }

    /// Reads to the end and gives the SHA-256 of the whole file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digest(mut self) -> Result<[u8; 32], EngineError> {
        let end = self.length;
        self.skip_to(end, &|| "the rest of the file".into())?;
        Ok(self.hasher.finalize().into())
    }
}

/// The digest of a set of files: SHA-256 of the text that `sha256sum` prints for them, sorted by name in byte order.
pub fn digest_of_files(files: &[(String, [u8; 32])]) -> [u8; 32] {
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    let mut hasher = Sha256::new();
    for (name, digest) in files {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hasher.update(format!("{hex}  {name}\n"));
    }
    hasher.finalize().into()
}

/// A buffer for `length` bytes that begins at a multiple of 16, as the tensor library's block types ask for.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    const ALIGNMENT: usize = 16;

    /// Zeros.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + Self::ALIGNMENT];
        let start = bytes
            .as_ptr()
            .align_offset(Self::ALIGNMENT)
            .min(Self::ALIGNMENT);
        Self {
            bytes,
            start,
            length,
        }
    }

    /// The bytes.
    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    /// The bytes, to be written.
    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// The last part of a path, for names and digests.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_what_sha256sum_of_sha256sum_says() {
        // printf a > b; printf b > a; sha256sum a b | sha256sum
        let digest = |text: &str| -> [u8; 32] { Sha256::digest(text).into() };
        let files = [("b".to_owned(), digest("a")), ("a".to_owned(), digest("b"))];
        let hex: String = digest_of_files(&files)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "683218fccdec5f9dff3cb33399b5ed06152761150557afe9961aeb3035003f8b"
        );
    }

    #[test]
    fn a_file_read_in_parts_has_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let content: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let mut file = HashedFile::open(&path).unwrap();
        let mut head = [0; 100];
        file.fill(&mut head, &|| "head".into()).unwrap();
        assert_eq!(head, content[..100]);
        file.skip_to(9_000, &|| "gap".into()).unwrap();
        assert_eq!(file.position(), 9_000);
        let error = file
            .fill(&mut vec![0; 11_001], &|| "tail".into())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("truncated: tail needs 20001 bytes, the file has 20000"),
            "{error}"
        );
        assert_eq!(
            file.digest().unwrap(),
            <[u8; 32]>::from(Sha256::digest(&content))
        );
    }
}
