//! Finds out what a disk holds, area by area, and asks each file system for its free space.
//!
//! The order matters: trackers are attached first, then the file systems are synchronised (so that everything allocated
//! before is known to them), then the maps are taken. What is allocated later is written later, and marked.
//! Any doubt makes an area count as used: signatures of two file systems, devices stacked on a partition, a partition
//! in use that this mount namespace does not see, overlapping partitions.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sys::aligned::AlignedBuffer;
use sys::block_device::{BlockDevice, DeviceNumber};
use sys::freeze::{FreezePoint, Frozen};
use sys::mounts::{Mount, swaps};

use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::used_map::gaps::Gaps;
use crate::disk::used_map::mounted::{by_descriptor, is_btrfs_of, mounts_of, reach};
use crate::disk::used_map::{UsedMap, btrfs, ext, swap};
use crate::error::{Error, Result};

/// Bytes looked at from the start of an area: the btrfs superblock ends at 68 KiB.
const HEAD_LEN: usize = 128 * 1024;
/// Kept at the end of every area even inside free space: boot code, RAID and other labels live there.
pub const TAIL_LEN: u64 = 64 * 1024;

/// Begins a superblock of Linux RAID.
const RAID_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// Begins the checksum that ends the first label of a ZFS device, 40 bytes before 128 KiB: `zio_eck_t` of OpenZFS.
const ZFS_MAGIC: u64 = 0x0210_da7a_b10c_7a11;
const ZFS_MAGIC_OFFSET: usize = HEAD_LEN - 40;
/// Begins the identifiers in the superblocks of bcache and bcachefs.
const BCACHE_MAGIC: [u8; 4] = [0xc6, 0x85, 0x73, 0xf6];

/// One area of a disk and how its used space was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it lies on the disk, in bytes.
    pub range: Range<u64>,
    /// Number of the partition, 0 for the disk itself.
    pub partition: u32,
    /// What it holds: a file system type, `swap`, `unknown`.
    pub kind: String,
    /// How its used space was found, or why all of it counts as used.
    pub method: String,
    /// Where it is mounted.
    pub mounted_at: Option<PathBuf>,
    /// Bytes in use.
    pub used: u64,
}

/// What a disk holds.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The used ranges.
    pub map: UsedMap,
    /// The areas: partitions, or the disk itself when it has none.
    pub areas: Vec<Area>,
}

/// Free and scratch space of one area, absolute on the disk.
struct Finding {
    kind: &'static str,
    method: String,
    free: Vec<Range<u64>>,
    scratch: Vec<Range<u64>>,
}

