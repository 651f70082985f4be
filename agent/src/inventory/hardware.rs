//! Processors, memory, firmware, network.

use std::net::IpAddr;

use super::Machine;

/// The hardware of a machine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hardware {
    /// Processors that the kernel sees.
    pub processors: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Private address: the first one of the interface with the default route.
    pub ip: Option<IpAddr>,
    /// MAC address of that interface.
    pub mac: Option<String>,
    /// How it boots.
    pub boot_mode: BootMode,
    /// Maker of the machine or of its virtual hardware.
    pub platform: String,
}

/// How a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum BootMode {
    /// By a boot sector.
    #[serde(rename = "BIOS")]
    Bios,
    /// By an EFI system partition.
    #[serde(rename = "UEFI")]
    Uefi,
}

impl BootMode {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
        }
    }
}

pub(super) fn hardware(machine: &Machine) -> Hardware {
    let interface = interface(machine);
    Hardware {
        processors: processors(machine),
        memory_bytes: memory_bytes(machine),
        ip: interface.as_deref().and_then(address),
        mac: interface.and_then(|name| machine.text(&format!("/sys/class/net/{name}/address"))),
        boot_mode: if machine.path("/sys/firmware/efi").is_dir() {
            BootMode::Uefi
        } else {
            BootMode::Bios
        },
        platform: platform(machine),
    }
}

fn processors(machine: &Machine) -> u64 {
    let text = machine.text("/proc/cpuinfo").unwrap_or_default();
    let count = text.lines().filter(|line| line.starts_with("processor")).count() as u64;
    count.max(1)
}

fn memory_bytes(machine: &Machine) -> u64 {
    let text = machine.text("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        let value = line.strip_prefix("MemTotal:")?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

/// The interface of the default route with the lowest metric, else the first real one.
fn interface(machine: &Machine) -> Option<String> {
    let routes = machine.text("/proc/net/route").unwrap_or_default();
    let default = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, target, metric, mask) = (fields.first()?, fields.get(1)?, fields.get(6)?, fields.get(7)?);
        (*target == "00000000" && *mask == "00000000").then_some((metric.parse::<u32>().ok()?, *name))
    });
    if let Some((_, name)) = default.min() {
        return Some(name.to_owned());
    }
    let real = |name: &String| machine.path(&format!("/sys/class/net/{name}/device")).exists();
    machine.names("/sys/class/net").into_iter().find(real)
}

/// The first address of an interface: IPv4, else IPv6 that is not link-local.
fn address(interface: &str) -> Option<IpAddr> {
    let addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).copied()
}

fn platform(machine: &Machine) -> String {
    let vendor = machine.text("/sys/class/dmi/id/sys_vendor");
    let hypervisor = machine.text("/sys/hypervisor/type");
    vendor.or(hypervisor).unwrap_or_else(|| "unknown".to_owned())
}
