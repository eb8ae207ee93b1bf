//! The program of the pause image: it waits for ever, in eleven instructions' worth of bytes.

/// Where the file is mapped.
const BASE: u64 = 0x40_0000;
/// The ELF header and one program header.
const HEADERS: u64 = 64 + 56;

/// `1: pause(); goto 1b`. Every signal that is not caught ends a process or, as the first of its namespace, does nothing;
/// containerd ends sandboxes with SIGKILL.
const CODE: [u8; 9] = [
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the first byte
];

/// A static program for x86-64 Linux that does nothing until it is killed.
pub(super) fn pause() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    let mut file = Vec::with_capacity(256);
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2u16.to_le_bytes()); // executable
    file.extend(62u16.to_le_bytes()); // x86-64
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes()); // entry
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes()); // no section headers
    file.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 1, 0, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes()); // load
    file.extend(5u32.to_le_bytes()); // read and execute
    for field in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(field.to_le_bytes());
    }
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        process::{Command, Stdio},
    };

    #[test]
    fn it_runs_until_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, super::pause()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().unwrap();
        // A program that cannot be run, or crashes, would have ended when the shell below has run.
        assert!(Command::new("true").status().unwrap().success());
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
