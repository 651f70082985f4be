//! What a BIOS boot loader writes outside of file systems: the code in the first sector, and its core image behind it or in
//! a partition of its own. Kept before it is written, so that undoing a conversion gives it back.
//!
//! Stored as: offset of the core image's place in bytes (u64, little-endian), 440 bytes of the first sector, that place.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;
use transfer::{Error, Kind, Result};

use super::probe::tool;

/// Code of the first sector; behind it lie the disk's signature and the partition table, which stay.
const CODE_LEN: usize = 440;
/// No core image is larger, in bytes.
const PLACE_LEN_MAX: u64 = 1 << 20;
/// Type of the partition for the core image.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const SECTOR_LEN: u64 = 512;

/// The content of that area.
#[derive(Debug, PartialEq, Eq)]
pub struct BootArea {
    code: Vec<u8>,
    offset: u64,
    place: Vec<u8>,
}

impl BootArea {
    /// Reads the area of `disk`.
    ///
    /// # Errors
    /// The disk or its partition table cannot be read.
    pub fn read(disk: &Path) -> Result<Self> {
        let table = tool("sfdisk", &["--json", &disk.display().to_string()], Some(1))?;
        let (offset, len) = table.as_deref().and_then(place).unwrap_or((SECTOR_LEN, 0));
        let failed = |error| Error::io("keep the boot sector", disk, error);
        let file = File::open(disk).map_err(failed)?;
        let mut area = Self {
            code: vec![0; CODE_LEN],
            offset,
            place: vec![0; usize::try_from(len).unwrap_or(0)],
        };
        file.read_exact_at(&mut area.code, 0).map_err(failed)?;
        file.read_exact_at(&mut area.place, offset).map_err(failed)?;
        Ok(area)
    }

    /// Writes it back to `disk`, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, disk: &Path) -> Result<()> {
        let failed = |error| Error::io("put back the boot sector", disk, error);
        let file = File::options().write(true).open(disk).map_err(failed)?;
        file.write_all_at(&self.place, self.offset).map_err(failed)?;
        file.write_all_at(&self.code, 0).map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        [&self.offset.to_le_bytes()[..], &self.code, &self.place].concat()
    }

    /// What was stored.
    ///
    /// # Errors
    /// It is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = || {
            Error::new(Kind::Corrupt, "read the kept boot sector")
                .remedy("install a boot loader by hand; all files can still be put back")
        };
        let (offset, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let offset = u64::from_le_bytes(*offset);
        // The partition table of a GPT begins in the second sector: nothing but the place of a core image is written.
        let is_place =
            rest.len() >= CODE_LEN && offset >= SECTOR_LEN && (rest.len() - CODE_LEN) as u64 <= PLACE_LEN_MAX;
        if !is_place {
            return Err(damaged());
        }
        let (code, place) = rest.split_at(CODE_LEN);
        Ok(Self {
            code: code.to_owned(),
            offset,
            place: place.to_owned(),
        })
    }
}

/// Offset and length in bytes of where the core image goes: a partition for it, or the gap before the first one.
fn place(json: &str) -> Option<(u64, u64)> {
    let value: Value = serde_json::from_str(json).ok()?;
    let table = &value["partitiontable"];
    let sector_len = table["sectorsize"].as_u64().unwrap_or(SECTOR_LEN);
    let partitions = table["partitions"].as_array()?;
    let start = |partition: &Value| partition["start"].as_u64();
    if table["label"] == "gpt" {
        let is_it = |partition: &&Value| {
            partition["type"]
                .as_str()
                .is_some_and(|kind| kind.eq_ignore_ascii_case(BIOS_BOOT))
        };
        let partition = partitions.iter().find(is_it)?;
        let len = partition["size"].as_u64()? * sector_len;
        return Some((start(partition)? * sector_len, len.min(PLACE_LEN_MAX)));
    }
    let first = partitions.iter().filter_map(start).min()? * sector_len;
    Some((SECTOR_LEN, first.saturating_sub(SECTOR_LEN).min(PLACE_LEN_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_image_has_its_place() {
        let table = |label: &str, kind: &str| {
            format!(
                r#"{{"partitiontable":{{"label":"{label}","sectorsize":512,"partitions":[{{"start":2048,"size":2048,"type":"{kind}"}}]}}}}"#
            )
        };
        assert_eq!(place(&table("dos", "83")), Some((512, (2048 - 1) * 512)));
        assert_eq!(place(&table("gpt", BIOS_BOOT)), Some((1 << 20, 1 << 20)));
        assert_eq!(place(&table("gpt", "L")), None);
    }

    #[test]
    fn what_is_stored_is_read_again_and_damage_is_seen() {
        let area = BootArea {
            code: vec![7; CODE_LEN],
            offset: 512,
            place: vec![9; 1000],
        };
        assert_eq!(BootArea::decode(&area.encode()).unwrap(), area);
        assert!(BootArea::decode(&area.encode()[..100]).is_err());
        let mut at_the_table = area.encode();
        at_the_table[..8].fill(0);
        assert!(BootArea::decode(&at_the_table).is_err());
    }
}
