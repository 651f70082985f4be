//! The machine as such: rights, architecture, kind, system, what must be there for it to start.

use super::Finding;
use crate::inventory::{Inventory, Machine};

/// Oldest kernel whose systems can start on virtio.
const KERNEL_MIN: (u32, u32) = (2, 6);

/// Checks that every migration needs.
pub(super) fn always(machine: &Machine) -> Vec<Finding> {
    vec![root(), load(machine)]
}

/// Checks for a whole system.
pub(super) fn whole(machine: &Machine, inventory: &Inventory) -> Vec<Finding> {
    vec![
        architecture(inventory),
        container(machine),
        paravirtual(machine),
        system(inventory),
        files(machine),
        clock_mode(machine),
        packages(machine),
    ]
}

fn root() -> Finding {
    let name = "root privileges";
    if rustix::process::geteuid().is_root() {
        Finding::pass("P01", name, "running as root")
    } else {
        Finding::fail("P01", name, "not running as root", "run it by sudo, or as root")
    }
}

/// Share of the processors above which reading is felt.
const LOAD_SHARE_MAX: f64 = 0.8;

fn load(machine: &Machine) -> Finding {
    let text = machine.text("/proc/loadavg").unwrap_or_default();
    let load: f64 = text
        .split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory(machine);
    if memory.status == super::Status::Pass && load > LOAD_SHARE_MAX * processors as f64 {
        let seen = format!(
            "{}; {load} processes want {processors} processors",
            memory.observed
        );
        let remedy = "migrate at a quieter hour; or let it be: reading gives way to everything else";
        return Finding::warn("P41", memory.name, seen, remedy);
    }
    memory
}

fn memory(machine: &Machine) -> Finding {
    let name = "memory and load";
    let text = machine.text("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    match available.map(|kib| kib / 1024) {
        None => Finding::info("P41", name, "the kernel does not tell"),
        Some(mib @ 0..256) => Finding::warn(
            "P41",
            name,
            format!("{mib} MiB available"),
            "free some memory, or migrate at a quieter hour: 256 MiB are comfortable",
        ),
        Some(mib) => Finding::pass("P41", name, format!("{mib} MiB available")),
    }
}

fn architecture(inventory: &Inventory) -> Finding {
    let name = "architecture";
    match inventory.os.architecture.as_str() {
        known @ ("x86_64" | "x86_32" | "arm64") => Finding::pass("P02", name, known),
        other => Finding::fail(
            "P02",
            name,
            other,
            "only x86-64, x86-32 and arm64 systems can be migrated",
        ),
    }
}

fn container(machine: &Machine) -> Finding {
    let name = "not a container";
    let environment = machine.text("/proc/1/environ").unwrap_or_default();
    let marked = environment
        .split('\0')
        .any(|variable| variable.starts_with("container="));
    let docker = machine.path("/.dockerenv").exists() || machine.path("/run/.containerenv").exists();
    if marked || docker {
        Finding::fail(
            "P03",
            name,
            "this is a container",
            "run it on the host; or migrate a directory with --source-root",
        )
    } else {
        Finding::pass("P03", name, "a machine of its own")
    }
}

fn paravirtual(machine: &Machine) -> Finding {
    let name = "virtualisation";
    let xen = machine.text("/sys/hypervisor/type").as_deref() == Some("xen");
    let guest = machine.text("/sys/hypervisor/guest_type");
    match guest.as_deref() {
        Some("PV") if xen => Finding::fail(
            "P04",
            name,
            "Xen paravirtual guest: its kernel may not start elsewhere",
            "install the distribution's regular kernel package and start it once",
        ),
        _ if xen => Finding::pass("P04", name, "Xen with hardware virtualisation"),
        _ => Finding::pass("P04", name, "no Xen paravirtualisation"),
    }
}

fn system(inventory: &Inventory) -> Finding {
    let name = "operating system";
    let os = &inventory.os;
    let mut parts = os
        .kernel
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let kernel = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let observed = format!("{}, kernel {}", os.name, os.kernel);
    if kernel < KERNEL_MIN {
        Finding::fail(
            "P05",
            name,
            observed,
            "update the system: kernels before 2.6 have no virtio drivers",
        )
    } else if os.kind == "Linux" {
        Finding::warn(
            "P05",
            name,
            observed,
            "an unknown system: try the migration with a test instance first",
        )
    } else {
        Finding::pass("P05", name, observed)
    }
}

fn files(machine: &Machine) -> Finding {
    let name = "files to start with";
    let init = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    let mut missing: Vec<&str> = ["/etc/passwd", "/etc/shadow", "/etc/fstab", "/bin/sh"]
        .into_iter()
        .filter(|path| !machine.path(path).exists())
        .collect();
    if !init.iter().any(|path| machine.path(path).exists()) {
        missing.push("/sbin/init");
    }
    if missing.is_empty() {
        Finding::pass("P77", name, "all there")
    } else {
        Finding::fail(
            "P77",
            name,
            format!("missing: {}", missing.join(", ")),
            "restore them from the packages they belong to",
        )
    }
}

fn clock_mode(machine: &Machine) -> Finding {
    let name = "hardware clock";
    let text = machine.text("/etc/adjtime").unwrap_or_default();
    if text.lines().nth(2).is_some_and(|line| line.trim() == "LOCAL") {
        Finding::warn("P76", name, "runs in local time", "timedatectl set-local-rtc 0")
    } else {
        Finding::pass("P76", name, "runs in UTC")
    }
}

fn packages(machine: &Machine) -> Finding {
    let name = "package state";
    let status = machine.text("/var/lib/dpkg/status").unwrap_or_default();
    let half = |line: &str| {
        line.starts_with("Status: ")
            && ["half-installed", "half-configured", "unpacked"]
                .iter()
                .any(|state| line.ends_with(state))
    };
    let pending = !machine.names("/var/lib/dpkg/updates").is_empty() || status.lines().any(half);
    let reboot =
        machine.path("/run/reboot-required").exists() || machine.path("/var/run/reboot-required").exists();
    if pending {
        Finding::warn(
            "P78",
            name,
            "an installation was interrupted",
            "dpkg --configure -a",
        )
    } else if reboot {
        Finding::warn(
            "P78",
            name,
            "updates wait for a restart",
            "restart once before migrating",
        )
    } else {
        Finding::pass("P78", name, "nothing pending")
    }
}
