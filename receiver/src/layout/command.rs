//! The `inventory` and `layout` commands.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use sys::block_device::BlockDevice;
use transfer::{Error, Kind, Result};

use super::file_system::without_new_options;
use super::inventory::{Inventory, VERSION};
use super::partitions::{Freedom, TargetDisk};
use super::plan::{Action, Layout, Subvolumes, plan};
use super::survey::survey;
use crate::convert::attach::refuse_used;
use crate::convert::probe::tool;
use crate::limits::PROBE_TIME_MAX;

/// Arguments of `inventory`.
#[derive(Args, Debug)]
pub struct InventoryArgs {
    /// Disks to look at [default: all]
    #[arg(long, value_name = "DEVICE")]
    pub disk: Vec<PathBuf>,
}

/// Arguments of `layout`.
#[derive(Args, Debug)]
pub struct LayoutArgs {
    /// The source's inventory, written by `go2cloud-receiver inventory` at the source
    #[arg(long, value_name = "FILE")]
    pub inventory: PathBuf,

    /// Target disks in the order of the source's; repeat
    #[arg(long, value_name = "DEVICE", required = true)]
    pub disk: Vec<PathBuf>,

    /// Allow smaller disks when the data fit
    #[arg(long)]
    pub minify: bool,

    /// Grow the last partition into what a larger disk has more
    #[arg(long)]
    pub grow: bool,

    /// Overwrite disks that already carry something
    #[arg(long)]
    pub overwrite: bool,

    /// Show the commands; write nothing
    #[arg(long)]
    pub plan: bool,

    /// Mount the new file systems below this directory, ready for `--into`
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
}

/// Writes the inventory of this machine to standard output.
///
/// # Errors
/// A disk cannot be read.
pub fn run_inventory(args: &InventoryArgs) -> Result<bool> {
    let inventory = survey(&args.disk)?;
    let text = serde_json::to_string_pretty(&inventory)
        .map_err(|error| Error::new(Kind::Corrupt, "write the inventory").because(error))?;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(true)
}

/// Lays out disks.
///
/// # Errors
/// It is impossible, a disk is in use or not empty, or a tool fails.
pub fn run_layout(args: &LayoutArgs) -> Result<bool> {
    let inventory = read_inventory(&args.inventory)?;
    let targets = args
        .disk
        .iter()
        .map(|path| target(path))
        .collect::<Result<Vec<_>>>()?;
    let freedom = Freedom {
        minify: args.minify,
        grow: args.grow,
    };
    let layout = plan(&inventory, &targets, freedom).map_err(|refusals| {
        Error::new(Kind::Usage, "lay out the disks")
            .because(refusals.join("\n  and "))
            .remedy("see what follows")
    })?;
    let mut stdout = anstream::stdout().lock();
    if args.plan {
        for action in &layout.actions {
            let _ = writeln!(stdout, "{}", action.argv.join(" "));
            for line in action.input.iter().flat_map(|input| input.lines()) {
                let _ = writeln!(stdout, "    {line}");
            }
        }
        return Ok(true);
    }
    refuse(&args.disk, args.overwrite)?;
    apply(&layout)?;
    if let Some(root) = &args.mount {
        mount(&layout, root)?;
    }
    let _ = writeln!(stdout, "{} disks are laid out", inventory.disks.len());
    Ok(true)
}

/// Reads an inventory.
///
/// # Errors
/// It cannot be read, or is of another version.
pub fn read_inventory(path: &Path) -> Result<Inventory> {
    let bytes = fs::read(path).map_err(|error| Error::io("read the inventory", path, error))?;
    let bad = || {
        Error::new(Kind::Usage, "read the inventory")
            .on(path)
            .remedy("write it anew at the source: go2cloud-receiver inventory")
    };
    let inventory: Inventory = serde_json::from_slice(&bytes).map_err(|error| bad().because(error))?;
    if inventory.version == VERSION {
        Ok(inventory)
    } else {
        Err(bad().because(format!("it is of version {}", inventory.version)))
    }
}

/// Looks at a disk of the target.
///
/// # Errors
/// It is no whole disk.
pub fn target(path: &Path) -> Result<(PathBuf, TargetDisk)> {
    let disk = BlockDevice::look(path)
        .map_err(|error| Error::io("look at the disk", path, error))?
        .ok_or_else(|| {
            Error::new(Kind::Usage, "lay out something that is no disk")
                .on(path)
                .remedy("name block devices")
        })?;
    if disk.is_partition() {
        return Err(Error::new(Kind::Usage, "lay out a partition")
            .on(path)
            .remedy("name whole disks"));
    }
    Ok((
        path.to_owned(),
        TargetDisk {
            len: disk.len,
            sector_len: u64::from(disk.logical_sector_len),
        },
    ))
}

