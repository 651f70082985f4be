//! Whether a disk or an image file was written to while nobody looked, without reading it.
//!
//! Every write to a file moves its times, those through a loop device, too; and the kernel counts what is written to a
//! block device for as long as it is attached. Both say nothing of a medium that was exchanged or attached anew: then
//! [`Sighting::medium`] is another one.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::block_device::{BlockDevice, read_text};

/// What a medium shows of itself at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Which medium it is: a file, or a device for as long as it is attached.
    pub medium: String,
    /// Moves on with every write to it.
    pub written: String,
}

impl Sighting {
    /// Looks at a block device or a file; `None` where the system does not tell enough.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        Ok(match BlockDevice::look(path)? {
            Some(device) => of_device(&device).ok().flatten(),
            None => of_file(&std::fs::metadata(path)?),
        })
    }
}

fn of_file(metadata: &Metadata) -> Option<Sighting> {
    let born = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Sighting {
        medium: format!("file {} of {}", metadata.ino(), born.as_nanos()),
        written: format!(
            "{} bytes, {}.{}, {}.{}",
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        ),
    })
}

/// The sequence number of a disk (Linux 5.15) is never given twice between two boots.
fn of_device(device: &BlockDevice) -> io::Result<Option<Sighting>> {
    let whole = device.disk.sysfs();
    let does_count = read_text(&whole.join("queue/iostats"))?;
    if does_count.trim() != "1" {
        return Ok(None);
    }
    let sequence = read_text(&whole.join("diskseq"))?;
    let boot = read_text(Path::new("/proc/sys/kernel/random/boot_id"))?;
    let counters = read_text(&device.number.sysfs().join("stat"))?;
    Ok(parse_counters(&counters).map(|written| Sighting {
        medium: format!(
            "disk {} of boot {}, {} bytes from {}",
            sequence.trim(),
            boot.trim(),
            device.len,
            device.start
        ),
        written,
    }))
}

/// Sectors written and discarded (Documentation/block/stat.rst): these are counted before a request is answered.
fn parse_counters(text: &str) -> Option<String> {
    let mut fields = text.split_ascii_whitespace();
    let written = fields.nth(6)?;
    // Before Linux 4.18 discards count as writes.
    let discarded = fields.nth(6).unwrap_or("0");
    Some(format!("{written} and {discarded}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_where_the_kernel_has_them() {
        let text = "  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";
        assert_eq!(parse_counters(text).unwrap(), "7 and 14");
        assert_eq!(parse_counters("1 2 3 4 5 6 7 8 9 10 11").unwrap(), "7 and 0");
        assert_eq!(parse_counters("1 2"), None);
    }

    #[test]
    fn a_write_is_seen_and_a_look_is_not() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [1; 8192]).unwrap();
        let first = Sighting::of(&path).unwrap().unwrap();
        std::fs::read(&path).unwrap();
        assert_eq!(Sighting::of(&path).unwrap().unwrap(), first);
        // The clock of a file system may tick every 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 4000).unwrap();
        let second = Sighting::of(&path).unwrap().unwrap();
        assert!(second.medium == first.medium && second.written != first.written);
        std::fs::copy(&path, folder.path().join("other")).unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_ne!(Sighting::of(&path).unwrap().unwrap().medium, first.medium);
        assert!(Sighting::of(&folder.path().join("none")).is_err());
    }
}
