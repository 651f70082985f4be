//! Settings of a machine in migration mode: a JSON file that was appended to the image, or that the hypervisor hands in
//! (fw_cfg). Never the kernel's command line: everybody on the machine and in the cloud's console can read that; it may
//! only say where to look. Without settings the machine takes its disks whole, uses DHCP, and makes a secret itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use transfer::{Error, Kind, Result};

use super::preparation::{Kinds, Preparation};
use crate::convert::machine::Pin;
use crate::convert::options::Options;
use crate::layout::inventory::Inventory;

/// Settings appended to the image.
const APPENDED: &str = "/go2cloud.json";
/// Settings from the hypervisor: `-fw_cfg name=opt/go2cloud/settings,file=…`.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/go2cloud/settings/raw";

/// What can be set.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// The migration's secret.
    pub(super) secret: Option<String>,
    /// Where to listen.
    pub(super) listen: SocketAddr,
    /// Target disks, in the order of the source's; all of the machine's when empty.
    pub(super) disks: Vec<PathBuf>,
    /// The source's inventory: disks are laid out and a tree is received. Without it disks are received.
    pub(super) inventory: Option<Inventory>,
    /// Overwrite disks that carry something.
    pub(super) overwrite: bool,
    /// Allow smaller disks.
    pub(super) minify: bool,
    /// Grow the last partition.
    pub(super) grow: bool,
    /// Interfaces that keep their names: all of them when there is no inventory, else those whose place is not their order.
    pub(super) interfaces: Vec<Pin>,
    /// Addresses.
    pub(super) network: Network,
    /// Decisions about the conversion.
    pub(super) convert: Options,
}

/// Addresses of the machine while it is in migration mode.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Network {
    /// Addresses with prefix lengths; by DHCP when empty.
    pub(super) addresses: Vec<String>,
    /// Default gateways.
    pub(super) gateways: Vec<String>,
    /// Hardware address of the interface that gets them; the first one when none is given. Names are not stable.
    pub(super) mac: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret: None,
            listen: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 443)),
            disks: Vec::new(),
            inventory: None,
            overwrite: false,
            minify: false,
            grow: false,
            interfaces: Vec::new(),
            network: Network::default(),
            convert: Options::default(),
        }
    }
}

impl Settings {
    /// Reads the settings from where they are.
    ///
    /// # Errors
    /// There are some, but they cannot be understood.
    pub(super) fn find() -> Result<Self> {
        let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let asked = command_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("go2cloud.settings="));
        let places = asked.map_or_else(
            || vec![PathBuf::from(APPENDED), PathBuf::from(FW_CFG)],
            |asked| vec![pointed(asked)],
        );
        for place in &places {
            if let Ok(bytes) = std::fs::read(place) {
                return Self::parse(&bytes, place);
            }
        }
        match asked {
            Some(_) => Err(Error::new(Kind::Usage, "find the settings")
                .on(&places[0])
                .remedy("see go2cloud.settings= on the kernel's command line")),
            None => Ok(Self::default()),
        }
    }

    /// What the settings say of the source. It may say so itself later.
    pub(super) fn preparation(&self) -> Preparation {
        Preparation {
            volume: self.inventory.as_ref().map_or(Kinds::Disks, |_| Kinds::Tree),
            inventory: self.inventory.clone().unwrap_or_default(),
            minify: self.minify,
            grow: self.grow,
            convert: self.convert.clone(),
        }
    }

    fn parse(bytes: &[u8], place: &Path) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            // The text is not shown: it may hold the secret.
            Error::new(Kind::Usage, "understand the settings")
                .on(place)
                .because(error.to_string())
                .remedy("correct them and start again")
        })
    }
}

/// `fw_cfg:NAME` or a path.
fn pointed(asked: &str) -> PathBuf {
    match asked.strip_prefix("fw_cfg:") {
        Some(name) => Path::new("/sys/firmware/qemu_fw_cfg/by_name")
            .join(name)
            .join("raw"),
        None => PathBuf::from(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults_and_no_unknown_names() {
        let settings = Settings::parse(b"{}", Path::new("x")).unwrap();
        assert_eq!(settings.listen.port(), 443);
        assert!(settings.secret.is_none() && settings.network.addresses.is_empty());
        let text = br#"{"secret":"s","listen":"10.0.0.2:443","disks":["/dev/vda"],"network":{"addresses":["10.0.0.2/24","fd00::2/64"],"gateways":["10.0.0.1"]},"convert":{"console":"none","network":"dhcp"}}"#;
        let settings = Settings::parse(text, Path::new("x")).unwrap();
        assert_eq!(settings.network.addresses.len(), 2);
        assert_eq!(settings.convert.console, "none");
        let error = Settings::parse(br#"{"sekret":"abc"}"#, Path::new("x")).unwrap_err();
        assert!(crate::chain(&error).contains("sekret") && !crate::chain(&error).contains("abc"));
    }

    #[test]
    fn the_command_line_only_points() {
        assert_eq!(
            pointed("fw_cfg:opt/x"),
            Path::new("/sys/firmware/qemu_fw_cfg/by_name/opt/x/raw")
        );
        assert_eq!(pointed("/x.json"), Path::new("/x.json"));
    }
}