/// Refuses disks in use and, unless told otherwise, disks that carry something; names all of what was seen.
///
/// # Errors
/// A disk is refused, or cannot be read.
pub fn refuse(disks: &[PathBuf], overwrite: bool) -> Result<()> {
    let mut seen = Vec::new();
    for disk in disks {
        refuse_used(disk)?;
        let found = tool(
            "wipefs",
            &[
                "--noheadings",
                "--output",
                "TYPE,LABEL",
                &disk.display().to_string(),
            ],
            None,
        )?
        .unwrap_or_default();
        for line in found.lines().map(str::trim).filter(|line| !line.is_empty()) {
            seen.push(format!("{}: {line}", disk.display()));
        }
    }
    if seen.is_empty() || overwrite {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "lay out disks that carry something")
        .because(seen.join("\n  and "))
        .remedy("check that these are the right disks, then add --overwrite"))
}

/// Runs all commands.
///
/// # Errors
/// One fails.
pub fn apply(layout: &Layout) -> Result<()> {
    for action in &layout.actions {
        run(action)?;
        if let Some((disk, count)) = &action.partitions {
            wait_for_partitions(disk, *count)?;
        }
    }
    layout.subvolumes.iter().try_for_each(make_subvolumes)
}

fn run(action: &Action) -> Result<()> {
    let first = execute(&action.argv, action.input.as_deref());
    match (first, without_new_options(&action.argv)) {
        // Older tools: an option that only states a default may go, the rest must work.
        (Err(_), Some(shorter)) if action.argv[0].starts_with("mk") => {
            execute(&shorter, action.input.as_deref())
        }
        (result, _) => result,
    }
}

fn execute(argv: &[String], input: Option<&str>) -> Result<()> {
    let failed = |error: String| Error::new(Kind::Medium, format!("run {}", argv.join(" "))).because(error);
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| failed("nothing to run".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("DM_DISABLE_UDEV", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.unwrap_or_default().as_bytes())
            .map_err(|error| failed(error.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// The kernel may not read tables by itself, and nodes appear a moment later.
fn wait_for_partitions(disk: &Path, count: usize) -> Result<()> {
    let deadline = Instant::now() + PROBE_TIME_MAX;
    loop {
        // It fails for partitions that are there already.
        let _ = tool("partx", &["--update", &disk.display().to_string()], None);
        let found = BlockDevice::look(disk)
            .ok()
            .flatten()
            .and_then(|disk| disk.partitions().ok())
            .unwrap_or_default();
        if found.len() >= count && found.iter().all(|partition| partition.path.exists()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(Kind::Medium, "see the new partitions")
                .on(disk)
                .remedy("check that nothing else uses the disk"));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn make_subvolumes(subvolumes: &Subvolumes) -> Result<()> {
    let place = PathBuf::from(format!("/run/go2cloud-layout-{}", std::process::id()));
    fs::create_dir_all(&place).map_err(|error| Error::io("make a mount point", &place, error))?;
    let (device, at) = (
        subvolumes.device.display().to_string(),
        place.display().to_string(),
    );
    tool("mount", &["-t", "btrfs", "-o", "subvolid=5", &device, &at], None)?;
    let make = || -> Result<()> {
        for path in &subvolumes.paths {
            let full = place.join(path);
            let parent = full.parent().unwrap_or(&place);
            fs::create_dir_all(parent).map_err(|error| Error::io("make a folder", parent, error))?;
            tool(
                "btrfs",
                &["subvolume", "create", &full.display().to_string()],
                None,
            )?;
        }
        if let Some(default) = &subvolumes.default {
            tool(
                "btrfs",
                &[
                    "subvolume",
                    "set-default",
                    &place.join(default).display().to_string(),
                ],
                None,
            )?;
        }
        Ok(())
    };
    let made = make();
    tool("umount", &[&at], None)?;
    let _ = fs::remove_dir(&place);
    made
}

/// Mounts the tree for the transfer.
///
/// # Errors
/// A file system cannot be mounted.
pub fn mount(layout: &Layout, root: &Path) -> Result<()> {
    for mount in &layout.mounts {
        let place = root.join(mount.at.trim_start_matches('/'));
        fs::create_dir_all(&place).map_err(|error| Error::io("make a mount point", &place, error))?;
        let (device, place) = (mount.device.display().to_string(), place.display().to_string());
        let options = if mount.options.is_empty() {
            "rw"
        } else {
            &mount.options
        };
        tool(
            "mount",
            &["-t", &mount.kind, "-o", options, &device, &place],
            None,
        )?;
    }
    Ok(())
}
