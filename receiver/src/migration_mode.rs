//! Process 1 of the migration image: a target machine that holds nothing but this program, its disk tools and a kernel.
//!
//! The story: mount what the kernel offers → load drivers → read settings → network → lay out disks and mount them, or
//! take them whole → serve, and show on the console what to do → when told: convert, reboot into the migrated system.
//! Process 1 never ends: the kernel would panic. Whatever fails is shown, and the console goes on taking commands.

mod boot;
mod console;
mod network;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};
use transfer::progress::{Event, Observer, StopFlag};
use transfer::secret::Secret;
use transfer::target::{DiskTarget, Receiver, ServePlan, TargetVolume};
use transfer::{Error, Kind, Result};

use crate::convert::attach::{Access, Disks, Mounted, isolated};
use crate::convert::guest::Guest;
use crate::convert::machine::{Firmware, Machine, Pin, Volume};
use crate::convert::{self, Watcher, probe};
use crate::layout;
use crate::layout::partitions::{Freedom, TargetDisk};
use console::{Request, say};
use settings::Settings;

/// Where the target's tree is mounted.
const TREE: &str = "/target";
/// Journals live in memory: a machine in migration mode that restarts begins with a comparison of everything.
const JOURNAL: &str = "/run/go2cloud/journal";

/// Whether this program was started by the kernel of the migration image.
pub fn is_wanted(program: &std::ffi::OsStr) -> bool {
    std::process::id() == 1 && Path::new(program).file_name().is_some_and(|name| name == "init")
}

