//! The Debian packages that the tests use: real file systems, the peers they compare with, a database server, virtual
//! machines and what boots in them.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the tests run.
const PACKAGES: [&str; 35] = [
    "acl",
    "attr",
    "btrfs-progs",
    "busybox-static",
    "cpio",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "gdisk",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "iproute2",
    "kexec-tools",
    "kmod",
    "libcap2-bin",
    "lvm2",
    "lz4",
    "mdadm",
    "mmdebstrap",
    "mount",
    "mtools",
    "openssh-client",
    "ovmf",
    "postgresql",
    "python3-venv",
    EMULATOR,
    TOOLS_OF_EMULATOR,
    "rsync",
    "seabios",
    "tinyproxy-bin",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

const EMULATOR: &str = "qemu-system-x86";
/// Must be of the emulator's version.
const TOOLS_OF_EMULATOR: &str = "qemu-utils";

/// Installs what is missing. Where that is not possible the tests say themselves what they lack.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .copied()
        .filter(|package| installed_version(package).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root || Command::new("apt-get").arg("--version").output().is_err() {
        crate::say(&format!(
            "install these packages (as root) for all tests to run: {}",
            missing.join(" ")
        ));
        return Ok(());
    }
    crate::say(&format!("installing {}", missing.join(" ")));
    apt_get(&["update", "-q"])?;
    let matching = missing.contains(&EMULATOR).then(tools_of_the_emulators_version);
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    let matching = matching.transpose()?.flatten();
    if let Some(matching) = &matching {
        arguments.extend(["--allow-downgrades", matching]);
    }
    arguments.extend(missing);
    apt_get(&arguments)
}

/// `qemu-utils=VERSION` when the one that is installed is not of the emulator's version: a machine may have got it from
/// an archive that it does not know any more, and such a one keeps the emulator from being installed.
fn tools_of_the_emulators_version() -> Result<Option<String>> {
    let installed = installed_version(TOOLS_OF_EMULATOR);
    let offered = |package: &str| -> Result<Vec<String>> {
        let output = Command::new("apt-cache")
            .args(["madison", package])
            .output()
            .context("run apt-cache")?;
        Ok(versions(&String::from_utf8_lossy(&output.stdout)))
    };
    Ok(matching_version(
        installed.as_deref(),
        &offered(EMULATOR)?,
        &offered(TOOLS_OF_EMULATOR)?,
    )
    .map(|version| format!("{TOOLS_OF_EMULATOR}={version}")))
}

/// The version to exchange the installed one for; `None` when nothing is installed or it fits.
fn matching_version<'v>(
    installed: Option<&str>,
    emulator: &'v [String],
    tools: &'v [String],
) -> Option<&'v String> {
    // The newest comes first.
    let wanted = emulator.iter().find(|version| tools.contains(version))?;
    installed
        .is_some_and(|installed| installed != wanted)
        .then_some(wanted)
}

/// Versions in `apt-cache madison`: `package | version | source`.
fn versions(text: &str) -> Vec<String> {
    let field = |line: &str| line.split('|').nth(1).map(|version| version.trim().to_owned());
    text.lines().filter_map(field).collect()
}

fn installed_version(package: &str) -> Option<String> {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Version}", package])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&query.stdout).into_owned();
    let version = text.strip_prefix("installed ")?;
    query.status.success().then(|| version.to_owned())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments)
        .output()
        .context("run apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "apt-get {} failed:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_of_another_archive_are_exchanged_for_those_of_the_emulator() {
        let text = "qemu-utils | 1:7.2+dfsg-7+deb12u18+b3 | http://deb.debian.org/debian bookworm/main amd64 Packages\n\
                    qemu-utils | 1:7.2+dfsg-7+deb12u15 | http://deb.debian.org/debian-security bookworm-security/main amd64\n";
        let offered = versions(text);
        assert_eq!(offered, ["1:7.2+dfsg-7+deb12u18+b3", "1:7.2+dfsg-7+deb12u15"]);
        let chosen = |installed| matching_version(installed, &offered, &offered);
        assert_eq!(chosen(Some("1:10.0.2+ds-2~bpo12+1")), Some(&offered[0]));
        assert_eq!(chosen(Some("1:7.2+dfsg-7+deb12u18+b3")), None);
        assert_eq!(chosen(None), None);
        assert_eq!(matching_version(Some("1:10"), &offered, &[]), None);
    }
}
