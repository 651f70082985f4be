//! File systems and other signatures by their magic numbers, for what is not mounted.

use std::io::{Read, Seek, SeekFrom};

/// Name, offset in bytes, and the bytes that are there. Names are those of `blkid`. The first match counts: containers
/// come before what may lie in them.
const MAGIC: [(&str, u64, &[u8]); 17] = [
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM2_member", 512, b"LABELONE"),
    ("LVM2_member", 0, b"LABELONE"),
    ("linux_raid_member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("linux_raid_member", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("swap", 4086, b"SWAP-SPACE"),
    ("f2fs", 0x400, &[0x10, 0x20, 0xf5, 0xf2]),
    ("reiserfs", 0x10034, b"ReIsEr"),
    ("jfs", 0x8000, b"JFS1"),
    ("squashfs", 0, b"hsqs"),
    ("iso9660", 0x8001, b"CD001"),
    ("ntfs", 3, b"NTFS    "),
    ("vfat", 82, b"FAT32   "),
    ("vfat", 54, b"FAT1"),
];

/// Offset of the ext superblock's magic number and of its feature words.
const EXT_MAGIC: u64 = 0x438;
const EXT_FEATURES: u64 = 0x45c;
/// Compatible feature: has a journal.
const EXT_JOURNAL: u32 = 0x4;
/// Incompatible features that only ext4 has: extents, 64 bit, flexible block groups.
const EXT4_INCOMPATIBLE: u32 = 0x40 | 0x80 | 0x200;

/// What lies on `device`; `None` when nothing is recognised.
pub(super) fn probe(device: &mut (impl Read + Seek)) -> Option<&'static str> {
    for (name, offset, magic) in MAGIC {
        let mut found = vec![0; magic.len()];
        if read_at(device, offset, &mut found).is_some() && found == magic {
            return Some(name);
        }
    }
    ext(device).or_else(|| zfs(device))
}

fn ext(device: &mut (impl Read + Seek)) -> Option<&'static str> {
    let mut magic = [0; 2];
    read_at(device, EXT_MAGIC, &mut magic)?;
    if u16::from_le_bytes(magic) != 0xef53 {
        return None;
    }
    let mut features = [0; 8];
    read_at(device, EXT_FEATURES, &mut features)?;
    let word =
        |at: usize| u32::from_le_bytes([features[at], features[at + 1], features[at + 2], features[at + 3]]);
    Some(if word(4) & EXT4_INCOMPATIBLE != 0 {
        "ext4"
    } else if word(0) & EXT_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}

/// ZFS keeps an array of uberblocks in the upper half of its first label; one is enough.
fn zfs(device: &mut (impl Read + Seek)) -> Option<&'static str> {
    const MAGIC: u64 = 0x00ba_b10c;
    (128 * 1024..256 * 1024).step_by(1024).find_map(|offset| {
        let mut word = [0; 8];
        read_at(device, offset, &mut word)?;
        let here = u64::from_le_bytes(word) == MAGIC || u64::from_be_bytes(word) == MAGIC;
        here.then_some("zfs_member")
    })
}

fn read_at(device: &mut (impl Read + Seek), offset: u64, bytes: &mut [u8]) -> Option<()> {
    device.seek(SeekFrom::Start(offset)).ok()?;
    device.read_exact(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn image(parts: &[(usize, &[u8])]) -> Cursor<Vec<u8>> {
        let mut bytes = vec![0; 512 * 1024];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        Cursor::new(bytes)
    }

    #[test]
    fn signatures_are_recognised() {
        assert_eq!(probe(&mut image(&[(0, b"XFSB")])), Some("xfs"));
        assert_eq!(probe(&mut image(&[(4086, b"SWAPSPACE2")])), Some("swap"));
        assert_eq!(probe(&mut image(&[(0x438, &[0x53, 0xef])])), Some("ext2"));
        let ext4: [(usize, &[u8]); 2] = [(0x438, &[0x53, 0xef]), (0x460, &[0x40, 0, 0, 0])];
        assert_eq!(probe(&mut image(&ext4)), Some("ext4"));
        let uberblock = 0x00ba_b10c_u64.to_le_bytes();
        assert_eq!(
            probe(&mut image(&[(131_072 + 4096, &uberblock)])),
            Some("zfs_member")
        );
        assert_eq!(probe(&mut image(&[])), None);
        assert_eq!(probe(&mut Cursor::new(vec![0; 100])), None);
    }
}
