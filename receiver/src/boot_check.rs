//! Proof that a target boots, without touching it: a copy-on-write overlay over its disks is converted and started in a
//! virtual machine on a network that leads nowhere. It can run while replication goes on: what a receiver's rounds replace
//! meanwhile it puts aside first. The disks are only read.
//!
//! The story: overlays → convert in them → add a probe → start → wait for the probe's words, or for the deadline →
//! screenshot, verdict. Whatever happens, machine, overlays and loop devices are released.

pub mod desk;
mod machine;
mod nbd;
mod overlay;
mod probe;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use transfer::progress::StopFlag;
use transfer::{Error, Kind, Result};

use crate::convert::attach::{Access, Disks, Mounted, isolated};
use crate::convert::command::{FirmwareChoice, choose_firmware, parse_pin};
use crate::convert::guest::Guest;
use crate::convert::machine::{Firmware, Machine, Pin};
use crate::convert::options::Options;
use crate::convert::{self, Unwatched};
use machine::{Hardware, VirtualMachine};
use overlay::{Below, Overlay};
use probe::Words;

/// Arguments of `boot-check`.
#[derive(Args, Debug)]
pub struct BootCheckArgs {
    /// Disk or image file of the system; repeat for each, in the order of the source's disks. They are only read
    #[arg(long, value_name = "DEVICE|FILE", required = true)]
    pub disk: Vec<PathBuf>,

    /// Folder for the overlay, the serial log and the screenshot
    #[arg(long, value_name = "DIR", default_value = "boot-check")]
    pub output: PathBuf,

    /// Start the disks as they are, without converting the overlay
    #[arg(long)]
    pub no_convert: bool,

    /// Firmware of the machine
    #[arg(long, value_enum, default_value_t = FirmwareChoice::Auto)]
    pub firmware: FirmwareChoice,

    /// Seconds for the system to come up
    #[arg(long, value_name = "SECONDS", default_value_t = desk::TIMEOUT)]
    pub timeout: u64,

    /// Memory of the machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = desk::MEMORY)]
    pub memory: u32,

    /// Emulate the processor even where it could be used directly
    #[arg(long)]
    pub emulate: bool,

    /// An interface that keeps its name, as for `convert`
    #[arg(long, value_name = "NAME,SOURCE-MAC,TARGET-MAC", value_parser = parse_pin)]
    pub interface: Vec<Pin>,

    /// Decisions about the conversion
    #[command(flatten)]
    pub options: Options,

    /// Write the verdict to standard output as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Whether the system came up: kernel, root file system, no failed unit.
    pub ok: bool,
    /// Whether the overlay was converted and verified; `None` when that was not asked for.
    pub converted: Option<bool>,
    /// Whether the kernel said anything.
    pub kernel_reached: bool,
    /// What the probe inside said; `None` when it never did.
    pub inside: Option<Words>,
    /// Why the check ended: `probe`, `deadline`, `machine ended` or `stopped`.
    pub ended: &'static str,
    /// Seconds from power on to the end.
    pub seconds: u64,
    /// What the system wrote to its serial console.
    pub serial_log: PathBuf,
    /// Picture of its screen at the end.
    pub screenshot: Option<PathBuf>,
}

/// Runs the check. Gives whether the system came up.
///
/// # Errors
/// The overlay cannot be made or converted, or the machine does not start.
pub fn run(args: &BootCheckArgs) -> Result<bool> {
    let below: Vec<Below<'_>> = args.disk.iter().map(|disk| Below::Disk(disk)).collect();
    let verdict = check(args, &below, &StopFlag::default())?;
    show(&verdict, args.json)?;
    Ok(verdict.ok)
}

