//! Partition tables: style, and which partitions the firmware boots from.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};

use gptman::GPT;

/// Partition table style.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Style {
    /// The old one, in the boot sector.
    #[serde(rename = "MBR")]
    Mbr,
    /// The new one.
    #[serde(rename = "GPT")]
    Gpt,
}

impl Style {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
        }
    }
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) style: Style,
    /// Numbers of the partitions that the firmware or the boot sector starts from.
    pub(super) bootable: BTreeSet<u32>,
}

/// EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as stored (UEFI specification, table 5.6).
const EFI_SYSTEM: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// GRUB's BIOS boot partition, 21686148-6449-6E6F-744E-656564454649.
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
/// Attribute bit 2: legacy BIOS bootable (UEFI specification, table 5.8).
const LEGACY_BOOTABLE: u64 = 1 << 2;
/// Type of the partition that protects a GPT in an MBR.
const PROTECTIVE: u8 = 0xee;

/// Reads the table of a disk; `None` when it has none.
pub(super) fn read(disk: &mut (impl Read + Seek)) -> Option<Table> {
    let mut sector = [0u8; 512];
    disk.seek(SeekFrom::Start(0)).ok()?;
    disk.read_exact(&mut sector).ok()?;
    if sector[510..] != [0x55, 0xaa] {
        return gpt(disk);
    }
    let entries: Vec<&[u8]> = sector[446..510].chunks(16).collect();
    if entries.iter().any(|entry| entry[4] == PROTECTIVE) {
        return gpt(disk);
    }
    // A boot sector of a file system on the bare disk ends with the same two bytes; its "entries" are code.
    let plausible =
        entries.iter().all(|entry| entry[0] & 0x7f == 0) && entries.iter().any(|entry| entry[4] != 0);
    let numbered = (1u32..).zip(&entries);
    plausible.then(|| Table {
        style: Style::Mbr,
        bootable: numbered
            .filter(|(_, entry)| entry[0] == 0x80)
            .map(|(number, _)| number)
            .collect(),
    })
}

fn gpt(disk: &mut (impl Read + Seek)) -> Option<Table> {
    let gpt = GPT::find_from(disk).ok()?;
    let boots = |kind: [u8; 16], attributes: u64| {
        kind == EFI_SYSTEM || kind == BIOS_BOOT || attributes & LEGACY_BOOTABLE != 0
    };
    let used = gpt.iter().filter(|(_, entry)| entry.is_used());
    Some(Table {
        style: Style::Gpt,
        bootable: used
            .filter(|(_, entry)| boots(entry.partition_type_guid, entry.attribute_bits))
            .map(|(number, _)| number)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn an_mbr_names_its_active_partition() {
        let mut bytes = vec![0; 1 << 20];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(read(&mut Cursor::new(&bytes)), None);
        bytes[446 + 4] = 0x83;
        bytes[462] = 0x80;
        bytes[462 + 4] = 0x8e;
        let table = read(&mut Cursor::new(&bytes)).unwrap();
        assert_eq!((table.style, table.bootable), (Style::Mbr, BTreeSet::from([2])));
        bytes[446] = 0x33;
        assert_eq!(read(&mut Cursor::new(&bytes)), None);
    }

    #[test]
    fn a_gpt_names_its_efi_system_partition() {
        let mut disk = Cursor::new(vec![0; 16 << 20]);
        let mut gpt = GPT::new_from(&mut disk, 512, [7; 16]).unwrap();
        for (number, kind) in [(1, BIOS_BOOT), (2, EFI_SYSTEM), (3, [9; 16])] {
            gpt[number] = gptman::GPTPartitionEntry {
                partition_type_guid: kind,
                unique_partition_guid: [number as u8; 16],
                starting_lba: 2048 * u64::from(number),
                ending_lba: 2048 * u64::from(number) + 2047,
                attribute_bits: 0,
                partition_name: "".into(),
            };
        }
        gpt.write_into(&mut disk).unwrap();
        let table = read(&mut disk).unwrap();
        assert_eq!(
            (table.style, table.bootable),
            (Style::Gpt, BTreeSet::from([1, 2]))
        );
    }
}
