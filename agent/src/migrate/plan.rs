//! From flags and configuration files to a checked plan, with all refusals at once.
//!
//! Precedence: flags, then the environment (keys only), then the files, then a prompt (keys only).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use transfer::secret::Secret;
use transfer::source::Freeze;

use super::machine::decisions;
use super::staged::Stage;
use crate::boot_check::{BootCheck, Consequence};
use crate::cli::JobArgs;
use crate::config::Files;
use crate::folder;
use crate::inventory::Scope;
use crate::output::Style;
use crate::refusal::Refusals;
use crate::secret_text::SecretText;
use crate::state::State;
use crate::sync::plan::never_copied;

mod check;
mod keys;

pub use keys::{ENV_SECRET_ID, ENV_SECRET_KEY, hide_keys};

/// A checked run of the job-driven way.
#[derive(Debug)]
pub struct Plan {
    /// What is asked for.
    pub task: Task,
    /// What is migrated: `/`, or a directory.
    pub source_root: PathBuf,
    /// Disks that are migrated block by block instead.
    pub source_disks: Vec<PathBuf>,
    /// Whether a job that the tool creates goes block by block.
    pub block: bool,
    /// The folder of the tool, with its configuration files and logs.
    pub folder: PathBuf,
    /// The folder of what is kept between runs.
    pub state_root: PathBuf,
    /// How the data goes.
    pub network: Network,
    /// What the flags say about the transfer; a job can say more.
    pub transfer: Transfer,
    /// What the target keeps or gets.
    pub keep: Keep,
    /// How the program runs.
    pub run: Run,
}

/// What is asked for.
#[derive(Debug)]
pub enum Task {
    /// Only check; control plane and receiver are looked at as far as they are known.
    Check {
        /// The control plane.
        control: Option<Control>,
        /// Address and secret of a receiver.
        receiver: Option<(std::net::SocketAddr, Secret)>,
    },
    /// Only test whether block-level migration is possible.
    BlockTest,
    /// Leave migration mode and clean up.
    Clean(Option<Control>, Option<String>),
    /// Register and wait for jobs, or create one first.
    Jobs(Control, Option<Target>),
    /// Enter migration mode of an instance without a job.
    NoJob(Control, String),
    /// One stage of mode 1.
    Staged(Stage),
    /// No control plane at all: the receiver is known.
    Direct {
        /// Address of the receiver.
        address: std::net::SocketAddr,
        /// What both sides know.
        secret: Secret,
    },
}

/// How the control plane is reached.
#[derive(Clone, Debug)]
pub struct Control {
    /// Domain, address or host:port, as given.
    pub endpoint: String,
    /// Region of the target.
    pub region: String,
    /// How this machine proves who it is.
    pub credentials: Credentials,
    /// HTTP proxy of mode 3.
    pub proxy: Option<Proxy>,
    /// How its certificate is judged.
    pub trust: Trust,
}

/// How this machine proves who it is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// An API key.
    Key {
        /// Its id.
        id: SecretText,
        /// The key.
        key: SecretText,
    },
    /// A code that is exchanged for temporary keys.
    Enrolment(SecretText),
}

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// User and password, when it asks for them.
    pub login: Option<(String, SecretText)>,
}

/// How the control plane's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By the certificate authorities of this machine.
    System,
    /// By one certificate authority, PEM.
    Authority(PathBuf),
    /// By its SHA-256 fingerprint, hexadecimal.
    Fingerprint(String),
    /// Not at all: plain HTTP.
    Plain,
}

/// What a job that the tool creates itself migrates to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An instance.
    Instance(String),
    /// An image, made by way of a transit instance.
    Image {
        /// Its name.
        name: String,
        /// VPC of the transit instance.
        vpc: Option<String>,
        /// Subnet of the transit instance.
        subnet: Option<String>,
        /// Image of the transit instance.
        transit_image: Option<String>,
    },
}

/// Network mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// API and data over public networks.
    #[default]
    Public = 0,
    /// API by way of a gateway, in three stages; data over a private network.
    Staged = 1,
    /// API over the internet, data over a private network.
    Private = 2,
    /// API through an HTTP proxy, data over a private network.
    Proxy = 3,
}

/// How the data goes.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Mode for jobs that the tool creates, and without a job.
    pub mode: Mode,
    /// Data over IPv6.
    pub ipv6: bool,
    /// Address of the target, if not the one that the API names.
    pub remote_ip: Option<IpAddr>,
    /// Port of the target, if not the one that the API names.
    pub remote_port: Option<u16>,
    /// Whether equal private addresses are not looked at.
    pub skip_ip_check: bool,
}

/// What the flags say about the transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Upper limit in KB/s, 0 for none; `None` leaves it to the job.
    pub bandwidth_limit: Option<u64>,
    /// Let the target read everything back and compare.
    pub checksum: bool,
    /// How long to go on sending what changes, in minutes.
    pub incremental_minutes: Option<u32>,
    /// Whether smaller disks at the target are allowed.
    pub minify: bool,
    /// Whether larger disks at the target are used to their ends.
    pub grow: bool,
    /// How the last round freezes.
    pub freeze: Freeze,
    /// What it freezes.
    pub freezes: Freezes,
    /// Whether what has arrived is started for a check before the last round, and what follows if it does not boot.
    pub boot_check: Option<Consequence>,
}