/// Makes the check on overlays over `below`. Told to stop, it does not wait for the system to come up.
fn check(args: &BootCheckArgs, below: &[Below<'_>], stop: &StopFlag) -> Result<Verdict> {
    if rustix::process::geteuid().as_raw() != 0 {
        return Err(Error::new(Kind::Usage, "check that a system boots").remedy("run as root"));
    }
    std::fs::create_dir_all(&args.output)
        .map_err(|error| Error::io("make the output folder", &args.output, error))?;
    let output = std::fs::canonicalize(&args.output)
        .map_err(|error| Error::io("find the output folder", &args.output, error))?;
    let overlays = below
        .iter()
        .enumerate()
        .map(|(index, below)| Overlay::new(below, &output.join(format!("overlay-{index}.qcow2"))))
        .collect::<Result<Vec<_>>>()?;
    let (converted, firmware) = prepare(args, &overlays)?;
    let verdict = start(args, &output, &overlays, converted, firmware, stop)?;
    for overlay in overlays {
        overlay.discard();
    }
    Ok(verdict)
}

/// Converts the overlays and adds the probe.
fn prepare(args: &BootCheckArgs, overlays: &[Overlay]) -> Result<(Option<bool>, Firmware)> {
    let exports = overlays.iter().map(Overlay::export).collect::<Result<Vec<_>>>()?;
    let paths: Vec<PathBuf> = exports.iter().map(|export| export.path.clone()).collect();
    let disks = Disks::attach(&paths)?;
    isolated(|| {
        let mounted = Mounted::new(&disks, Access::Write)?;
        let guest = Guest::open(&mounted.root)?;
        let firmware = choose_firmware(args.firmware, Some(&mounted.volumes));
        let mut converted = None;
        if !args.no_convert {
            let machine = Machine {
                volumes: Some(mounted.volumes.clone()),
                boot_disk: disks.devices.first().cloned(),
                firmware,
                pins: args.interface.clone(),
            };
            converted = Some(convert::convert(&guest, &machine, &args.options, &Unwatched)?.ok);
        }
        probe::add(&guest)?;
        drop(guest);
        mounted.finish()?;
        Ok((converted, firmware))
    })
}

fn start(
    args: &BootCheckArgs,
    output: &std::path::Path,
    overlays: &[Overlay],
    converted: Option<bool>,
    firmware: Firmware,
    stop: &StopFlag,
) -> Result<Verdict> {
    let hardware = Hardware {
        disks: overlays.iter().map(|overlay| overlay.path.clone()).collect(),
        firmware,
        memory: args.memory,
        mac: args.interface.first().map(|pin| pin.target_mac.clone()),
        emulate: args.emulate,
    };
    let mut machine = VirtualMachine::start(&hardware, output)?;
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs(args.timeout);
    let (mut inside, mut ended) = (None, "deadline");
    while Instant::now() < deadline {
        inside = probe::read(&machine.words);
        if inside.is_some() {
            ended = "probe";
            break;
        }
        if machine.has_ended()? {
            ended = "machine ended";
            break;
        }
        if stop.sleep(Duration::from_millis(500)) {
            ended = "stopped";
            break;
        }
    }
    let screenshot = machine.screenshot(&output.join("screen.png"));
    let seconds = begin.elapsed().as_secs();
    let serial = std::fs::read(&machine.serial).unwrap_or_default();
    let says = |text: &str| serial.windows(text.len()).any(|window| window == text.as_bytes());
    let ok = inside.as_ref().is_some_and(Words::is_up) && converted != Some(false);
    Ok(Verdict {
        ok,
        converted,
        kernel_reached: inside.is_some() || says("Linux version") || says("Loading initial ramdisk"),
        inside,
        ended,
        seconds,
        serial_log: machine.serial.clone(),
        screenshot,
    })
}

fn show(verdict: &Verdict, json: bool) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    if json {
        let text = serde_json::to_string(verdict)
            .map_err(|error| Error::new(Kind::Corrupt, "write the verdict").because(error))?;
        let _ = writeln!(stdout, "{text}");
        return Ok(());
    }
    let _ = writeln!(
        stdout,
        "{}",
        if verdict.ok {
            "it boots"
        } else {
            "it does NOT boot as it should"
        }
    );
    if let Some(words) = &verdict.inside {
        let _ = writeln!(
            stdout,
            "kernel {}, root {}, addresses {}",
            words.kernel,
            words.root,
            words.addresses.join(" ")
        );
        for unit in &words.failed_units {
            let _ = writeln!(stdout, "failed unit: {unit}");
        }
    }
    let _ = writeln!(
        stdout,
        "ended by {} after {} s; serial log: {}",
        verdict.ended,
        verdict.seconds,
        verdict.serial_log.display()
    );
    if let Some(screenshot) = &verdict.screenshot {
        let _ = writeln!(stdout, "screenshot: {}", screenshot.display());
    }
    Ok(())
}
