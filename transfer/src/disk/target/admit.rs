//! Whether a disk may be written to. Everything that could destroy somebody's system by mistake is refused here.

use std::path::Path;

use sys::aligned::AlignedBuffer;
use sys::block_device::Access;

use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::message::{DiskFacts, is_zero};
use crate::disk::target::DiskTarget;
use crate::disk::target::image::check_tool;
use crate::error::{Error, Kind, Result};

/// Bytes looked at from both ends of a disk: partition tables and the superblocks of every usual file system.
const LOOK_LEN: u64 = 1 << 20;

/// An admitted disk.
#[derive(Debug)]
pub struct Admitted {
    /// Open for writing; nobody else has it in use.
    pub medium: DiskMedium,
    /// Whether it reads as zeros everywhere: an image file that was made just now.
    pub is_blank: bool,
    /// What it is.
    pub standing: Standing,
}

/// What is known of a disk that is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What it holds is our own earlier work.
    Ours,
    /// It was, but somebody else wrote to it since.
    Changed,
    /// The journal speaks of a copy, and this is not it.
    Replaced,
    /// Nothing.
    New,
}

/// Opens a disk for a copy of `source`. Once nobody else can write to it, `look` says what it is.
///
/// # Errors
/// In use, too small, of a larger sector size, read-only, or holding something while `overwrite` is not set; those of `look`.
pub fn admit(
    target: &DiskTarget,
    source: &DiskFacts,
    look: impl FnOnce(&DiskMedium) -> Result<Standing>,
) -> Result<Admitted> {
    let path = &target.copy_path();
    if let Some(image) = target.image() {
        check_tool(image)?;
        if image.exists() && !path.exists() && !target.overwrite {
            return Err(Error::new(Kind::Usage, "replace an image that is not ours")
                .on(image)
                .remedy("make sure that it is the right one, then allow it with --overwrite"));
        }
    }
    let is_new = make_image(path)?;
    let mut medium = DiskMedium::open(path, Access::WriteExclusive).map_err(|error| busy(path, error))?;
    medium.claim()?;
    check_sectors(&medium, source)?;
    medium = medium.with_sector_len(source.sector_len);
    let standing = if is_new { Standing::New } else { look(&medium)? };
    let is_ours = matches!(standing, Standing::Ours | Standing::Changed);
    let is_empty_file = medium.device.is_none() && medium.length() == 0;
    let may_grow = is_empty_file || is_ours || target.overwrite;
    if medium.device.is_none() && medium.length() < source.len && may_grow {
        medium
            .set_len(source.len)
            .map_err(|error| Error::io("give the image file its length", path, error))?;
    }
    if medium.length() < source.needed_len {
        return Err(Error::new(Kind::Usage, "copy onto a disk that is too small")
            .on(path)
            .remedy(format!(
                "this disk has {} bytes, the source {}, of which the first {} are needed (to the end of the last \
                 partition or file system); use a disk that is larger by {} bytes at least, or make the last file system \
                 and its partition smaller (ext4, not mounted: e2fsck -f, resize2fs PARTITION SIZE, then parted resizepart)",
                medium.length(),
                source.len,
                source.needed_len,
                source.needed_len - medium.length()
            )));
    }
    if !is_ours && !target.overwrite && !is_new && !is_empty_file {
        refuse_unless_blank(&medium, path, standing)?;
    }
    Ok(Admitted {
        medium,
        is_blank: is_new || is_empty_file,
        standing,
    })
}

/// Makes a missing image file; never a file below /dev, where a missing name is a mistake.
fn make_image(path: &Path) -> Result<bool> {
    if path.exists() {
        return Ok(false);
    }
    if path.starts_with("/dev") {
        return Err(Error::new(Kind::Usage, "find the target disk")
            .on(path)
            .remedy("check the name: lsblk lists the disks"));
    }
    // Its name must be durable before anything in it is called so.
    let make = || {
        std::fs::File::create_new(path)?.sync_all()?;
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => std::fs::File::open(".")?.sync_all(),
        }
    };
    make()
        .map(|()| true)
        .map_err(|error| Error::io("make the image file", path, error))
}

fn busy(path: &Path, error: Error) -> Error {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::ResourceBusy) {
        return Error::new(Kind::Usage, "write to a disk that is in use")
            .on(path)
            .remedy(
                "unmount its file systems, switch off its swap and what is stacked on it; lsblk shows them",
            );
    }
    error
}

fn check_sectors(medium: &DiskMedium, source: &DiskFacts) -> Result<()> {
    let plausible = source.sector_len.is_power_of_two() && (512..=65_536).contains(&source.sector_len);
    let fits = source.len.is_multiple_of(512) && (1..=source.len).contains(&source.needed_len);
    if !plausible || !fits {
        return Err(Error::new(
            Kind::Corrupt,
            "believe the source's description of its disk",
        ));
    }
    let target_sector = medium.sector_len();
    if medium.device.as_ref().is_some_and(|device| device.read_only) {
        return Err(Error::new(Kind::Usage, "write to a read-only disk").on(&medium.path));
    }
    if medium.device.is_some() && target_sector != u64::from(source.sector_len) {
        return Err(Error::new(Kind::Usage, "copy between disks of different sector sizes")
            .on(&medium.path)
            .remedy(format!(
                "the source has sectors of {} bytes, this disk of {target_sector}: partition tables and file systems \
                 would not be understood; use a disk with the same sector size or an image file",
                source.sector_len
            )));
    }
    Ok(())
}

fn refuse_unless_blank(medium: &DiskMedium, path: &Path, standing: Standing) -> Result<()> {
    let remedy = match standing {
        Standing::Replaced => {
            "it is not the copy that was begun here, as its content shows: make sure that it is the right disk, then allow it \
             with --overwrite"
        }
        _ => "make sure that it is the right one, then allow it with --overwrite",
    };
    let len = LOOK_LEN.min(medium.length());
    for start in [0, (medium.length() - len) / 4096 * 4096] {
        let mut bytes = AlignedBuffer::zeroed(len.min(medium.length() - start) as usize);
        medium
            .read(&mut bytes, start)
            .map_err(|error| Error::io("look at what the disk holds", path, error))?;
        if !is_zero(&bytes) {
            return Err(
                Error::new(Kind::Usage, "write to a disk that already holds something")
                    .on(path)
                    .remedy(remedy),
            );
        }
    }
    Ok(())
}
