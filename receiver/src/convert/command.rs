//! The `convert` command: arguments, where the guest is, and what is shown of the outcome.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use transfer::{Error, Kind, Result};

use super::attach::{Access, Disks, Mounted, isolated};
use super::guest::Guest;
use super::machine::{Firmware, Machine, Pin, Volume};
use super::options::Options;
use super::step::Severity;
use super::{Report, Watcher, probe};
use crate::layout::grow;

/// Arguments of `convert`.
#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// Mounted root of the system, with its other file systems mounted below
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "disk",
        conflicts_with = "disk"
    )]
    pub root: Option<PathBuf>,

    /// Disk or image file of the system; repeat for each, in the order of the source's disks
    #[arg(long, value_name = "DEVICE|FILE")]
    pub disk: Vec<PathBuf>,

    /// Show what would be changed, as diffs and commands; write nothing
    #[arg(long, conflicts_with_all = ["undo", "check"])]
    pub plan: bool,

    /// Put back all originals
    #[arg(long, conflicts_with = "check")]
    pub undo: bool,

    /// Only verify that the system would boot
    #[arg(long)]
    pub check: bool,

    /// Firmware of the target machine
    #[arg(long, value_enum, default_value_t = FirmwareChoice::Auto)]
    pub firmware: FirmwareChoice,

    /// Disk that a BIOS starts [default: the only or first disk]
    #[arg(long, value_name = "DEVICE", conflicts_with = "disk")]
    pub boot_disk: Option<PathBuf>,

    /// An interface that keeps its name: its hardware address at the source (may be empty) and at the target; repeat
    #[arg(long, value_name = "NAME,SOURCE-MAC,TARGET-MAC", value_parser = parse_pin)]
    pub interface: Vec<Pin>,

    /// Use copied disks to their ends, as much as they are larger than the source's: the last partition of each, and
    /// what lies in it
    #[arg(long, conflicts_with_all = ["root", "plan", "check", "undo"])]
    pub grow: bool,

    /// Decisions about the system
    #[command(flatten)]
    pub options: Options,

    /// Write the report to standard output as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Firmware as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirmwareChoice {
    /// As the disks are laid out.
    Auto,
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// Parses an interface of the command line.
///
/// # Errors
/// What is wrong with it.
pub fn parse_pin(text: &str) -> std::result::Result<Pin, String> {
    let fields: Vec<&str> = text.split(',').collect();
    let [name, source, target] = fields[..] else {
        return Err("expected NAME,SOURCE-MAC,TARGET-MAC".to_owned());
    };
    let is_name = !name.is_empty() && name.len() < 16 && !name.contains(['/', ' ', '"']);
    if !is_name {
        return Err(format!("{name:?} is no interface name"));
    }
    let mac = |text: &str| {
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let is_mac = parts.len() == 6
            && parts
                .iter()
                .all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
        if is_mac {
            Ok(parts.join(":").to_lowercase())
        } else {
            Err(format!("{text:?} is no hardware address"))
        }
    };
    let source_mac = if source.is_empty() {
        String::new()
    } else {
        mac(source)?
    };
    Ok(Pin {
        name: name.to_owned(),
        source_mac,
        target_mac: mac(target)?,
    })
}

/// Runs the command. Gives whether the system is ready to boot.
///
/// # Errors
/// The guest cannot be found, read or written, or one of its tools fails.
pub fn run(args: ConvertArgs) -> Result<bool> {
    if rustix::process::geteuid().as_raw() != 0 {
        return Err(Error::new(Kind::Usage, "convert a system").remedy("run as root"));
    }
    if let Some(root) = &args.root {
        let guest = Guest::open(root)?;
        let found = probe::volumes_below(guest.root())?;
        let (disks, volumes) = found.map_or((Vec::new(), None), |(disks, volumes)| (disks, Some(volumes)));
        let boot_disk = args.boot_disk.clone().or_else(|| disks.first().cloned());
        return act(&args, &guest, &machine(&args, volumes, boot_disk));
    }
    let disks = Disks::attach(&args.disk)?;
    let gains = if args.grow {
        grow::grow_disks(&disks.devices)?
    } else {
        Vec::new()
    };
    isolated(|| {
        let access = if args.plan || args.check {
            Access::Read
        } else {
            Access::Write
        };
        let mounted = Mounted::new(&disks, access)?;
        if args.grow {
            grow::grow_mounted(&mounted.root, &mounted.volumes, &gains)?;
        }
        let guest = Guest::open(&mounted.root)?;
        let machine = machine(
            &args,
            Some(mounted.volumes.clone()),
            disks.devices.first().cloned(),
        );
        let result = act(&args, &guest, &machine);
        drop(guest);
        mounted.finish()?;
        result
    })
}

