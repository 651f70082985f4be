//! Process 1 of the migration image: a target machine that holds nothing but this program, its disk tools and a kernel.
//!
//! The story: mount what the kernel offers → load drivers → read settings → network → lay out disks and mount them, or
//! take them whole → serve, and show on the console what to do → when told by the console, or by the source as its job
//! goes on: convert, reboot into the migrated system.
//! Process 1 never ends: the kernel would panic. Whatever fails is shown, and the console goes on taking commands.

mod boot;
mod console;
mod counter;
mod network;
pub mod preparation;
mod settings;
mod station;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};
use transfer::Result;
use transfer::progress::{Event, Observer};

use crate::convert::Report;
use console::{Request, say};
use counter::Counter;
use settings::Settings;
use station::Station;

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
    let station = Arc::new(Station::new(settings, disks)?);
    let counter = Counter::new(Arc::clone(&station), addresses);
    counter.open()?;
    loop {
        if station.is_to_restart() {
            counter.leave(RebootCommand::Restart);
        }
        match console::next() {
            Request::Nothing => {}
            Request::Help => counter.help(),
            Request::Status => counter.status(),
            request @ (Request::Convert | Request::Finish) => {
                counter.close();
                let result = station.convert(&|_| {});
                let is_ready = result.as_ref().is_ok_and(|report| report.ok);
                report(&result);
                if is_ready && request == Request::Finish {
                    counter.leave(RebootCommand::Restart);
                }
                // Another round from the source may be what it takes.
                counter.open()?;
            }
            Request::Reboot => counter.leave(RebootCommand::Restart),
            Request::PowerOff => counter.leave(RebootCommand::PowerOff),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

fn report(result: &Result<Report>) {
    match result {
        Ok(report) => {
            for line in station::findings(report) {
                say(&line);
            }
            say(if report.ok {
                "the system is converted and verified: CONVERTED"
            } else {
                "the system would not boot; see above: NOT CONVERTED"
            });
        }
        Err(error) => say(&format!("{}: NOT CONVERTED", crate::chain(error))),
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

/// Tells the console what the data plane does.
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
