//! The kernel's own description of its block trace events.
//!
//! Offsets and sizes of fields differ between kernels: they are parsed from tracefs, never assumed. Where tracefs is
//! not mounted, a private, invisible mount of it is made (5.2 and later) and vanishes with its descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

const TRACEFS_MAGIC: u64 = 0x7472_6163;

/// Where a field lies in the event's record, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) offset: u16,
    pub(crate) size: u16,
}

/// A block event: its number and the fields that a tracker needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEvent {
    pub(crate) id: u64,
    pub(crate) device: Field,
    pub(crate) sector: Field,
    pub(crate) sectors: Field,
    pub(crate) operation: Field,
}

impl BlockEvent {
    /// Reads the description of `block:name`.
    pub(crate) fn look(tracefs: &OwnedFd, name: &str) -> io::Result<Self> {
        let mut text = String::new();
        let path = format!("events/block/{name}/format");
        let file = rustix::fs::openat(tracefs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).read_to_string(&mut text)?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::other(format!("the kernel describes block:{name} in an unknown way")))
    }

    fn parse(text: &str) -> Option<Self> {
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("ID: "))?
            .trim()
            .parse()
            .ok()?;
        let event = Self {
            id,
            device: field(text, "dev")?,
            sector: field(text, "sector")?,
            sectors: field(text, "nr_sector")?,
            operation: field(text, "rwbs")?,
        };
        (event.device.size == 4 && event.sector.size == 8 && event.sectors.size == 4).then_some(event)
    }
}

fn field(text: &str, name: &str) -> Option<Field> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?.rsplit(' ').next()?;
        if declared.split('[').next()? != name {
            return None;
        }
        let mut number = |label: &str| parts.next()?.strip_prefix(label)?.parse().ok();
        Some(Field {
            offset: number("offset:")?,
            size: number("size:")?,
        })
    })
}

/// Opens tracefs.
pub(crate) fn open_tracefs() -> io::Result<OwnedFd> {
    for path in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        let Ok(directory) = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        if is_tracefs(&directory) {
            return Ok(directory);
        }
    }
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn is_tracefs(directory: &OwnedFd) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|facts| facts.f_type as u64 == TRACEFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE_6_18: &str = "name: block_rq_complete\nID: 2107\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:int error;\toffset:28;\tsize:4;\tsigned:1;\n\
        \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\
        \tfield:__data_loc char[] cmd;\toffset:44;\tsize:4;\tsigned:0;\n\nprint fmt: \"%d,%d\"\n";

    #[test]
    fn the_format_text_is_parsed() {
        let event = BlockEvent::parse(COMPLETE_6_18).unwrap();
        assert_eq!(event.id, 2107);
        assert_eq!(event.sector, Field { offset: 16, size: 8 });
        assert_eq!(event.operation, Field { offset: 34, size: 10 });
        assert_eq!(
            BlockEvent::parse(&COMPLETE_6_18.replace("nr_sector", "other")),
            None
        );
    }

    #[test]
    fn the_running_kernel_describes_its_events() {
        let tracefs = open_tracefs().unwrap();
        for name in ["block_bio_queue", "block_rq_complete", "block_bio_complete"] {
            assert!(BlockEvent::look(&tracefs, name).unwrap().id > 0);
        }
    }
}
