use super::*;
use crate::disk::medium::DiskMedium;
use std::os::unix::fs::FileExt;
use std::path::Path;
use sys::block_device::Access;
use sys::loop_device::run;

/// A field of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap() * 1024
}

/// Makes every second block of a file system free.
fn fragment(image: &Path, medium: &DiskMedium) {
    let mut head = AlignedBuffer::zeroed(4096);
    medium.read(&mut head, 0).unwrap();
    let superblock = Superblock::parse(&head).unwrap();
    let file = std::fs::File::options().write(true).open(image).unwrap();
    for group in superblock.read_groups(medium, 0).unwrap().unwrap() {
        let place = group.block_bitmap * superblock.block_len;
        file.write_all_at(&[0xaa; 4096], place).unwrap();
    }
}

#[test]
fn millions_of_gaps_take_no_more_memory_than_those_that_are_kept() {
    let image = tempfile::NamedTempFile::with_prefix_in("g2c-block-gaps", "/var/tmp").unwrap();
    image.as_file().set_len(32 << 30).unwrap();
    let options = [
        "-q",
        "-F",
        "-b",
        "4096",
        "-N",
        "8192",
        "-O",
        "^has_journal,^metadata_csum,^uninit_bg",
    ];
    let arguments = options.iter().map(std::ffi::OsStr::new);
    run("mkfs.ext4", arguments.chain([image.path().as_os_str()])).unwrap();
    let medium = DiskMedium::open(image.path(), Access::Read).unwrap();
    fragment(image.path(), &medium);
    let before = memory("VmRSS:");
    let free = free_ranges(&medium, 0, medium.length(), Bitmaps::OfUnmounted)
        .unwrap()
        .unwrap();
    let taken = memory("VmHWM:").saturating_sub(before);
    assert_eq!(free.len(), crate::disk::used_map::gaps::RANGES_MAX);
    assert!(taken < 48 << 20, "{taken} bytes for 4 million gaps");
}
