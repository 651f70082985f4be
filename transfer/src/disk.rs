//! The disk engine: block devices, chunk by chunk.
//!
//! A disk is copied in 64 KiB chunks. The source attaches a tracker, takes the map of what is used, reads the used
//! chunks with `O_DIRECT`, and sends those whose digest is not the one that the target holds. Later rounds read only
//! what the tracker marked, or everything again where there is no tracker. In a cutover the file systems are frozen for
//! the last round. The target writes, journals and acknowledges; it can re-read its medium and compare.

pub mod digest;
pub mod digest_file;
pub mod gpt;
pub mod identity;
pub mod medium;
pub mod message;
pub mod source;
pub mod target;
pub mod used_map;