impl Finding {
    fn whole(kind: &'static str, why: impl Into<String>) -> Self {
        Self {
            kind,
            method: format!("copied whole: {}", why.into()),
            free: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn free(kind: &'static str, method: &str, free: Vec<Range<u64>>) -> Self {
        Self {
            kind,
            method: method.to_owned(),
            free,
            scratch: Vec::new(),
        }
    }
}

/// How far a survey may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// It may freeze a file system for a moment where nothing else makes its bitmaps true.
    Copy,
    /// Nothing is disturbed; the answer may be that only a copy could tell.
    Look,
    /// The file systems are frozen: none is asked that waits for the thaw.
    Frozen,
}

/// Surveys an open disk. Attach the tracker before.
///
/// # Errors
/// The disk or sysfs cannot be read.
pub fn survey(medium: &DiskMedium, effort: Effort) -> Result<Survey> {
    let failed = |error| Error::io("find the used space of the disk", &medium.path, error);
    let Some(device) = &medium.device else {
        return Ok(whole(medium, "an image file is not mounted anywhere"));
    };
    let partitions = device.partitions().map_err(failed)?;
    let mut pieces: Vec<(u32, BlockDevice)> = Vec::new();
    if partitions.is_empty() {
        pieces.push((0, device.clone()));
    }
    // The kernel makes an extended partition that short; the logical ones have areas of their own.
    let partitions = partitions.into_iter().filter(|partition| partition.len > 1024);
    pieces.extend(partitions.map(|partition| (number_of(&partition.path), partition)));
    let ranges: Vec<Range<u64>> = pieces
        .iter()
        .map(|(_, piece)| piece.start - device.start..piece.start - device.start + piece.len)
        .collect();
    let mounts = device.mounts().map_err(failed)?;
    let (mut free, mut scratch, mut areas) = (Gaps::default(), Vec::new(), Vec::new());
    for ((number, piece), range) in pieces.into_iter().zip(ranges.clone()) {
        let finding = if is_shared(&range, &ranges) {
            Finding::whole("unknown", "it overlaps another partition")
        } else {
            examine(medium, &piece, &range, &mounts, effort).map_err(failed)?
        };
        let tail = range.end.saturating_sub(TAIL_LEN).max(range.start);
        let clip = |gaps: Vec<Range<u64>>| {
            let clipped = gaps
                .into_iter()
                .map(|gap| gap.start.max(range.start)..gap.end.min(tail));
            clipped.filter(|gap| gap.start < gap.end).collect::<Vec<_>>()
        };
        let (found, left_out) = (clip(finding.free), clip(finding.scratch));
        let area_map = UsedMap::new(range.end, found.clone(), left_out.clone());
        areas.push(Area {
            used: area_map
                .used_in(range.clone())
                .iter()
                .map(|part| part.end - part.start)
                .sum(),
            range,
            partition: number,
            kind: finding.kind.to_owned(),
            method: finding.method,
            mounted_at: mounts_of(&mounts, piece.number)
                .first()
                .map(|mount| mount.point.clone()),
        });
        free.extend(found);
        scratch.extend(left_out);
    }
    Ok(Survey {
        map: UsedMap::new(medium.length(), free.longest(), scratch),
        areas,
    })
}

fn whole(medium: &DiskMedium, why: &str) -> Survey {
    Survey {
        map: UsedMap::whole(medium.length()),
        areas: vec![Area {
            range: 0..medium.length(),
            partition: 0,
            kind: "unknown".to_owned(),
            method: Finding::whole("unknown", why).method,
            mounted_at: None,
            used: medium.length(),
        }],
    }
}

/// Whether an area has bytes in common with another one: what is free in one may be used in the other.
fn is_shared(range: &Range<u64>, all: &[Range<u64>]) -> bool {
    let common = all
        .iter()
        .filter(|other| other.start < range.end && range.start < other.end);
    common.count() > 1
}

fn number_of(node: &Path) -> u32 {
    let name = node.to_string_lossy();
    let digits = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[digits..].parse().unwrap_or(0)
}

fn examine(
    medium: &DiskMedium,
    piece: &BlockDevice,
    range: &Range<u64>,
    mounts: &[(DeviceNumber, Mount)],
    effort: Effort,
) -> io::Result<Finding> {
    let holders = piece.holders()?;
    let own = mounts_of(mounts, piece.number);
    let is_nobodys = own.is_empty() && holders.is_empty();
    if is_nobodys && effort != Effort::Look {
        // What was written to the node of a partition, as dd writes an image, may still be in the cache of that node only, past
        // which the disk is read.
        if let Err(error) = File::open(&piece.path).and_then(|node| node.sync_all()) {
            let why = format!("what is in memory of it cannot be written out ({error})");
            return Ok(Finding::whole("unknown", why));
        }
    }
    let mut head = AlignedBuffer::zeroed(HEAD_LEN.min(piece.len as usize / 4096 * 4096));
    if let Err(error) = medium.read(&mut head, range.start) {
        return Ok(Finding::whole(
            "unknown",
            format!("its first bytes cannot be read ({error})"),
        ));
    }
    if !holders.is_empty() {
        return Ok(Finding::whole(
            "stacked",
            format!("used by {}", holders.join(", ")),
        ));
    }
    let found = signatures(&head);
    let [kind] = found[..] else {
        let why = if found.is_empty() {
            "no known file system"
        } else {
            "several signatures"
        };
        return Ok(Finding::whole("unknown", why));
    };
    if own.iter().any(|mount| !kind.is_mounted_as(&mount.kind)) {
        return Ok(Finding::whole(
            kind.name(),
            "the signature does not fit the mount",
        ));
    }
    match (kind, reach(&own)) {
        (Kind::Lvm | Kind::Raid | Kind::Luks | Kind::Zfs | Kind::Bcache, _) => Ok(Finding::whole(
            kind.name(),
            "what is free in it only those know who put it together",
        )),
        (Kind::Swap, _) => Ok(swap_area(piece, &head, range)),
        (kind, None) if !own.is_empty() => Ok(Finding::whole(
            kind.name(),
            "another file system is mounted over it",
        )),
        (Kind::Xfs, Some(_)) if effort == Effort::Frozen && sys::getfsmap::waits_for_thaw() => Ok(
            Finding::whole("xfs", "this kernel does not tell while it is frozen"),
        ),
        (Kind::Ext | Kind::Xfs, Some(point)) => mapped_by_kernel(medium, piece, range, kind, point, effort),
        (Kind::Btrfs, Some(point)) => mapped_by_trees(&head, range, &point),
        (_, None) if piece.is_used() != Some(false) => {
            Ok(Finding::whole(kind.name(), "in use, but not mounted here"))
        }
        (Kind::Ext, None) => mapped_by_own_bitmaps(medium, range),
        (Kind::Xfs | Kind::Btrfs, None) => Ok(Finding::whole(kind.name(), "not mounted here")),
    }
}

/// An ext file system that nobody has mounted.
fn mapped_by_own_bitmaps(medium: &DiskMedium, range: &Range<u64>) -> io::Result<Finding> {
    let len = range.end - range.start;
    let free = ext::free_ranges(medium, range.start, len, ext::Bitmaps::OfUnmounted)?;
    Ok(match free {
        Some(free) => Finding::free("ext", "block bitmaps of the unmounted file system", free),
        None => Finding::whole("ext", "not cleanly unmounted, or of an unusual layout"),
    })
}

fn swap_area(piece: &BlockDevice, head: &[u8], range: &Range<u64>) -> Finding {
    if !swaps().contains(&piece.number) {
        if piece.is_used() != Some(false) {
            return Finding::whole("swap", "in use, but not for swapping");
        }
        if !swap::is_sound(head, piece.len) {
            return Finding::whole(
                "swap",
                "its header is not that of a swap area, only the signature",
            );
        }
    }
    Finding {
        kind: "swap",
        method: "header only".to_owned(),
        free: Vec::new(),
        scratch: std::iter::once(range.start + HEAD_LEN as u64..range.end).collect(),
    }
}

fn mapped_by_trees(head: &[u8], range: &Range<u64>, point: &FreezePoint) -> io::Result<Finding> {
    if !is_btrfs_of(point, head)? {
        return Ok(Finding::whole("btrfs", "the superblock does not fit the mount"));
    }
    point.synchronise()?;
    Ok(match btrfs::free_ranges(&by_descriptor(point), head, range)? {
        Some(free) => Finding::free("btrfs", "extent tree of the mounted file system", free),
        None => Finding::whole(
            "btrfs",
            "its trees cannot be searched or spread over several devices",
        ),
    })
}

fn mapped_by_kernel(
    medium: &DiskMedium,
    piece: &BlockDevice,
    range: &Range<u64>,
    kind: Kind,
    point: FreezePoint,
    effort: Effort,
) -> io::Result<Finding> {
    point.synchronise()?;
    let mut gaps = Gaps::default();
    let absolute = |gap: Range<u64>| range.start + gap.start..range.start + gap.end;
    if sys::getfsmap::each_free(&by_descriptor(&point), piece.number, |gap| {
        gaps.push(absolute(gap));
    })? {
        return Ok(Finding::free(
            kind.name(),
            "GETFSMAP of the mounted file system",
            gaps.longest(),
        ));
    }
    if kind != Kind::Ext {
        return Ok(Finding::whole(kind.name(), "this kernel has no GETFSMAP"));
    }
    if effort == Effort::Look {
        return Ok(Finding::whole(
            kind.name(),
            "this kernel has no GETFSMAP; a copy will freeze it for some milliseconds and read its block bitmaps",
        ));
    }
    mapped_by_bitmaps(medium, range, point)
}

/// Without GETFSMAP a short freeze writes the journal back, so that the bitmaps on the medium are true of that moment. They
/// are read after the thaw: what was allocated since is written since, and marked.
fn mapped_by_bitmaps(medium: &DiskMedium, range: &Range<u64>, point: FreezePoint) -> io::Result<Finding> {
    let kind = Kind::Ext.name();
    match Frozen::freeze(vec![point], std::time::Duration::from_secs(5)) {
        Ok(frozen) => drop(frozen.thaw()?),
        // In the frozen round of a cutover it is frozen already.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        Err(error) => return Err(error),
    }
    let len = range.end - range.start;
    Ok(
        match ext::free_ranges(medium, range.start, len, ext::Bitmaps::WrittenBack)? {
            Some(free) => Finding::free(kind, "block bitmaps after a short freeze", free),
            None => Finding::whole(kind, "no GETFSMAP, and of an unusual layout"),
        },
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ext,
    Xfs,
    Btrfs,
    Swap,
    Lvm,
    Raid,
    Luks,
    Zfs,
    Bcache,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Swap => "swap",
            Self::Lvm => "lvm",
            Self::Raid => "raid",
            Self::Luks => "luks",
            Self::Zfs => "zfs",
            Self::Bcache => "bcache",
        }
    }

