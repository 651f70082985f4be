//! Free space of an ext2, ext3 or ext4 file system from its block bitmaps: one that nobody has mounted, or one that has just
//! written them back.
//!
//! Layout facts from the kernel's documentation of ext4 (Documentation/filesystems/ext4). Whatever is unusual (journal
//! to be replayed, errors, meta block groups, journal devices) answers `None`: then the whole file system is copied.

use std::io;
use std::ops::Range;

use sys::aligned::AlignedBuffer;

use crate::disk::medium::Medium;
use crate::disk::used_map::gaps::Gaps;

const SUPERBLOCK_OFFSET: u64 = 1024;
const MAGIC: u16 = 0xef53;
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_COMPAT_CHECKSUMS: u32 = 0x10 | 0x400;
const GROUP_BLOCKS_UNINITIALISED: u16 = 0x2;

/// Whether the first bytes of a partition (at least 2048) hold the superblock of an ext file system.
pub fn is_ext(head: &[u8]) -> bool {
    head.len() >= 2048 && u16_at(head, SUPERBLOCK_OFFSET as usize + 56) == MAGIC
}

/// Where the file system ends, in bytes from its start; `None` when the superblock is implausible.
pub fn end(head: &[u8]) -> Option<u64> {
    let superblock = Superblock::parse(head)?;
    superblock.blocks.checked_mul(superblock.block_len)
}

/// Why the bitmaps on the medium are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bitmaps {
    /// Nobody has it mounted, and the superblock says that it was unmounted cleanly.
    OfUnmounted,
    /// It is mounted, and a freeze wrote everything back; the superblock says again by now that it is in use.
    WrittenBack,
}

/// Free byte ranges of the file system at `start` of `medium`, absolute on the medium; `None` when they cannot be told.
///
/// # Errors
/// The medium cannot be read.
pub fn free_ranges(
    medium: &dyn Medium,
    start: u64,
    len: u64,
    bitmaps: Bitmaps,
) -> io::Result<Option<Vec<Range<u64>>>> {
    let mut head = AlignedBuffer::zeroed(4096);
    medium.read(&mut head, start)?;
    let Some(superblock) = Superblock::parse(&head) else {
        return Ok(None);
    };
    if !superblock.is_plain(bitmaps) || superblock.blocks.saturating_mul(superblock.block_len) > len {
        return Ok(None);
    }
    let Some(groups) = superblock.read_groups(medium, start)? else {
        return Ok(None);
    };
    let mut metadata: Vec<Range<u64>> = groups
        .iter()
        .flat_map(|group| superblock.metadata_of(group))
        .collect();
    metadata.sort_unstable_by_key(|range| range.start);
    let mut gaps = Gaps::default();
    let mut free = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        superblock.free_in_group(medium, start, number as u64, group, &mut free)?;
        for range in free.drain(..) {
            subtract(range, &metadata, |part| {
                let [from, to] = [part.start, part.end].map(|block| start + block * superblock.block_len);
                gaps.push(from..to);
            });
        }
    }
    Ok(Some(gaps.longest()))
}

/// Calls `visit` with the parts of `range` that are outside of all `taken` ranges, which are in ascending order.
fn subtract(range: Range<u64>, taken: &[Range<u64>], mut visit: impl FnMut(Range<u64>)) {
    let mut at = range.start;
    let first = taken.partition_point(|taken| taken.end <= range.start);
    for taken in taken[first..].iter().take_while(|taken| taken.start < range.end) {
        if taken.start > at {
            visit(at..taken.start);
        }
        at = at.max(taken.end);
    }
    if at < range.end {
        visit(at..range.end);
    }
}

struct Superblock {
    block_len: u64,
    blocks: u64,
    first_data_block: u64,
    blocks_per_group: u64,
    cluster_blocks: u64,
    inodes_per_group: u64,
    inode_len: u64,
    descriptor_len: usize,
    reserved_descriptor_blocks: u64,
    state: u16,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    backup_groups: [u64; 2],
}

/// Where a group's metadata lie, in blocks.
struct Group {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    flags: u16,
}

impl Superblock {
    fn parse(head: &[u8]) -> Option<Self> {
        if !is_ext(head) {
            return None;
        }
        let s = &head[SUPERBLOCK_OFFSET as usize..];
        let (log_block, log_cluster) = (u32_at(s, 24), u32_at(s, 28));
        let incompat = u32_at(s, 96);
        let wide = incompat & INCOMPAT_64BIT != 0;
        let blocks = u64::from(u32_at(s, 4)) | if wide { u64::from(u32_at(s, 336)) << 32 } else { 0 };
        let revision = u32_at(s, 76);
        let superblock = Self {
            block_len: 1024u64.checked_shl(log_block)?,
            blocks,
            first_data_block: u64::from(u32_at(s, 20)),
            blocks_per_group: u64::from(u32_at(s, 32)),
            cluster_blocks: 1u64.checked_shl(log_cluster.checked_sub(log_block)?)?,
            inodes_per_group: u64::from(u32_at(s, 40)),
            inode_len: if revision == 0 {
                128
            } else {
                u64::from(u16_at(s, 88))
            },
            descriptor_len: if wide { usize::from(u16_at(s, 254)) } else { 32 },
            reserved_descriptor_blocks: u64::from(u16_at(s, 206)),
            state: u16_at(s, 58),
            compat: u32_at(s, 92),
            incompat,
            ro_compat: u32_at(s, 100),
            backup_groups: [u64::from(u32_at(s, 0x24c)), u64::from(u32_at(s, 0x250))],
        };
        let plausible = log_block <= 6
            && log_cluster - log_block <= 20
            && superblock.blocks > superblock.first_data_block
            && superblock.first_data_block <= 1
            && superblock
                .blocks_per_group
                .is_multiple_of(superblock.cluster_blocks)
            && (1..=superblock.block_len * 8)
                .contains(&(superblock.blocks_per_group / superblock.cluster_blocks))
            && (32..=1024).contains(&superblock.descriptor_len);
        plausible.then_some(superblock)
    }

