//! Every bound of the data plane in one place, with the sum that justifies it.

/// Longest path from the volume's root, in bytes. PATH_MAX (4096) bounds one system call, not a path: deeper trees are
/// walked directory by directory. 64 KiB is 256 levels of 255-byte names.
pub const PATH_LEN_MAX: usize = 64 * 1024;

/// Longest name of one entry, in bytes: NAME_MAX of every Linux file system.
pub const NAME_LEN_MAX: usize = 255;

/// Largest extended attribute value the kernel accepts (XATTR_SIZE_MAX), in bytes.
pub const XATTR_VALUE_LEN_MAX: usize = 64 * 1024;

/// Largest number of extended attributes of one entry: XATTR_LIST_MAX (64 KiB) holds no more names of 16 bytes.
pub const XATTR_COUNT_MAX: usize = 4096;

/// A regular file up to this size travels whole inside a frame, in bytes; a longer one travels in chunks.
pub const WHOLE_FILE_LEN_MAX: u64 = 1024 * 1024;

/// Smallest chunk of a long file, in bytes: the granularity at which a later round finds and sends changes.
pub const CHUNK_LEN_MIN: u64 = 64 * 1024;

/// Largest chunk of a long file, in bytes.
pub const CHUNK_LEN_MAX: u64 = 1024 * 1024;

/// Number of chunks above which a longer chunk is chosen: 256 Ki digests of 32 bytes are 8 MiB a file.
pub const CHUNK_COUNT_SOFT_MAX: u64 = 256 * 1024;

/// Number of chunks up to which a file's changes travel alone, a longer one is sent whole: 1 TiB. The digests of the file and
/// those of what the target holds take 64 bytes a chunk while it is sent, here 64 MiB; those of the file alone 32.
pub const CHUNK_COUNT_DELTA_MAX: u64 = 4 * CHUNK_COUNT_SOFT_MAX;

/// Raw bytes gathered before a frame is closed.
pub const FRAME_RAW_LEN_TARGET: usize = 2 * 1024 * 1024;

/// Largest raw payload of a frame, in bytes: the target, one whole file more, and the metadata of the last entry
/// (4096 attributes cannot all be 64 KiB: file systems hold at most 64 KiB in all per entry, except XFS, whose
/// attributes are refused above `ENTRY_LEN_MAX`).
pub const FRAME_RAW_LEN_MAX: usize = 8 * 1024 * 1024;

/// Largest serialised entry, in bytes.
pub const ENTRY_LEN_MAX: usize = 2 * 1024 * 1024;

/// Directories with changes that a tracker keeps until a round looks at them: of about 120 bytes each, 16 MiB. With more
/// of them a sweep is no slower.
pub const TRACKED_DIRECTORIES_MAX: usize = 128 * 1024;

/// Connections of one session.
pub const CONNECTIONS_MAX: usize = 16;

const _: () =
    assert!(FRAME_RAW_LEN_TARGET + WHOLE_FILE_LEN_MAX as usize + 2 * ENTRY_LEN_MAX < FRAME_RAW_LEN_MAX);
const _: () = assert!(CHUNK_LEN_MIN.is_power_of_two() && CHUNK_LEN_MAX.is_power_of_two());
