//! The boot check as a source asks for it, while its rounds go on: of the disks that this receiver writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use serde::Deserialize;
use transfer::boot_check::{Checker, Question, Reply};
use transfer::disk::target::past::{self, Past};
use transfer::link::auth::Id;
use transfer::progress::StopFlag;
use transfer::{Error, Kind, Result};

use super::nbd::Server;
use super::overlay::Below;
use super::{BootCheckArgs, check};
use crate::convert::command::FirmwareChoice;
use crate::convert::machine::Pin;
use crate::convert::options::Options;
use crate::layout::inventory::InterfaceRecord;

/// Programs that a check takes.
const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"];
/// Memory of the machine, in MiB.
pub(super) const MEMORY: u32 = 1024;
/// Time for the system to come up, in seconds: emulated on a busy host it takes its time.
pub(super) const TIMEOUT: u64 = 600;

/// Hardware address of the machine, from the range of QEMU.
const MAC: &str = "52:54:00:12:34:56";

/// What a source says of a check.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wish {
    /// Decisions about the conversion.
    convert: Options,
    /// Seconds for the system to come up.
    timeout: Option<u64>,
    /// Network interfaces of the source: the machine has one that takes the name of the first.
    interfaces: Vec<InterfaceRecord>,
}

/// Who answers. A check under way ends with it.
pub struct BootDesk {
    /// Folder for overlays, serial log and screenshot.
    output: PathBuf,
    /// The latest check.
    latest: Mutex<Option<Check>>,
    stop: Arc<StopFlag>,
}

/// A check, under way or over.
struct Check {
    id: Id,
    thread: Option<JoinHandle<Result<String>>>,
    reply: Reply,
}

impl Check {
    /// Whether it goes on.
    fn is_under_way(&mut self) -> bool {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            self.reply = match thread.join() {
                Ok(Ok(text)) => Reply::Done { text },
                Ok(Err(error)) => refused(&error),
                Err(_) => Reply::Refused {
                    text: "the check failed by a defect of the receiver; its messages show more".to_owned(),
                },
            };
        }
        self.thread.is_some()
    }
}

impl BootDesk {
    /// What a check leaves lies in a folder of `journal`.
    pub fn new(journal: &Path) -> Self {
        Self {
            output: journal.join("boot-check"),
            latest: Mutex::default(),
            stop: Arc::default(),
        }
    }

    fn latest(&self) -> MutexGuard<'_, Option<Check>> {
        self.latest
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, id: Id, wish: &str, disks: &[Arc<Past>]) -> Result<Reply> {
        let mut latest = self.latest();
        if latest.as_mut().is_some_and(Check::is_under_way) {
            return Ok(Reply::Busy);
        }
        can()?;
        let unclear = |error: serde_json::Error| {
            Error::new(Kind::Corrupt, "understand what the source wants to be checked").because(error)
        };
        let wish: Wish = serde_json::from_str(wish).map_err(unclear)?;
        fs::create_dir_all(&self.output)
            .map_err(|error| Error::io("make the output folder", &self.output, error))?;
        let mut kept = Kept::default();
        for (number, disk) in disks.iter().enumerate() {
            kept.add(disk, &self.output, number)?;
        }
        let (output, stop) = (self.output.clone(), Arc::clone(&self.stop));
        let thread = thread::Builder::new()
            .name("boot check".to_owned())
            .spawn(move || verdict(wish, &kept, output, &stop))
            .map_err(|error| Error::new(Kind::Medium, "start a thread").because(error))?;
        *latest = Some(Check {
            id,
            thread: Some(thread),
            reply: Reply::Unknown,
        });
        Ok(Reply::UnderWay)
    }

    fn state(&self, id: Id) -> Reply {
        let mut latest = self.latest();
        let Some(check) = latest.as_mut().filter(|check| check.id == id) else {
            return Reply::Unknown;
        };
        if check.is_under_way() {
            Reply::UnderWay
        } else {
            check.reply.clone()
        }
    }
}

/// Disks as they were, as long as this lives.
#[derive(Default)]
struct Kept {
    disks: Vec<Arc<Past>>,
    views: Vec<Arc<past::Kept>>,
    servers: Vec<Server>,
}

impl Kept {
    fn add(&mut self, disk: &Arc<Past>, folder: &Path, number: usize) -> Result<()> {
        let kept = disk.keep(&folder.join(format!("replaced-{number}")))?;
        self.disks.push(Arc::clone(disk));
        self.views.push(Arc::clone(&kept));
        let socket = folder.join(format!("disk-{number}.sock"));
        self.servers.push(Server::start(kept, &socket)?);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.disks.iter().for_each(|disk| disk.let_go());
    }
}

/// Whether checks are possible here.
fn can() -> Result<()> {
    let refuse = |remedy: String| Error::new(Kind::Usage, "check that the copy boots").remedy(remedy);
    if rustix::process::geteuid().as_raw() != 0 {
        return Err(refuse("run the receiver as root".to_owned()));
    }
    let folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    let missing = |program: &&&str| !folders.iter().any(|folder| folder.join(program).is_file());
    match PROGRAMS.iter().find(missing) {
        None => Ok(()),
        Some(program) => Err(refuse(format!(
            "{program} is not installed where the receiver runs: install QEMU there (Debian: qemu-system-x86 and \
             qemu-utils), or leave out --boot-check"
        ))),
    }
}

/// Makes a check; gives its verdict as JSON.
fn verdict(wish: Wish, kept: &Kept, output: PathBuf, stop: &StopFlag) -> Result<String> {
    let args = BootCheckArgs {
        disk: Vec::new(),
        output,
        no_convert: false,
        firmware: FirmwareChoice::Auto,
        timeout: wish.timeout.unwrap_or(TIMEOUT),
        memory: MEMORY,
        emulate: false,
        interface: wish.interfaces.into_iter().take(1).map(pin).collect(),
        options: wish.convert,
        json: true,
    };
    let below: Vec<Below<'_>> = kept
        .servers
        .iter()
        .map(|server| Below::Past(&server.socket))
        .collect();
    let checked = check(&args, &below, stop);
    if kept.views.iter().any(|view| view.is_lost()) {
        return Err(
            Error::new(Kind::Medium, "keep the disks as they were for the check")
                .on(&args.output)
                .remedy("make room there for what the rounds replace while a check runs, then run again"),
        );
    }
    let verdict = checked?;
    serde_json::to_string(&verdict)
        .map_err(|error| Error::new(Kind::Corrupt, "write the verdict").because(error))
}

/// The machine's interface under the name of the source's.
fn pin(interface: InterfaceRecord) -> Pin {
    Pin {
        name: interface.name,
        source_mac: interface.mac,
        target_mac: MAC.to_owned(),
    }
}

fn refused(error: &Error) -> Reply {
    Reply::Refused {
        text: crate::chain(error),
    }
}

impl Checker for BootDesk {
    fn reply(&self, question: &Question, disks: &[Arc<Past>]) -> Reply {
        match question {
            Question::Can => can().map_or_else(
                |error| refused(&error),
                |()| Reply::Done {
                    text: format!("{} disks can be checked", disks.len()),
                },
            ),
            Question::Begin { id, wish } => {
                let begun = self.begin(*id, wish, disks);
                begun.unwrap_or_else(|error| refused(&error))
            }
            Question::Verdict { id } => self.state(*id),
        }
    }
}

impl Drop for BootDesk {
    fn drop(&mut self) {
        self.stop.stop();
        let thread = self.latest().take().and_then(|check| check.thread);
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}