/// What the last round freezes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freezes {
    /// Disks, and a whole system that is copied file by file.
    #[default]
    Systems,
    /// Directories, too.
    Everything,
    /// Nothing but disks, which are of no use otherwise.
    Disks,
}

impl Transfer {
    /// How the last round of the tree at `root` freezes, if it does.
    pub fn freeze_of_tree(&self, root: &Path) -> Option<Freeze> {
        let freezes = match self.freezes {
            Freezes::Systems => root == Path::new("/"),
            Freezes::Everything => true,
            Freezes::Disks => false,
        };
        freezes.then(|| self.freeze.clone())
    }
}

/// What the target keeps or gets.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Keep {
    /// Do not install cloud-init.
    pub disable_cloud_init: bool,
    /// cloud-init must not set up the network.
    pub disable_cloud_init_network: bool,
    /// Keep the host name.
    pub preserve_hostname: bool,
    /// Keep /etc/hosts.
    pub preserve_hosts: bool,
    /// Keep the DNS servers.
    pub preserve_dns: bool,
    /// Keep the package mirrors.
    pub preserve_mirrors: bool,
    /// Keep the time servers.
    pub preserve_ntp: bool,
}

/// How the program runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// Skip the checks.
    pub ignore_check: bool,
    /// In the background.
    pub daemon: bool,
    /// End after one job.
    pub once: bool,
    /// A target is named, but the job that is waited for names its own.
    pub has_idle_target: bool,
    /// How progress is shown.
    pub style: Style,
    /// Name of the log file.
    pub log_file: String,
    /// 1 errors, 2 information, 3 debugging.
    pub log_level: u8,
}

impl Plan {
    /// Checks `args` with the files beside the program.
    ///
    /// # Errors
    /// `refusals`, and everything that is wrong with the arguments.
    pub fn check(args: &JobArgs, refusals: Refusals) -> Result<Self, Refusals> {
        let folder = folder::of_program().unwrap_or_else(|| PathBuf::from("/"));
        Self::check_in(args, &folder, refusals)
    }

    /// What this run migrates, for the inventory.
    pub fn scope(&self) -> Scope<'_> {
        if !self.source_disks.is_empty() {
            Scope::Disks(&self.source_disks)
        } else if self.source_root != Path::new("/") {
            Scope::Directory(&self.source_root)
        } else {
            Scope::Machine
        }
    }

    /// The image that a transit instance is made from, if one was named.
    pub fn transit_image(&self) -> Option<&str> {
        match &self.task {
            Task::Jobs(_, Some(Target::Image { transit_image, .. })) => transit_image.as_deref(),
            _ => None,
        }
    }

    /// The boot check before the cutover, if one is wanted.
    pub fn boot_check(&self) -> Option<BootCheck> {
        let check = |consequence| BootCheck {
            consequence,
            convert: decisions(&self.keep),
        };
        self.transfer.boot_check.map(check)
    }

    /// What is kept between runs.
    pub fn state(&self) -> State {
        State::at(&self.state_root)
    }

    /// The folder of the log files and receipts.
    pub fn logs(&self) -> PathBuf {
        folder::logs(&self.folder)
    }

    /// What is never migrated: everything that the agent itself writes, its keys among it.
    pub fn never(&self, baseline: &Path) -> Vec<PathBuf> {
        let mut never = never_copied(baseline);
        never.extend([self.state_root.clone(), self.logs()]);
        never
    }

    /// The folder of the baseline of one job, or of one target.
    pub fn state_of(&self, key: &str) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for disk in &self.source_disks {
            hasher.update(disk.as_os_str().as_encoded_bytes());
            hasher.update(&[1]);
        }
        hasher.update(self.source_root.as_os_str().as_encoded_bytes());
        hasher.update(&[0]);
        hasher.update(key.as_bytes());
        self.state_root
            .join("state")
            .join(&hasher.finalize().to_hex()[..32])
    }

    /// Checks `args` with the files in `folder`.
    ///
    /// # Errors
    /// `refusals`, and everything that is wrong with the arguments.
    pub fn check_in(args: &JobArgs, folder: &Path, mut refusals: Refusals) -> Result<Self, Refusals> {
        let files = Files::read(Some(folder), &mut refusals);
        let checker = check::Checker { args, files, folder };
        let network = checker.network(&mut refusals);
        let transfer = checker.transfer(&mut refusals);
        let run = checker.run(&mut refusals);
        let state_root = checker.state_root(&mut refusals);
        let source_root = checker.source_root(&state_root, &mut refusals);
        let source_disks = checker.source_disks(&mut refusals);
        let task = checker.task(&network, &mut refusals);
        let (Some(task), Some(source_root), true) = (task, source_root, refusals.is_empty()) else {
            return Err(refusals);
        };
        Ok(Self {
            task,
            source_root,
            block: args.block || !source_disks.is_empty(),
            source_disks,
            folder: folder.to_owned(),
            state_root,
            network,
            transfer,
            keep: checker.keep(),
            run,
        })
    }
}

#[cfg(test)]
mod tests;
