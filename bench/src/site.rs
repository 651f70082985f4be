//! Where a benchmark happens: its folder, the programs under test, keys, and the network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::{TempDir, TempPath};

use crate::RunArgs;
use crate::network::{Link, Network, run, run_for};
use crate::tool::Job;

/// Size of a target volume in bytes; most of it a hole.
const VOLUME_LEN: u64 = 12 << 30;

/// A mounted target volume.
#[derive(Debug)]
pub(crate) struct Volume {
    path: PathBuf,
}

impl Volume {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // If it stays mounted, making the next one fails and says so. The loop device goes with the mount.
        let _ = run("umount", [self.path.as_os_str()]);
    }
}

/// Everything that a copy needs besides its data.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    programs: PathBuf,
    /// The disk that the target's file systems are made on, one after the other.
    image: TempPath,
    /// Further flags of `go2cloud sync`.
    pub(crate) flags: Vec<String>,
    /// The link in use.
    pub link: Link,
    /// Both namespaces.
    pub network: Network,
}

impl Site {
    /// Makes the folder, the keys and an unlimited link; checks that the programs are there.
    pub(crate) fn new(args: &RunArgs) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "run as root: network namespaces need it"
        );
        let programs = match &args.programs {
            Some(programs) => programs.clone(),
            None => std::env::current_exe()?
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
        };
        for program in [
            "go2cloud",
            "go2cloud-receiver",
            "go2cloud-maketree",
            "go2cloud-compare",
        ] {
            let path = programs.join(program);
            ensure!(
                path.exists(),
                "{} is missing: cargo build --release -p agent -p receiver -p go2cloud-tests",
                path.display()
            );
        }
        fs::create_dir_all(&args.work)?;
        let folder = tempfile::Builder::new()
            .prefix("g2c-bench-")
            .tempdir_in(&args.work)?;
        for key in ["host-key", "client-key"] {
            let path = folder.path().join(key);
            let path = path.to_str().context("the work folder's path is not UTF-8")?;
            run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", path])?;
        }
        fs::write(
            folder.path().join("secret"),
            "a-benchmark-keeps-no-secrets-0123456789\n",
        )?;
        let image = tempfile::Builder::new()
            .prefix("g2c-bench-")
            .tempfile_in(args.volumes.as_ref().unwrap_or(&args.work))?
            .into_temp_path();
        fs::File::options()
            .write(true)
            .open(&image)?
            .set_len(VOLUME_LEN)?;
        // sshd refuses to start without it.
        fs::create_dir_all("/run/sshd")?;
        Ok(Self {
            folder,
            programs,
            image,
            flags: args.flags.clone(),
            link: Link::Unlimited,
            network: Network::new(Link::Unlimited)?,
        })
    }

    /// A path in the work folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program under test.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Changes the link.
    pub(crate) fn connect(&mut self, link: Link) -> Result<()> {
        if link != self.link {
            self.network = Network::new(link)?;
            self.link = link;
        }
        Ok(())
    }

    /// A target of its own for one copy: a new ext4 file system on a loop device, mounted until it is dropped. ext4 looks
    /// for inodes that were not in use lately: after 200,000 files were deleted, making files costs several times as much.
    /// What was written to once keeps its blocks, as on a disk: memory that is new costs more than what is written there.
    pub(crate) fn volume(&self) -> Result<Volume> {
        let path = self.empty("volume")?;
        let name = self
            .image
            .to_str()
            .context("the work folder's path is not UTF-8")?;
        run(
            "mkfs.ext4",
            [
                "-q",
                "-F",
                "-E",
                "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
                name,
            ],
        )?;
        let target = path.to_str().context("the work folder's path is not UTF-8")?;
        run("mount", ["-o", "loop", name, target])?;
        // Not cached twice; where the folder's file system cannot, all tools pay alike.
        let device = run_for("findmnt", ["-n", "-o", "SOURCE", target])?;
        let _ = run("losetup", ["--direct-io=on", device.trim()]);
        Ok(Volume { path })
    }

    /// Makes what was copied durable.
    pub(crate) fn settle_target(&self, job: &Job) -> Result<()> {
        Ok(rustix::fs::syncfs(fs::File::open(&job.target)?)?)
    }

    /// An empty folder of this name, whatever was in it.
    pub(crate) fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Writes everything out, so that one copy does not pay for another.
    pub(crate) fn settle(&self) -> Result<()> {
        let folder = fs::File::open(self.folder.path())?;
        Ok(rustix::fs::syncfs(folder)?)
    }
}
