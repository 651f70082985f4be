//! The target side of the disk engine: admit disks, write what was verified, journal what is durable, re-read it.
//!
//! The way of a frame: [`batch`] decodes and verifies it, [`store`] writes it, a checkpoint makes it durable and tells
//! the [`journal`], and the [`session`] acknowledges it.

pub mod admit;
pub mod batch;
pub mod journal;
pub mod session;
pub mod store;
pub mod verify;

use std::path::PathBuf;

/// A disk that receives a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTarget {
    /// A block device, or an image file, which is made when missing.
    pub path: PathBuf,
    /// Whether what the disk holds now may be lost.
    pub overwrite: bool,
}