/// The firmware asked for, or the one that the disks are laid out for.
pub fn choose_firmware(choice: FirmwareChoice, volumes: Option<&[Volume]>) -> Firmware {
    match choice {
        FirmwareChoice::Bios => Firmware::Bios,
        FirmwareChoice::Uefi => Firmware::Uefi,
        FirmwareChoice::Auto => probe::firmware(volumes.unwrap_or_default()),
    }
}

fn machine(args: &ConvertArgs, volumes: Option<Vec<Volume>>, boot_disk: Option<PathBuf>) -> Machine {
    let firmware = choose_firmware(args.firmware, volumes.as_deref());
    Machine {
        volumes,
        boot_disk,
        firmware,
        pins: args.interface.clone(),
    }
}

fn act(args: &ConvertArgs, guest: &Guest, machine: &Machine) -> Result<bool> {
    if args.undo {
        return undo(args, guest, machine.boot_disk.as_deref());
    }
    let report = if args.plan {
        super::plan(guest, machine, &args.options)?
    } else if args.check {
        super::check(guest, machine, &args.options)?
    } else {
        super::convert(guest, machine, &args.options, &Console)?
    };
    if args.json {
        print(
            &serde_json::to_string(&report)
                .map_err(|error| Error::new(Kind::Corrupt, "write the report").because(error))?,
        );
    } else {
        print(&describe(&report, args));
    }
    Ok(report.ok)
}

fn undo(args: &ConvertArgs, guest: &Guest, boot_disk: Option<&Path>) -> Result<bool> {
    let (restored, findings) = super::undo(guest, boot_disk)?;
    if args.json {
        print(&serde_json::json!({ "restored": restored, "findings": findings.list() }).to_string());
        return Ok(true);
    }
    for finding in findings.list() {
        print(&format!("warning: {}; {}", finding.message, finding.remedy));
    }
    print(&format!("{} originals are back", restored.len()));
    Ok(true)
}

/// The report for a person.
fn describe(report: &Report, args: &ConvertArgs) -> String {
    let mut text = String::new();
    let firmware = match report.machine.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    };
    text.push_str(&format!("{} for {firmware}\n", report.facts.name));
    for step in &report.steps {
        text.push_str(&format!("\n[{}]\n", step.name));
        for change in &step.changes {
            if args.plan {
                text.push_str(&change.diff);
            } else {
                text.push_str(&format!("  {}: {}\n", change.path.display(), change.why));
            }
        }
        for command in &step.commands {
            text.push_str(&format!(
                "  run in the guest: {}  ({})\n",
                command.argv.join(" "),
                command.why
            ));
        }
    }
    for finding in &report.findings {
        let word = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Fatal => "FATAL",
        };
        let remedy = if finding.remedy.is_empty() {
            String::new()
        } else {
            format!("\n    remedy: {}", finding.remedy)
        };
        text.push_str(&format!(
            "\n{word} [{}]: {}{remedy}",
            finding.step, finding.message
        ));
    }
    let last = match (report.ok, args.plan, report.is_empty()) {
        (false, ..) => "this system will not boot on the target as it is",
        (true, true, false) => "nothing was written: this is the plan",
        (true, true, true) => "nothing to do",
        (true, false, true) => "nothing to do; everything is in order",
        (true, false, false) => "done and verified; undo with: convert --undo",
    };
    text.push_str(&format!("\n{last}"));
    text
}

fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let _ = writeln!(stdout, "{text}");
}

/// Says on standard error what is going on: making an initial RAM file system takes its time.
struct Console;

impl Watcher for Console {
    fn tool(&self, argv: &[String], why: &str) {
        let mut stderr = anstream::stderr().lock();
        let _ = writeln!(stderr, "running {} ({why})", argv.join(" "));
    }
}