/// Runs the machine; never returns.
pub fn run() -> ! {
    let outcome = std::panic::catch_unwind(|| {
        if let Err(error) = live() {
            say(&format!("migration mode failed: {}", crate::chain(&error)));
        }
    });
    if outcome.is_err() {
        say("migration mode failed: this is a defect of the program; please report what stands above");
    }
    say("commands: reboot, poweroff");
    loop {
        match console::next() {
            Request::Reboot => leave(RebootCommand::Restart),
            Request::PowerOff => leave(RebootCommand::PowerOff),
            _ => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn live() -> Result<()> {
    boot::mount_kernel_file_systems()?;
    let drivers = boot::load_drivers()?;
    let settings = Settings::find()?;
    let disks = boot::wait_for_disks(settings.disks.len().max(1));
    say(&format!(
        "go2cloud {} in migration mode: {drivers} drivers, disks: {}",
        env!("CARGO_PKG_VERSION"),
        list(&disks)
    ));
    let addresses = network::bring_up(&settings.network)?;
    let mut station = Station::new(settings, disks)?;
    station.serve(&addresses)?;
    loop {
        match console::next() {
            Request::Nothing => {}
            Request::Help => station.help(),
            Request::Status => station.status(),
            request @ (Request::Convert | Request::Finish) => {
                let result = station.finish();
                let is_ready = matches!(result, Ok(true));
                report(result);
                if is_ready && request == Request::Finish {
                    station.release();
                    leave(RebootCommand::Restart);
                }
                if !is_ready {
                    // Another round from the source may be what it takes.
                    station.serve(&addresses)?;
                }
            }
            Request::Reboot => {
                station.release();
                leave(RebootCommand::Restart);
            }
            Request::PowerOff => {
                station.release();
                leave(RebootCommand::PowerOff);
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

fn report(result: Result<bool>) {
    match result {
        Ok(true) => say("the system is converted and verified: CONVERTED"),
        Ok(false) => say("the system would not boot; see above: NOT CONVERTED"),
        Err(error) => say(&format!("{}: NOT CONVERTED", crate::chain(&error))),
    }
}

fn leave(command: RebootCommand) -> ! {
    rustix::fs::sync();
    if let Err(error) = reboot(command) {
        say(&format!("the kernel refuses: {error}"));
    }
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// The machine's work: its disks and what is served into them.
struct Station {
    settings: Settings,
    disks: Vec<PathBuf>,
    secret: Secret,
    is_tree: bool,
    serving: Option<(Arc<StopFlag>, JoinHandle<()>)>,
    help: String,
}

impl Station {
    fn new(settings: Settings, found: Vec<PathBuf>) -> Result<Self> {
        let disks = if settings.disks.is_empty() {
            found
        } else {
            settings.disks.clone()
        };
        let secret = match &settings.secret {
            Some(text) => Secret::parse(text.as_bytes())?,
            None => Secret::generate()?,
        };
        let is_tree = settings.inventory.is_some();
        let station = Self {
            settings,
            disks,
            secret,
            is_tree,
            serving: None,
            help: String::new(),
        };
        if is_tree {
            station.lay_out()?;
        }
        Ok(station)
    }

    /// Makes the disks what the source's are and mounts the tree.
    fn lay_out(&self) -> Result<()> {
        let Some(inventory) = &self.settings.inventory else {
            return Ok(());
        };
        let freedom = Freedom {
            minify: self.settings.minify,
            grow: self.settings.grow,
        };
        let targets = self
            .disks
            .iter()
            .map(|disk| layout::command::target(disk))
            .collect::<Result<Vec<(PathBuf, TargetDisk)>>>()?;
        let planned = layout::plan::plan(inventory, &targets, freedom).map_err(|refusals| {
            Error::new(Kind::Usage, "lay out the disks")
                .because(refusals.join("\n  and "))
                .remedy("see what follows")
        })?;
        let used = &self.disks[..inventory.disks.len().min(self.disks.len())];
        layout::command::refuse(used, self.settings.overwrite)?;
        layout::command::apply(&planned)?;
        std::fs::create_dir_all(TREE).map_err(|error| Error::io("make a mount point", TREE, error))?;
        layout::command::mount(&planned, Path::new(TREE))
    }

    fn serve(&mut self, addresses: &[String]) -> Result<()> {
        let volume = if self.is_tree {
            TargetVolume::Tree {
                root: PathBuf::from(TREE),
            }
        } else {
            let target = |path: &PathBuf| DiskTarget {
                path: path.clone(),
                overwrite: self.settings.overwrite,
            };
            TargetVolume::Disks(self.disks.iter().map(target).collect())
        };
        let listen: SocketAddr = self.settings.listen;
        let plan = ServePlan {
            listen,
            secret: self.secret.clone(),
            volume,
            journal: PathBuf::from(JOURNAL),
        };
        let receiver = Receiver::bind(plan)?;
        self.help = self.describe(addresses, receiver.local_addr().port());
        let stop = Arc::new(StopFlag::default());
        let flag = Arc::clone(&stop);
        let serving = thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || {
                if let Err(error) = receiver.run(&Narrator, &flag) {
                    say(&format!("serving ended: {}", crate::chain(&error)));
                }
            })
            .map_err(|error| Error::new(Kind::Medium, "start a thread").because(error))?;
        self.serving = Some((stop, serving));
        self.help();
        Ok(())
    }

    fn describe(&self, addresses: &[String], port: u16) -> String {
        let what = if self.is_tree {
            "/".to_owned()
        } else {
            "--disk DISK (one for each target disk)".to_owned()
        };
        let mut text = format!("listening on port {port}; addresses: {}\n", addresses.join(", "));
        if self.settings.secret.is_none() {
            // Nobody configured one: it has to be carried by hand, and this console is where.
            text.push_str(&format!(
                "secret: {}\n",
                String::from_utf8_lossy(self.secret.expose())
            ));
        }
        let address = addresses.first().map_or("ADDRESS", String::as_str);
        text.push_str(&format!(
            "at the source: go2cloud sync --to {address}:{port} --secret-file FILE {what}\n"
        ));
        text.push_str(
            "commands here: status, convert, finish (convert and reboot), reboot, poweroff, help\nREADY",
        );
        text
    }

    fn help(&self) {
        say(&self.help);
    }

    fn status(&self) {
        let is_serving = self
            .serving
            .as_ref()
            .is_some_and(|(_, thread)| !thread.is_finished());
        say(if is_serving { "serving" } else { "not serving" });
    }

    fn stop(&mut self) {
        if let Some((stop, thread)) = self.serving.take() {
            stop.stop();
            // A panic of the thread was shown already.
            let _ = thread.join();
        }
    }

    /// Stops serving and converts what arrived.
    fn finish(&mut self) -> Result<bool> {
        self.stop();
        if self.is_tree {
            let guest = Guest::open(Path::new(TREE))?;
            let found = probe::volumes_below(guest.root())?;
            let volumes = found.map(|(_, volumes)| volumes);
            return self.convert(&guest, volumes, self.disks.first().cloned());
        }
        let disks = Disks::attach(&self.disks)?;
        isolated(|| {
            let mounted = Mounted::new(&disks, Access::Write)?;
            let guest = Guest::open(&mounted.root)?;
            let result = self.convert(
                &guest,
                Some(mounted.volumes.clone()),
                disks.devices.first().cloned(),
            );
            drop(guest);
            mounted.finish()?;
            result
        })
    }

    fn convert(
        &self,
        guest: &Guest,
        volumes: Option<Vec<Volume>>,
        boot_disk: Option<PathBuf>,
    ) -> Result<bool> {
        let firmware = if Path::new("/sys/firmware/efi").exists() {
            Firmware::Uefi
        } else {
            Firmware::Bios
        };
        let machine = Machine {
            volumes,
            boot_disk,
            firmware,
            pins: self.pins(),
        };
        let report = convert::convert(guest, &machine, &self.settings.convert, &Narrator)?;
        for finding in &report.findings {
            say(&format!(
                "{:?} [{}]: {}; {}",
                finding.severity, finding.step, finding.message, finding.remedy
            ));
        }
        Ok(report.ok)
    }

    /// Interfaces of the source, in their order, keep their names on this machine's.
    fn pins(&self) -> Vec<Pin> {
        let Some(inventory) = &self.settings.inventory else {
            return self.settings.interfaces.clone();
        };
        let ours = network::hardware_addresses();
        let pair = |(source, (_, target_mac)): (&layout::inventory::InterfaceRecord, (String, String))| Pin {
            name: source.name.clone(),
            source_mac: source.mac.clone(),
            target_mac,
        };
        inventory.interfaces.iter().zip(ours).map(pair).collect()
    }

    fn release(&mut self) {
        self.stop();
        if self.is_tree {
            for _ in 0..20 {
                let umount = std::process::Command::new("umount")
                    .args(["--recursive", TREE])
                    .output();
                if umount.is_ok_and(|output| output.status.success()) {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        // Volume groups that are in use stay; nothing is lost by that.
        let _ = std::process::Command::new("lvm")
            .args(["vgchange", "--activate", "n"])
            .output();
    }
}

/// Tells the console what the data plane and the conversion do.
struct Narrator;

impl Observer for Narrator {
    fn event(&self, event: &Event) {
        match event {
            Event::Connected { target, connections } => {
                say(&format!("connected: {target}, {connections} connections"));
            }
            Event::Warning { message } => say(message),
            _ => {}
        }
    }
}

impl Watcher for Narrator {
    fn step(&self, name: &str) {
        say(&format!("converting: {name}"));
    }

    fn tool(&self, argv: &[String], why: &str) {
        say(&format!("running {} ({why})", argv.join(" ")));
    }
}
