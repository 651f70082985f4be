//! A GUID partition table on a disk larger or smaller than its source: the backup belongs to the end of the disk.
//!
//! The backup is written at the new end first, then the primary header points to it, so that one valid table is there
//! at every moment. Layout from the UEFI specification, section 5.3.

use std::io;
use std::ops::Range;

use sys::aligned::AlignedBuffer;

use crate::disk::medium::Medium;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_LEN_MIN: usize = 92;
const SECTOR_LEN_MAX: u64 = 4096;
/// Partition entries take 16 KiB; nothing sane needs a MiB.
const ENTRIES_LEN_MAX: u64 = 1 << 20;

/// A table whose backup is not at the end of the medium.
pub struct Move {
    header: Header,
    entries: AlignedBuffer,
    head: AlignedBuffer,
    sector: u64,
    last_sector: u64,
}

/// Bytes that the backup of the medium's table takes at its end; 0 without a table.
///
/// # Errors
/// The medium cannot be read.
pub fn backup_len(medium: &dyn Medium) -> io::Result<u64> {
    let sector = medium.sector_len();
    if medium.length() < 2 * SECTOR_LEN_MAX {
        return Ok(0);
    }
    let mut head = AlignedBuffer::zeroed(2 * SECTOR_LEN_MAX as usize);
    medium.read(&mut head, 0)?;
    let at = sector.min(SECTOR_LEN_MAX) as usize;
    Ok(match Header::parse(&head[at..at + at]) {
        Some(header) => header.entries_len().next_multiple_of(sector) + sector,
        None => 0,
    })
}

/// Looks whether the medium, of another length than its source of `source_len` bytes, has a table whose backup must move.
///
/// # Errors
/// The medium cannot be read.
pub fn plan_move(medium: &dyn Medium, source_len: u64) -> io::Result<Option<Move>> {
    let sector = medium.sector_len();
    // No disk has longer sectors, but an image file has those that its source says.
    if medium.length() == source_len || medium.length() < 2 * SECTOR_LEN_MAX || sector > SECTOR_LEN_MAX {
        return Ok(None);
    }
    let mut head = AlignedBuffer::zeroed(2 * SECTOR_LEN_MAX as usize);
    medium.read(&mut head, 0)?;
    let at = sector as usize;
    let Some(header) = Header::parse(&head[at..2 * at]) else {
        return Ok(None);
    };
    let last_sector = medium.length() / sector - 1;
    let entries_len = header.entries_len();
    if header.my_sector() != 1 || entries_len > ENTRIES_LEN_MAX || header.backup_sector() == last_sector {
        return Ok(None);
    }
    let mut entries = AlignedBuffer::zeroed(entries_len.next_multiple_of(sector) as usize);
    medium.read(&mut entries, header.entries_sector() * sector)?;
    if crc32(&entries[..entries_len as usize]) != header.entries_checksum() {
        return Ok(None);
    }
    Ok(Some(Move {
        header,
        entries,
        head,
        sector,
        last_sector,
    }))
}

impl Move {
    /// Where the disk is changed, in bytes: the tables at its beginning and at its end.
    pub fn ranges(&self) -> [Range<u64>; 2] {
        let end = (self.last_sector + 1) * self.sector;
        [
            0..2 * self.sector,
            end - self.sector - self.entries.len() as u64..end,
        ]
    }

    /// Moves the backup.
    ///
    /// # Errors
    /// The medium cannot be written.
    pub fn apply(mut self, medium: &dyn Medium) -> io::Result<()> {
        let (sector, last_sector) = (self.sector, self.last_sector);
        let entries_sector = last_sector - self.entries.len() as u64 / sector;
        self.header.set_backup_sector(last_sector);
        self.header.set_last_usable(entries_sector - 1);
        let mut backup = self.header.clone();
        backup.turn_into_backup(last_sector, entries_sector);
        medium.write(&self.entries, entries_sector * sector)?;
        write_sector(medium, &backup.sealed(), last_sector, sector)?;
        medium.sync()?;
        // The protective MBR covers the disk, too; 0xFFFFFFFF is right for everything larger than its fields.
        let head = &mut self.head[..sector as usize];
        if head[510..512] == [0x55, 0xaa] && head[446 + 4] == 0xee {
            let sectors = u32::try_from(last_sector).unwrap_or(u32::MAX);
            head[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
            write_sector(medium, head, 0, sector)?;
        }
        write_sector(medium, &self.header.sealed(), 1, sector)?;
        medium.sync()
    }
}

fn write_sector(medium: &dyn Medium, content: &[u8], number: u64, sector: u64) -> io::Result<()> {
    let mut buffer = AlignedBuffer::zeroed(sector as usize);
    buffer[..content.len()].copy_from_slice(content);
    medium.write(&buffer, number * sector)
}

#[derive(Clone)]
struct Header(Vec<u8>);

impl Header {
    /// A header whose checksum is right.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let len = u32::from_le_bytes(*bytes.get(12..16)?.first_chunk()?) as usize;
        if !bytes.starts_with(SIGNATURE) || !(HEADER_LEN_MIN..=bytes.len()).contains(&len) {
            return None;
        }
        let header = Self(bytes[..len].to_vec());
        (header.sealed()[16..20] == bytes[16..20]).then_some(header)
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 4)) << 32
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn set_long(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn my_sector(&self) -> u64 {
        self.long(24)
    }

    fn backup_sector(&self) -> u64 {
        self.long(32)
    }

    fn set_backup_sector(&mut self, sector: u64) {
        self.set_long(32, sector);
    }

    fn set_last_usable(&mut self, sector: u64) {
        self.set_long(48, sector);
    }

    fn entries_sector(&self) -> u64 {
        self.long(72)
    }

    fn entries_len(&self) -> u64 {
        u64::from(self.word(80)) * u64::from(self.word(84))
    }

    fn entries_checksum(&self) -> u32 {
        self.word(88)
    }

    fn turn_into_backup(&mut self, own_sector: u64, entries_sector: u64) {
        let primary = self.my_sector();
        self.set_long(24, own_sector);
        self.set_long(32, primary);
        self.set_long(72, entries_sector);
    }

    /// The bytes with a right checksum.
    fn sealed(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes[16..20].fill(0);
        let checksum = crc32(&bytes);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// CRC-32 (ISO 3309), as the UEFI specification wants it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::medium::DiskMedium;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use sys::block_device::Access;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn sfdisk_accepts_the_moved_table() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("disk.img");
        std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let mut sfdisk = Command::new("sfdisk")
            .arg("-q")
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        sfdisk
            .stdin
            .take()
            .unwrap()
            .write_all(b"label: gpt\nsize=10M\nsize=20M\n")
            .unwrap();
        assert!(sfdisk.wait().unwrap().success());
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        let verify = || {
            let output = Command::new("sfdisk")
                .arg("--verify")
                .arg(&path)
                .output()
                .unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        assert!(
            !verify().contains("No errors detected"),
            "the backup is not at the end: {}",
            verify()
        );
        let medium = DiskMedium::open(&path, Access::Write).unwrap();
        let change = plan_move(&medium, 64 << 20).unwrap().unwrap();
        assert_eq!(change.ranges(), [0..1024, (100 << 20) - 33 * 512..100 << 20]);
        change.apply(&medium).unwrap();
        assert!(verify().contains("No errors detected"), "{}", verify());
        let dump = Command::new("sfdisk").arg("-d").arg(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&dump.stdout).contains("last-lba: 204766"));
        assert!(plan_move(&medium, 64 << 20).unwrap().is_none(), "once is enough");
    }
}