    fn is_mounted_as(self, kind: &str) -> bool {
        match self {
            Self::Ext => matches!(kind, "ext2" | "ext3" | "ext4"),
            other => other.name() == kind,
        }
    }
}

fn signatures(head: &[u8]) -> Vec<Kind> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let mut found = Vec::new();
    if ext::is_ext(head) {
        found.push(Kind::Ext);
    }
    if at(0, b"XFSB") {
        found.push(Kind::Xfs);
    }
    if at(65_536 + 64, b"_BHRfS_M") {
        found.push(Kind::Btrfs);
    }
    if swap::page_len(head).is_some() {
        found.push(Kind::Swap);
    }
    // These leave the place of a superblock alone: that of an earlier file system may still be there.
    if (0..4).any(|sector| at(sector * 512, b"LABELONE")) {
        found.push(Kind::Lvm);
    }
    // Magic number of a superblock in front (versions 1.1 and 1.2); one at the end lies behind any file system.
    if [0, 4096].iter().any(|offset| at(*offset, &RAID_MAGIC)) {
        found.push(Kind::Raid);
    }
    if at(0, b"LUKS\xba\xbe") {
        found.push(Kind::Luks);
    }
    // The first 8 KiB it leaves alone; by its maker's byte order.
    if [ZFS_MAGIC.to_le_bytes(), ZFS_MAGIC.to_be_bytes()]
        .iter()
        .any(|magic| at(ZFS_MAGIC_OFFSET, magic))
    {
        found.push(Kind::Zfs);
    }
    if at(4096 + 24, &BCACHE_MAGIC) {
        found.push(Kind::Bcache);
    }
    found
}

#[cfg(test)]
mod tests;
