//! What the user decides about a conversion. The defaults keep the source's identity.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Decisions.
#[derive(Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Addresses: keep the source's configuration, or get them by DHCP
    #[arg(long, value_enum, default_value_t = NetworkMode::Keep)]
    pub network: NetworkMode,

    /// The source is given up (move), or goes on beside its copy (clone: new machine id and host keys)
    #[arg(long, value_enum, default_value_t = Purpose::Move)]
    pub purpose: Purpose,

    /// cloud-init: keep it from changing what was migrated, disable it, or leave it alone
    #[arg(long, value_enum, default_value_t = CloudInitMode::Preserve)]
    pub cloud_init: CloudInitMode,

    /// Keep cloud-init from setting up the network
    #[arg(long)]
    pub disable_cloud_init_network: bool,

    /// Guest tools of the old hypervisor and agents of the old cloud
    #[arg(long, value_enum, default_value_t = AgentMode::Disable)]
    pub agents: AgentMode,

    /// Serial console, or none
    #[arg(long, default_value = "ttyS0", value_name = "TTY|none")]
    pub console: String,

    /// Initial RAM file system: make it again when needed, or only check it
    #[arg(long, value_enum, default_value_t = InitramfsMode::Rebuild)]
    pub initramfs: InitramfsMode,

    /// Boot loader: install it where it is missing, install it always, or do not touch it
    #[arg(long, value_enum, default_value_t = BootloaderMode::Auto)]
    pub bootloader: BootloaderMode,

    /// What is kept on purpose although it belongs to the old place: no warnings about it, and nothing may set it anew
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT,…")]
    pub keep: Vec<Kept>,

    /// SELinux labels: set them where they were lost, set them all, or do not touch them
    #[arg(long, value_enum, default_value_t = RelabelMode::Auto)]
    pub relabel: RelabelMode,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            network: NetworkMode::Keep,
            purpose: Purpose::Move,
            cloud_init: CloudInitMode::Preserve,
            disable_cloud_init_network: false,
            agents: AgentMode::Disable,
            console: "ttyS0".to_owned(),
            initramfs: InitramfsMode::Rebuild,
            bootloader: BootloaderMode::Auto,
            keep: Vec::new(),
            relabel: RelabelMode::Auto,
        }
    }
}

impl Options {
    /// The serial console, when one is wanted.
    pub fn serial_console(&self) -> Option<&str> {
        (self.console != "none").then_some(self.console.as_str())
    }
}

/// Something that a new place would set anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// The host name.
    Hostname,
    /// `/etc/hosts`.
    Hosts,
    /// Name servers.
    Dns,
    /// Package mirrors.
    Mirrors,
    /// Time servers.
    Ntp,
}

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// From the source's configuration.
    Keep,
    /// From DHCP on the first interface.
    Dhcp,
}

/// What becomes of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// It is given up.
    Move,
    /// It goes on.
    Clone,
}

/// What becomes of cloud-init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudInitMode {
    /// It runs, but keeps host name, keys, users and sources.
    Preserve,
    /// It does not run.
    Disable,
    /// Nothing is changed.
    Leave,
}

/// What becomes of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// Masked, not removed.
    Disable,
    /// Kept.
    Keep,
}

/// What becomes of the initial RAM file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitramfsMode {
    /// Made again when something is missing in it or changed for it.
    Rebuild,
    /// Checked.
    VerifyOnly,
}

/// What becomes of the boot loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootloaderMode {
    /// Installed where it is missing.
    Auto,
    /// Installed.
    Reinstall,
    /// Not touched.
    Skip,
}

/// What becomes of SELinux labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelabelMode {
    /// Set when they were lost.
    Auto,
    /// Set.
    Force,
    /// Not touched.
    Skip,
}
