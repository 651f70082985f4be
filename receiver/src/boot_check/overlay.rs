//! A copy-on-write overlay over a disk that is only read, or over the past of one that is being written. QEMU's storage daemon shows it as a file, so that it can be
//! mounted and converted before the machine starts, on kernels without network block devices too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use transfer::{Error, Kind, Result};

use crate::convert::probe::tool;
use crate::limits::PROBE_TIME_MAX;

/// An overlay.
pub(super) struct Overlay {
    /// The overlay's file.
    pub(super) path: PathBuf,
    len: u64,
}

/// What lies below an overlay.
pub(super) enum Below<'a> {
    /// A disk that nobody writes meanwhile.
    Disk(&'a Path),
    /// The socket of [`super::nbd`].
    Past(&'a Path),
}

impl Below<'_> {
    /// As QEMU calls it.
    fn name(&self) -> Result<String> {
        match self {
            Self::Disk(disk) => fs::canonicalize(disk)
                .map(|disk| disk.display().to_string())
                .map_err(|error| Error::io("find the disk", *disk, error)),
            Self::Past(socket) => {
                let server = serde_json::json!({ "type": "unix", "path": socket });
                let file = serde_json::json!({ "driver": "nbd", "server": server });
                let name = serde_json::json!({ "driver": "raw", "file": file });
                Ok(format!("json:{name}"))
            }
        }
    }
}

/// The overlay's content as a raw file, until it is dropped.
pub(super) struct Export {
    /// The file.
    pub(super) path: PathBuf,
    daemon: Child,
}

impl Overlay {
    /// Makes an empty overlay at `path`.
    pub(super) fn new(below: &Below<'_>, path: &Path) -> Result<Self> {
        let (below, above) = (below.name()?, path.display().to_string());
        tool(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", &below, "-F", "raw", &above],
            None,
        )?;
        let text = tool("qemu-img", &["info", "--output", "json", &above], None)?.unwrap_or_default();
        let info: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let len = info["virtual-size"].as_u64().unwrap_or(0);
        Ok(Self {
            path: path.to_owned(),
            len,
        })
    }

    /// Shows the overlay as a raw file beside it.
    pub(super) fn export(&self) -> Result<Export> {
        let path = self.path.with_extension("raw");
        fs::write(&path, b"").map_err(|error| Error::io("make a mount point", &path, error))?;
        let node = format!(
            "driver=qcow2,node-name=overlay,discard=unmap,file.driver=file,file.filename={}",
            self.path.display()
        );
        let export = format!(
            "type=fuse,id=export,node-name=overlay,mountpoint={},writable=on",
            path.display()
        );
        let mut command = Command::new("qemu-storage-daemon");
        command
            .args(["--blockdev", &node, "--export", &export])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        sys::child::end_with_parent(&mut command);
        let failed = |why: String| {
            Error::new(Kind::Usage, "show the overlay as a file")
                .on(&self.path)
                .because(why)
                .remedy("install QEMU's tools and check /dev/fuse")
        };
        let daemon = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut export = Export { path, daemon };
        let deadline = Instant::now() + PROBE_TIME_MAX;
        while !fs::metadata(&export.path).is_ok_and(|metadata| metadata.len() == self.len && self.len > 0) {
            let ended = export.daemon.try_wait().ok().flatten();
            if let Some(status) = ended {
                return Err(failed(status.to_string()));
            }
            if Instant::now() > deadline {
                return Err(failed("it does not appear".to_owned()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(export)
    }

    /// Removes the overlay.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(self.path);
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Asked to end, the daemon writes out what it holds.
        if let Ok(pid) = i32::try_from(self.daemon.id()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.daemon.wait();
        let _ = fs::remove_file(&self.path);
    }
}
