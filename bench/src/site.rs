//! Where a benchmark happens: its folder, the programs under test, keys, and the network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::RunArgs;
use crate::network::{Link, Network, run};

/// Everything that a copy needs besides its data.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
    programs: PathBuf,
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
        // sshd refuses to start without it.
        fs::create_dir_all("/run/sshd")?;
        Ok(Self {
            folder,
            programs,
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
