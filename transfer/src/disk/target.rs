//! The target side of the disk engine: admit disks, write what was verified, journal what is durable, re-read it.
//!
//! The way of a frame: [`batch`] decodes and verifies it, [`store`] writes it, a checkpoint makes it durable and tells
//! the [`journal`], and the [`session`] acknowledges it. Meanwhile somebody may look at the disks as they were: [`past`].

pub mod admit;
pub mod batch;
pub mod image;
pub mod journal;
pub mod past;
pub mod session;
pub mod store;
pub mod verify;

use std::path::{Path, PathBuf};

/// A disk that receives a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTarget {
    /// A block device, or an image file, which is made when missing.
    pub path: PathBuf,
    /// Whether what the disk holds now may be lost.
    pub overwrite: bool,
}

impl DiskTarget {
    /// The image that is made of the copy when it is complete; `None` when the copy itself is what is wanted.
    pub fn image(&self) -> Option<&Path> {
        let is_image = self
            .path
            .extension()
            .is_some_and(|extension| extension == "qcow2");
        is_image.then_some(self.path.as_path())
    }

    /// Where the copy lies: beside the image that is made of it, or what was named.
    pub fn copy_path(&self) -> PathBuf {
        match self.image() {
            Some(image) => image.with_extension("qcow2.raw"),
            None => self.path.clone(),
        }
    }
}
