//! Two network namespaces, source and target, joined by a pair of virtual interfaces of a chosen speed.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

/// Speed of the link in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// As fast as the kernel passes packets on.
    Unlimited,
    /// 1 Gbit/s.
    #[value(name = "1gbit")]
    Gigabit,
    /// 100 Mbit/s.
    #[value(name = "100mbit")]
    HundredMegabit,
}

impl Link {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::Gigabit => "1 Gbit/s",
            Self::HundredMegabit => "100 Mbit/s",
        }
    }

    fn rate(self) -> Option<&'static str> {
        match self {
            Self::Unlimited => None,
            Self::Gigabit => Some("1gbit"),
            Self::HundredMegabit => Some("100mbit"),
        }
    }
}

/// One side's network namespace; deleted on drop.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn new(side: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("g2c-bench-{}-{number}-{side}", std::process::id());
        run("ip", ["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.configure("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    fn configure(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let output = self.command(program).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Both namespaces and the link.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where the clients run.
    pub source: Namespace,
    /// Where the servers run.
    pub target: Namespace,
}

impl Network {
    /// Address of the source.
    pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 1);
    /// Address of the target.
    pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 2);

    /// Makes both and the link between them.
    pub(crate) fn new(link: Link) -> Result<Self> {
        let (source, target) = (Namespace::new("s")?, Namespace::new("t")?);
        let peer = format!("/run/netns/{}", target.name);
        source.configure(
            "ip",
            &[
                "link", "add", "data0", "type", "veth", "peer", "name", "data0", "netns", &peer,
            ],
        )?;
        for (side, address) in [(&source, Self::SOURCE), (&target, Self::TARGET)] {
            side.configure(
                "ip",
                &["address", "add", &format!("{address}/24"), "dev", "data0"],
            )?;
            side.configure("ip", &["link", "set", "data0", "up"])?;
            if let Some(rate) = link.rate() {
                // A burst of 256 KiB is four of the largest packets that the kernel hands over at once.
                let shape = ["qdisc", "add", "dev", "data0", "root", "tbf", "rate", rate];
                side.configure(
                    "tc",
                    &[&shape[..], &["burst", "256kb", "latency", "30ms"]].concat(),
                )?;
            }
        }
        Ok(Self { source, target })
    }

    /// Bytes that crossed the link so far, both directions together.
    pub(crate) fn wire_bytes(&self) -> Result<u64> {
        let output = self.source.command("cat").arg("/proc/self/net/dev").output()?;
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("data0:"));
        let fields: Vec<u64> = line
            .context("the link is gone")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        match fields[..] {
            [received, _, _, _, _, _, _, _, sent, ..] => Ok(received + sent),
            _ => bail!("/proc/net/dev has another format"),
        }
    }
}

/// Runs a program; fails with what it said.
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<()> {
    run_for(program, arguments).map(drop)
}

/// The same; returns what it printed.
pub(crate) fn run_for<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}; install it"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