    fn is_plain(&self, bitmaps: Bitmaps) -> bool {
        let has = |features| self.incompat & features != 0;
        let is_in_use = has(INCOMPAT_RECOVER) || self.state & STATE_CLEAN == 0;
        !has(INCOMPAT_JOURNAL_DEVICE | INCOMPAT_META_BG)
            && self.state & STATE_ERRORS == 0
            && (bitmaps == Bitmaps::WrittenBack || !is_in_use)
    }

    fn group_count(&self) -> u64 {
        (self.blocks - self.first_data_block).div_ceil(self.blocks_per_group)
    }

    fn descriptor_blocks(&self) -> u64 {
        (self.group_count() * self.descriptor_len as u64).div_ceil(self.block_len)
    }

    fn read_groups(&self, medium: &dyn Medium, start: u64) -> io::Result<Option<Vec<Group>>> {
        let mut table = AlignedBuffer::zeroed((self.descriptor_blocks() * self.block_len) as usize);
        read(
            medium,
            &mut table,
            start + (self.first_data_block + 1) * self.block_len,
        )?;
        let wide = self.descriptor_len >= 64;
        let mut groups = Vec::new();
        for d in table
            .chunks_exact(self.descriptor_len)
            .take(self.group_count() as usize)
        {
            let block = |low: usize| {
                u64::from(u32_at(d, low))
                    | if wide {
                        u64::from(u32_at(d, low + 32)) << 32
                    } else {
                        0
                    }
            };
            let group = Group {
                block_bitmap: block(0),
                inode_bitmap: block(4),
                inode_table: block(8),
                flags: u16_at(d, 18),
            };
            if [group.block_bitmap, group.inode_bitmap, group.inode_table]
                .iter()
                .any(|at| *at >= self.blocks)
            {
                return Ok(None);
            }
            groups.push(group);
        }
        Ok(Some(groups))
    }

    fn metadata_of(&self, group: &Group) -> [Range<u64>; 3] {
        let table_blocks = (self.inodes_per_group * self.inode_len).div_ceil(self.block_len);
        [
            group.block_bitmap..group.block_bitmap + 1,
            group.inode_bitmap..group.inode_bitmap + 1,
            group.inode_table..group.inode_table + table_blocks,
        ]
    }

    /// The free blocks of one group, appended.
    fn free_in_group(
        &self,
        medium: &dyn Medium,
        start: u64,
        number: u64,
        group: &Group,
        free: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let first = self.first_data_block + number * self.blocks_per_group;
        let end = (first + self.blocks_per_group).min(self.blocks);
        let lazy = self.ro_compat & RO_COMPAT_CHECKSUMS != 0 && group.flags & GROUP_BLOCKS_UNINITIALISED != 0;
        if lazy {
            let backup = if self.has_backup(number) {
                1 + self.descriptor_blocks() + self.reserved_descriptor_blocks
            } else {
                0
            };
            if first + backup < end {
                free.push(first + backup..end);
            }
            return Ok(());
        }
        let mut bitmap = AlignedBuffer::zeroed(self.block_len as usize);
        read(medium, &mut bitmap, start + group.block_bitmap * self.block_len)?;
        for cluster in 0..(end - first).div_ceil(self.cluster_blocks) {
            if bitmap[(cluster / 8) as usize] >> (cluster % 8) & 1 == 1 {
                continue;
            }
            let at = first + cluster * self.cluster_blocks;
            let range = at..(at + self.cluster_blocks).min(end);
            match free.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => free.push(range),
            }
        }
        Ok(())
    }

    /// Whether a group begins with a copy of the superblock and the descriptors.
    fn has_backup(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return group == 0 || self.backup_groups.contains(&group);
        }
        group <= 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 || [3, 5, 7].into_iter().any(power_of)
    }
}

/// Reads a range that may not be a multiple of the medium's sector, by reading around it.
fn read(medium: &dyn Medium, to: &mut [u8], offset: u64) -> io::Result<()> {
    let first = offset / 4096 * 4096;
    let end = (offset + to.len() as u64)
        .next_multiple_of(4096)
        .min(medium.length());
    let mut around = AlignedBuffer::zeroed((end - first) as usize);
    medium.read(&mut around, first)?;
    let skip = (offset - first) as usize;
    to.copy_from_slice(&around[skip..skip + to.len()]);
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
