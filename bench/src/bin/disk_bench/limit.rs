//! A slower disk: the kernel limits how fast this process and its children may read a device.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The kernel's two ways to say it: the folder of the groups, the file with the limits of one, and what the number is called.
const WAYS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/blkio", "blkio.throttle.read_bps_device", ""),
    ("/sys/fs/cgroup", "io.max", "rbps="),
];

/// A control group with this process in it, until dropped.
pub(crate) struct ReadLimit {
    group: PathBuf,
}

impl ReadLimit {
    /// Limits reads of `device` to so many bytes a second.
    pub(crate) fn new(device: &Path, bytes_per_second: u64) -> Result<Self> {
        let number = fs::metadata(device)?.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        for (parent, file, key) in WAYS {
            // The newer way wants to be asked for.
            let _ = fs::write(format!("{parent}/cgroup.subtree_control"), "+io");
            let group = Path::new(parent).join(format!("g2c-block-bench-{}", std::process::id()));
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let limit = Self { group };
            let text = format!("{major}:{minor} {key}{bytes_per_second}");
            if limit.write(file, &text).is_ok() {
                limit.write("cgroup.procs", &std::process::id().to_string())?;
                return Ok(limit);
            }
        }
        anyhow::bail!("this kernel has no control groups that limit reads")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.group.join(file), text).with_context(|| format!("cannot write {file}"))
    }
}

impl Drop for ReadLimit {
    fn drop(&mut self) {
        if let Some(parent) = self.group.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        }
        let _ = fs::remove_dir(&self.group);
    }
}
