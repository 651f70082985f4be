//! The Debian packages that the tests use: real file systems, the peers they compare with, a database server.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the tests run.
const PACKAGES: [&str; 22] = [
    "acl",
    "attr",
    "btrfs-progs",
    "cpio",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "gdisk",
    "iproute2",
    "kmod",
    "libcap2-bin",
    "lz4",
    "mmdebstrap",
    "mount",
    "postgresql",
    "python3-venv",
    "rsync",
    "tinyproxy-bin",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// Installs what is missing for the ordinary tests.
pub(crate) fn install() -> Result<()> {
    install_these(&PACKAGES)
}

/// Installs what is missing. Where that is not possible the tests say themselves what they lack.
pub(crate) fn install_these(packages: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
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
    apt_get(&[&["install", "-q", "-y", "--no-install-recommends"], &missing[..]].concat())
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output();
    query.is_ok_and(|answer| answer.status.success() && answer.stdout == b"installed")
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
