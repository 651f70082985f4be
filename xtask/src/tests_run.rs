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

/// The longer suite of whole systems in virtual machines, which the gate has no time for.
pub(crate) fn run_machines() -> Result<()> {
    crate::packages::install()?;
    let programs = [
        "build",
        "--locked",
        "--release",
        "-p",
        "agent",
        "-p",
        "control",
        "-p",
        "receiver",
        "--bins",
    ];
    cargo(&programs, std::iter::empty())?;
    let suite = [
        "test",
        "--locked",
        "--release",
        "-p",
        "go2cloud-tests",
        "--features",
        "long",
        "--test",
        "machines",
        "--",
        "--test-threads",
        "1",
    ];
    cargo(&suite, std::iter::empty())
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
