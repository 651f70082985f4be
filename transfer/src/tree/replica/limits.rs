//! Bounds of the replica, with the sums that justify them.

use crate::limits;

/// Digests in one `Chunks` record and in one sealed group: 32 KiB of digests, half a block.
pub const GROUP_LEN: usize = 1024;

/// Highest chunk number plus one. 2^43 chunks of 1 MiB are the largest file of any Linux file system (8 EiB).
pub(super) const CHUNK_NUMBER_MAX: u64 = 1 << 43;

/// Digests read at once: 2 GiB of them speak of 64 TiB in chunks of 1 MiB.
pub(super) const CHUNKS_READ_MAX: u64 = 1 << 26;

/// Ranges in one `Intent`: a frame names no more, 16 bytes each.
pub(super) const INTENT_RANGES_MAX: usize = 4096;

/// Groups that one `Intent` may reach into before it is taken for the whole file: 1 GiB of digests is beyond any one
/// frame, so a longer one is a sign of damage.
pub(super) const INTENT_GROUPS_MAX: u64 = 4096;

/// Longest serialised record, in bytes: an entry, or two paths, or a group of digests.
pub(super) const RECORD_LEN_MAX: usize = limits::ENTRY_LEN_MAX + 2 * limits::PATH_LEN_MAX;

/// Raw bytes after which a block of a run is closed.
pub(super) const BLOCK_RAW_LEN_TARGET: usize = 64 * 1024;

/// Longest key: every byte of a path may be a separator of two bytes, and a chunk group adds nine.
pub(super) const KEY_LEN_MAX: usize = 2 * limits::PATH_LEN_MAX + 16;

/// Longest raw block: the target and one item more.
pub(super) const BLOCK_RAW_LEN_MAX: usize = BLOCK_RAW_LEN_TARGET + KEY_LEN_MAX + RECORD_LEN_MAX + 64;

/// Raw bytes gathered before a batch of the log is written.
pub(super) const BATCH_RAW_LEN_TARGET: usize = 256 * 1024;

/// Longest raw batch: the target and one record more.
pub(super) const BATCH_RAW_LEN_MAX: usize = BATCH_RAW_LEN_TARGET + RECORD_LEN_MAX + 16;

/// Memory of one external sort before it spills to disk, in bytes.
pub(super) const SORT_MEMORY_LEN: usize = 24 * 1024 * 1024;

/// Spilled files merged at once: each needs a reader of some 200 KiB.
pub(super) const SPILLS_MAX: usize = 64;

/// Renames applied in one sweep over the older state; more take further sweeps.
pub(super) const RENAMES_PER_SWEEP_MAX: usize = 16 * 1024;

/// Runs beyond which the overlays are merged: each costs a lookup.
pub(super) const RUNS_MAX: usize = 8;

/// Runs beyond which they are merged even after a crash, when it is better to keep them apart.
pub(super) const RUNS_UNMERGED_MAX: usize = 4 * RUNS_MAX;

/// Runs that a manifest may name. Sealing merges at `RUNS_MAX`; only a log with chained renames makes more in between.
pub(super) const MANIFEST_RUNS_MAX: usize = 1024;

/// Longest manifest, in bytes: 1024 runs of some 150 bytes.
pub(super) const MANIFEST_LEN_MAX: usize = 256 * 1024;

/// Longest piece of an export, in bytes.
pub const EXPORT_PIECE_LEN_MAX: usize = 1024 * 1024;

const _: () = assert!(MANIFEST_LEN_MAX < EXPORT_PIECE_LEN_MAX);
const _: () = assert!(GROUP_LEN * 32 + 64 < RECORD_LEN_MAX);
const _: () = assert!(INTENT_RANGES_MAX * 20 + limits::PATH_LEN_MAX < RECORD_LEN_MAX);
