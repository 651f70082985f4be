//! What the system demands of the target's processor.

use super::Finding;
use crate::inventory::{Inventory, Machine, Os};

/// Flags of /proc/cpuinfo that a level of the x86-64 psABI adds; one that the kernel names differently stands for it.
const LEVEL_2: [&str; 5] = ["cx16", "lahf_lm", "popcnt", "sse4_2", "ssse3"];
const LEVEL_3: [&str; 7] = ["avx", "avx2", "bmi1", "bmi2", "fma", "f16c", "movbe"];

pub(super) fn check(machine: &Machine, inventory: &Inventory) -> Finding {
    let name = "processor";
    if inventory.os.architecture != "x86_64" {
        return Finding::pass("P06", name, inventory.os.architecture.as_str());
    }
    let has = level(&machine.text("/proc/cpuinfo").unwrap_or_default());
    match needed(&inventory.os) {
        1 => Finding::pass(
            "P06",
            name,
            format!("the system runs on any x86-64 processor (this one: x86-64-v{has})"),
        ),
        needed => Finding::warn(
            "P06",
            name,
            format!(
                "{} runs only on x86-64-v{needed} or better (this one: x86-64-v{has})",
                inventory.os.name
            ),
            format!(
                "choose such a target; on it, this tells: /lib64/ld-linux-x86-64.so.2 --help | grep x86-64-v{needed}"
            ),
        ),
    }
}

fn level(cpuinfo: &str) -> u32 {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map_or("", |(_, flags)| flags);
    let all = |wanted: &[&str]| {
        wanted
            .iter()
            .all(|flag| flags.split_whitespace().any(|has| has == *flag))
    };
    match (all(&LEVEL_2), all(&LEVEL_3)) {
        (true, true) => 3,
        (true, false) => 2,
        (false, _) => 1,
    }
}

/// The level that the distribution is built for.
fn needed(os: &Os) -> u32 {
    let major: u32 = os
        .version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or(0);
    match (os.kind.as_str(), major) {
        ("Red Hat" | "CentOS" | "Rocky Linux" | "Oracle Linux", 10..) => 3,
        ("Red Hat" | "CentOS" | "Rocky Linux" | "Oracle Linux" | "AlmaLinux", 9..) => 2,
        ("SUSE" | "openSUSE", 16..=41) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_distributions() {
        let os = |kind: &str, version: &str| Os {
            kind: kind.into(),
            version: version.into(),
            ..Os::default()
        };
        for (kind, version, expected) in [
            ("Red Hat", "8.10", 1),
            ("Rocky Linux", "9.4", 2),
            ("Red Hat", "10.0", 3),
            ("AlmaLinux", "10.0", 2),
            ("Debian", "12", 1),
            ("openSUSE", "42.3", 1),
        ] {
            assert_eq!(needed(&os(kind, version)), expected, "{kind} {version}");
        }
        assert_eq!(
            level("processor\t: 0\nflags\t\t: fpu cx16 lahf_lm popcnt sse4_2 ssse3\n"),
            2
        );
        assert_eq!(level("flags : fpu sse4_2"), 1);
    }
}
