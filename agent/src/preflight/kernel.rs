//! Can the kernel find its disk on virtio hardware: drivers, initramfs, modules.

use std::process::{Command, Stdio};

use super::Finding;
use crate::inventory::Machine;

/// How a kernel has a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    BuiltIn,
    Module,
    Missing,
    Unknown,
}

/// Checks the kernel with release `release`.
pub(super) fn check(machine: &Machine, release: &str) -> Vec<Finding> {
    let blk = driver(machine, release, "virtio_blk", "CONFIG_VIRTIO_BLK");
    let drivers = [
        ("virtio_blk", blk),
        (
            "virtio_pci",
            driver(machine, release, "virtio_pci", "CONFIG_VIRTIO_PCI"),
        ),
        (
            "virtio_net",
            driver(machine, release, "virtio_net", "CONFIG_VIRTIO_NET"),
        ),
    ];
    let image = initramfs_path(machine, release);
    vec![
        virtio(release, &drivers),
        initramfs_drivers(machine, image.as_deref(), &drivers),
        nvme(machine, release, image.as_deref()),
        generator(machine, &drivers),
        boot_files(machine, release, image.as_deref(), blk),
        modules(machine, release),
    ]
}

fn driver(machine: &Machine, release: &str, module: &str, option: &str) -> Driver {
    for folder in ["/lib/modules", "/usr/lib/modules"] {
        let names_it = |file: &str| {
            let text = machine.text(&format!("{folder}/{release}/{file}"))?;
            Some(text.lines().any(|line| is_module(line, module)))
        };
        if names_it("modules.builtin") == Some(true) {
            return Driver::BuiltIn;
        }
        match names_it("modules.dep") {
            Some(true) => return Driver::Module,
            // Drivers that are built in are not always listed: the configuration decides.
            Some(false) => return configured(machine, release, option).unwrap_or(Driver::Missing),
            None => {}
        }
    }
    configured(machine, release, option).unwrap_or(Driver::Unknown)
}

/// Whether a line of a module list is about `module`: `kernel/drivers/block/virtio_blk.ko.xz: …`.
fn is_module(line: &str, module: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split(".ko").next().unwrap_or_default();
    name.replace('-', "_") == module
}

