//! What tells one disk from another, whatever its device is called after the next boot.
//!
//! Taken from what its first bytes say of themselves: the identifier of a partition table, of a file system, of a
//! physical volume. A disk that says nothing has no identity and is never taken for a wrong one.

use std::io;

use sys::aligned::AlignedBuffer;

use crate::disk::medium::Medium;

/// Bytes looked at: the btrfs superblock ends at 68 KiB.
const HEAD_LEN: u64 = 128 * 1024;

/// Identity of a disk; zeros when it has none.
pub type Identity = [u8; 16];

/// Reads the identity of a disk.
///
/// # Errors
/// The medium cannot be read.
pub fn identity(medium: &dyn Medium) -> io::Result<Identity> {
    let len = HEAD_LEN.min(medium.length() / 4096 * 4096);
    let mut head = AlignedBuffer::zeroed(len as usize);
    medium.read(&mut head, 0)?;
    Ok(of_head(&head, medium.sector_len() as usize))
}

fn of_head(head: &[u8], sector_len: usize) -> Identity {
    let field = |at: usize, len: usize| head.get(at..at + len);
    let has = |at: usize, magic: &[u8]| field(at, magic.len()) == Some(magic);
    let found = [
        // The disk's own identifier in a GUID partition table.
        has(sector_len, b"EFI PART").then(|| field(sector_len + 56, 16)),
        // The disk signature of an MBR, which a boot sector of a file system does not have.
        (has(510, &[0x55, 0xaa]) && !has(440, &[0; 4])).then(|| field(440, 4)),
        has(1024 + 56, &[0x53, 0xef]).then(|| field(1024 + 104, 16)),
        has(0, b"XFSB").then(|| field(32, 16)),
        has(65_536 + 64, b"_BHRfS_M").then(|| field(65_536 + 32, 16)),
        has(4096 - 10, b"SWAPSPACE2").then(|| field(1024 + 12, 16)),
        has(512, b"LABELONE").then(|| field(512 + 32, 32)),
    ];
    let Some(bytes) = found.into_iter().flatten().flatten().next() else {
        return Identity::default();
    };
    let mut identity = Identity::default();
    identity.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_file_systems_name_themselves() {
        let mut head = vec![0u8; 131_072];
        assert_eq!(of_head(&head, 512), Identity::default(), "nothing is nobody");
        head[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        head[1024 + 104] = 9;
        let file_system = of_head(&head, 512);
        assert_ne!(file_system, Identity::default());
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(
            of_head(&head, 512),
            file_system,
            "a boot sector without a signature"
        );
        head[440] = 7;
        let signature = of_head(&head, 512);
        assert_ne!(signature, file_system);
        head[4096..4104].copy_from_slice(b"EFI PART");
        assert_eq!(of_head(&head, 512), signature, "a table for other sectors");
        assert_ne!(of_head(&head, 4096), signature);
        assert_eq!(of_head(&[], 512), Identity::default());
    }
}
