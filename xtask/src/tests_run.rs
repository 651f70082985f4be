//! Runs every test against release programs: they move real data, and the end-to-end tests start what users start.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Packages, programs, tests.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    crate::packages::install()?;
    cargo(
        &["build", "--locked", "--release", "--workspace", "--bins"],
        std::iter::empty(),
    )?;
    let has_nextest = Command::new("cargo-nextest")
        .arg("--version")
        .output()
        .is_ok_and(|answer| answer.status.success());
    let runner: &[&str] = if has_nextest {
        &["nextest", "run", "--locked", "--release", "--workspace"]
    } else {
        &["test", "--locked", "--release", "--workspace"]
    };
    cargo(runner, arguments)
}

/// What the tests with whole systems use beside the others.
const MACHINE_PACKAGES: [&str; 11] = [
    "busybox-static",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "lvm2",
    "mdadm",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
];

/// The tests that convert and boot whole systems: as root, with loop devices, in minutes.
pub(crate) fn run_machines() -> Result<()> {
    crate::packages::install()?;
    crate::packages::install_these(&MACHINE_PACKAGES)?;
    let no_more = std::iter::empty::<String>;
    let programs = [
        "build",
        "--locked",
        "--release",
        "-p",
        "agent",
        "-p",
        "receiver",
        "--bins",
    ];
    cargo(&programs, no_more())?;
    let suites: [&[&str]; 2] = [
        &[
            "-p",
            "receiver",
            "--test",
            "native_conversion",
            "--test",
            "native_layout",
        ],
        &["-p", "go2cloud-tests", "--test", "migration_vm"],
    ];
    for suite in suites {
        let command = [
            &["test", "--locked", "--release"],
            suite,
            &["--", "--ignored", "--test-threads", "1"],
        ]
        .concat();
        cargo(&command, no_more())?;
    }
    Ok(())
}

fn cargo(command: &[&str], arguments: impl Iterator<Item = String>) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(command)
        .args(arguments)
        .status()
        .context("run cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo {} failed", command[0])
    }
}