fn configured(machine: &Machine, release: &str, option: &str) -> Option<Driver> {
    let text = machine.text(&format!("/boot/config-{release}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
    Some(match value {
        Some("y") => Driver::BuiltIn,
        Some("m") => Driver::Module,
        _ => Driver::Missing,
    })
}

fn virtio(release: &str, drivers: &[(&str, Driver)]) -> Finding {
    let name = "virtio drivers";
    let with = |wanted: Driver| -> Vec<&str> {
        drivers
            .iter()
            .filter(|(_, driver)| *driver == wanted)
            .map(|(name, _)| *name)
            .collect()
    };
    let missing = with(Driver::Missing);
    if !missing.is_empty() {
        return Finding::fail(
            "P10",
            name,
            format!("kernel {release} lacks {}", missing.join(", ")),
            "install the distribution's regular kernel package and start it once",
        );
    }
    if !with(Driver::Unknown).is_empty() {
        return Finding::warn(
            "P10",
            name,
            format!("cannot tell: neither /lib/modules/{release} nor /boot/config-{release} is there"),
            "install the distribution's kernel package for the running kernel",
        );
    }
    let modules = with(Driver::Module);
    let text = if modules.is_empty() {
        "built in".to_owned()
    } else {
        format!("modules: {}", modules.join(", "))
    };
    Finding::pass("P10", name, text)
}

fn initramfs_path(machine: &Machine, release: &str) -> Option<String> {
    let places = [
        format!("/boot/initrd.img-{release}"),
        format!("/boot/initramfs-{release}.img"),
        format!("/boot/initrd-{release}"),
        format!("/boot/initrd-{release}.img"),
    ];
    places.into_iter().find(|path| machine.path(path).exists())
}

fn initramfs_drivers(machine: &Machine, image: Option<&str>, drivers: &[(&str, Driver)]) -> Finding {
    let name = "virtio in the initramfs";
    // Only the disk must be found before the root file system is there; the network driver can wait.
    let early: Vec<&str> = drivers
        .iter()
        .filter(|(name, driver)| *driver == Driver::Module && *name != "virtio_net")
        .map(|(name, _)| *name)
        .collect();
    if early.is_empty() {
        return Finding::pass(
            "P11",
            name,
            "not needed: nothing that the start needs is a module",
        );
    }
    let Some(list) = image.and_then(|image| contents(machine, image)) else {
        return Finding::info(
            "P11",
            name,
            "cannot be listed here; the target verifies and rebuilds it",
        )
        .auto_fixed();
    };
    let missing: Vec<&str> = early
        .into_iter()
        .filter(|module| !list.lines().any(|line| is_module(line, module)))
        .collect();
    if missing.is_empty() {
        return Finding::pass("P11", name, image.unwrap_or_default());
    }
    let remedy = if machine.path("/etc/initramfs-tools/modules").exists() {
        "add virtio_pci and virtio_blk to /etc/initramfs-tools/modules, then: update-initramfs -u"
    } else {
        "dracut -f --add-drivers \"virtio_blk virtio_pci\" (before 2012: mkinitrd -f --with=virtio_blk --with=virtio_pci)"
    };
    Finding::warn("P11", name, format!("lacks {}", missing.join(", ")), remedy).auto_fixed()
}

/// Some clouds show disks as NVMe.
fn nvme(machine: &Machine, release: &str, image: Option<&str>) -> Finding {
    let name = "NVMe driver";
    let remedy = "dracut -f --add-drivers nvme, or: echo nvme >> /etc/initramfs-tools/modules && update-initramfs -u; not needed where the target's disks are virtio";
    match driver(machine, release, "nvme", "CONFIG_BLK_DEV_NVME") {
        Driver::BuiltIn => Finding::pass("P12", name, "built in"),
        Driver::Unknown => Finding::info(
            "P12",
            name,
            "cannot tell; it matters only where the target's disks are NVMe",
        ),
        Driver::Missing => Finding::warn(
            "P12",
            name,
            format!("kernel {release} has none"),
            "choose a target whose disks are virtio, or install the distribution's regular kernel package",
        ),
        Driver::Module => match image.and_then(|image| contents(machine, image)) {
            Some(list) if !list.lines().any(|line| is_module(line, "nvme")) => {
                Finding::warn("P12", name, "not in the initramfs", remedy).auto_fixed()
            }
            Some(_) => Finding::pass("P12", name, "in the initramfs"),
            None => Finding::info("P12", name, "a module; the target verifies the initramfs"),
        },
    }
}

/// The file list of an initramfs by the distribution's own tool; `None` when there is none, or it fails.
fn contents(machine: &Machine, image: &str) -> Option<String> {
    let image = machine.path(image);
    for tool in ["lsinitramfs", "lsinitrd"] {
        let output = Command::new(tool)
            .arg(&image)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        if let Ok(output) = output
            && output.status.success()
        {
            return Some(String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    None
}

fn generator(machine: &Machine, drivers: &[(&str, Driver)]) -> Finding {
    let name = "initramfs generator";
    let tools = ["dracut", "update-initramfs", "mkinitrd", "mkinitramfs"];
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = tools.into_iter().find(|tool| {
        folders
            .iter()
            .any(|folder| machine.path(&format!("{folder}/{tool}")).exists())
    });
    match found {
        Some(tool) if only_own_drivers(machine) => Finding::warn(
            "P13",
            name,
            format!("{tool} puts only this machine's drivers in (MODULES=dep)"),
            "sed -i 's/^MODULES=dep/MODULES=most/' /etc/initramfs-tools/initramfs.conf /etc/initramfs-tools/conf.d/*; update-initramfs -u",
        )
        .auto_fixed(),
        Some(tool) => Finding::pass("P13", name, tool),
        None if drivers.iter().all(|(_, driver)| *driver == Driver::BuiltIn) => {
            Finding::info("P13", name, "none, and none is needed: the drivers are built in")
        }
        None => Finding::fail(
            "P13",
            name,
            "none is installed",
            "install dracut or initramfs-tools",
        ),
    }
}

/// Whether initramfs-tools is told to look at this machine's hardware.
fn only_own_drivers(machine: &Machine) -> bool {
    let more = machine.names("/etc/initramfs-tools/conf.d");
    let more = more
        .iter()
        .map(|name| format!("/etc/initramfs-tools/conf.d/{name}"));
    let mut files = more.chain(["/etc/initramfs-tools/initramfs.conf".to_owned()]);
    files.any(|file| {
        let text = machine.text(&file).unwrap_or_default();
        text.lines().any(|line| line.trim() == "MODULES=dep")
    })
}

fn boot_files(machine: &Machine, release: &str, image: Option<&str>, blk: Driver) -> Finding {
    let name = "kernel and initramfs";
    let kernels = [
        format!("/boot/vmlinuz-{release}"),
        format!("/boot/vmlinux-{release}"),
        format!("/boot/Image-{release}"),
        format!("/usr/lib/modules/{release}/vmlinuz"),
    ];
    let kernel = kernels.iter().find(|path| machine.path(path).exists());
    match (kernel, image) {
        (Some(kernel), Some(image)) => Finding::pass("P14", name, format!("{kernel}, {image}")),
        (Some(kernel), None) if blk == Driver::BuiltIn => {
            Finding::pass("P14", name, format!("{kernel}, drivers built in"))
        }
        (Some(_), None) => Finding::fail(
            "P14",
            name,
            format!("no initramfs for {release} in /boot"),
            "make it by update-initramfs -c -k all, or dracut -f --regenerate-all",
        ),
        (None, _) => Finding::fail(
            "P14",
            name,
            format!("the running kernel {release} is not in /boot"),
            "install the distribution's kernel package and start that kernel once",
        ),
    }
}

fn modules(machine: &Machine, release: &str) -> Finding {
    let name = "kernel modules";
    let there = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .any(|folder| machine.path(&format!("{folder}/{release}/modules.dep")).exists());
    if there {
        Finding::pass("P15", name, format!("/lib/modules/{release}"))
    } else {
        Finding::warn(
            "P15",
            name,
            format!("/lib/modules/{release}/modules.dep is missing"),
            format!("depmod {release}, or install the kernel's package anew"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_lists_are_read() {
        assert!(is_module(
            "kernel/drivers/block/virtio_blk.ko.xz: kernel/x.ko",
            "virtio_blk"
        ));
        assert!(is_module(
            "usr/lib/modules/6.1/kernel/drivers/virtio/virtio-pci.ko",
            "virtio_pci"
        ));
        assert!(!is_module(
            "kernel/x.ko: kernel/drivers/block/virtio_blk.ko",
            "virtio_blk"
        ));
        assert!(!is_module(
            "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
            "virtio_pci"
        ));
    }
}
