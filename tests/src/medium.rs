//! File systems of one's own to test on: an image in a temporary file, mounted through a loop device.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted and deleted when dropped, also when the test panics.
#[derive(Debug)]
pub struct Medium {
    folder: tempfile::TempDir,
}

/// What the file system is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext4, without project ids: not every kernel mounts it with them.
    Ext4,
    /// XFS, with project ids; needs 300 MiB.
    Xfs,
    /// btrfs; needs 120 MiB.
    Btrfs,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    fn mkfs(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=1"],
            Self::Xfs => &["mkfs.xfs", "-q", "-f"],
            Self::Btrfs => &["mkfs.btrfs", "-q", "-f"],
        }
    }
}

impl Medium {
    /// Makes and mounts a file system of `len_mib` MiB. The image is sparse: it costs what is written to it.
    ///
    /// # Errors
    /// No room, or `mkfs` or `mount` failed or is not installed; the message carries what they said.
    pub fn new(format: Format, len_mib: u64) -> io::Result<Self> {
        Self::with_options(format, len_mib, &[])
    }

    /// The same with further arguments for `mkfs`.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_options(format: Format, len_mib: u64, options: &[&str]) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("go2cloud-medium-").tempdir()?;
        let image = folder.path().join("image");
        File::create(&image)?.set_len(len_mib << 20)?;
        let (program, arguments) = format.mkfs().split_first().expect("every format names its mkfs");
        run(Command::new(program).args(arguments).args(options).arg(&image))?;
        let medium = Self { folder };
        std::fs::create_dir(medium.path())?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(medium.path()))?;
        Ok(medium)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// The device below it, for instance `/dev/loop3`.
    ///
    /// # Errors
    /// `findmnt` failed.
    pub fn device(&self) -> io::Result<PathBuf> {
        let output = Command::new("findmnt")
            .args(["-no", "SOURCE"])
            .arg(self.path())
            .output()?;
        Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).to_owned())
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // Lazily, so that a process that a failed test left behind cannot keep it mounted.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| {
        io::Error::other(format!(
            "cannot run {:?}: {error}; install it",
            command.get_program()
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
