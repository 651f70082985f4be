//! Takes a process out of everything that ends or stops this program together with all of its control group: `cgroup.kill`,
//! systemd's SIGKILL to a unit, the freezer, `memory.oom.group`, and the kernel's search for memory.
//!
//! Only those hierarchies count by which processes are killed or stopped: version 2, and of version 1 the freezer and
//! systemd's own. What limits or accounts for resources stays as it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, mounts};

/// A group of our own, for where the uppermost one takes no processes because its subgroups have limits. All programs of a
/// machine share it: whoever leaves it empty removes it.
const REFUGE: &str = "go2cloud-watchdog";
/// Attempts to enter the refuge while others remove it.
const ATTEMPTS_MAX: u32 = 5;
/// The kernel's number of the first namespace of control groups (`PROC_CGROUP_INIT_INO`).
const FIRST_NAMESPACE: u64 = 0xefff_fffb;

/// Where a process has gone, and what may still end it.
#[derive(Debug, Default)]
pub(crate) struct Shelter {
    /// Groups made for it; [`Shelter::leave`] them when it has ended.
    refuges: Vec<PathBuf>,
    /// Why it may be ended together with this program.
    pub(crate) exposure: Option<String>,
}

impl Shelter {
    /// Moves `process` out of this program's groups and exempts it from the search for memory.
    pub(crate) fn take(process: i32) -> Self {
        let mut shelter = Self::default();
        if let Err(error) = write(&proc(process, "oom_score_adj"), "-1000") {
            shelter.exposure = Some(format!("the kernel may end it when memory runs out ({error})"));
        }
        let failed = |error: io::Error| format!("its control group is not known ({error})");
        match shelter.leave_groups(process) {
            Ok(None) => {}
            Ok(Some(group)) => {
                shelter.exposure = Some(format!("it cannot leave the control group {group}"));
            }
            Err(error) => shelter.exposure = Some(failed(error)),
        }
        shelter
    }

    /// Returns a group that the process is still in, below others that may be ended as a whole.
    fn leave_groups(&mut self, process: i32) -> io::Result<Option<String>> {
        let Some(groups) = groups_of(process)? else {
            return Ok(None);
        };
        let mounts = mounts()?;
        for (hierarchy, _) in groups.iter().filter(|(_, path)| path != "/") {
            for mount in mounts.iter().filter(|mount| hierarchy.is_at(mount)) {
                if self.enter(&mount.point, process).is_ok() {
                    break;
                }
            }
        }
        let refuge = format!("/{REFUGE}");
        let left = groups_of(process)?.unwrap_or_default();
        let left = left.into_iter().map(|(_, path)| path);
        // In another namespace the uppermost group is only that of the container.
        let is_first = is_in_first_namespace(process);
        Ok(left
            .into_iter()
            .find(|path| !is_first || (path != "/" && *path != refuge)))
    }

    /// Moves the process to the uppermost group, or to one beside those below it.
    fn enter(&mut self, uppermost: &Path, process: i32) -> io::Result<()> {
        let process = process.to_string();
        if write(&uppermost.join("cgroup.procs"), &process).is_ok() {
            return Ok(());
        }
        let refuge = uppermost.join(REFUGE);
        let mut entered = Err(io::ErrorKind::NotFound.into());
        for _ in 0..ATTEMPTS_MAX {
            match std::fs::create_dir(&refuge) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            entered = write(&refuge.join("cgroup.procs"), &process);
            match &entered {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        self.refuges.push(refuge);
        entered
    }

    /// Removes what was made for the process, which has ended.
    pub(crate) fn leave(&mut self) {
        for refuge in self.refuges.drain(..) {
            // Another program's watchdog may be in it; that one removes it.
            let _ = std::fs::remove_dir(refuge);
        }
    }
}

/// A tree of control groups.
#[derive(Debug, PartialEq, Eq)]
enum Hierarchy {
    /// Version 2.
    Unified,
    /// Of version 1, by this option of its mount.
    Named(&'static str),
}

impl Hierarchy {
    /// By the field of `/proc/PID/cgroup`; `None` where nobody kills or stops by it.
    fn of(number: &str, controllers: &str) -> Option<Self> {
        if number == "0" && controllers.is_empty() {
            return Some(Self::Unified);
        }
        ["freezer", "name=systemd"]
            .into_iter()
            .find(|name| controllers.split(',').any(|controller| controller == *name))
            .map(Self::Named)
    }

    fn is_at(&self, mount: &Mount) -> bool {
        match self {
            Self::Unified => mount.kind == "cgroup2",
            Self::Named(name) => {
                mount.kind == "cgroup" && mount.options.split(',').any(|option| option == *name)
            }
        }
    }
}

/// The groups of a process; `None` where the kernel has none.
fn groups_of(process: i32) -> io::Result<Option<Vec<(Hierarchy, String)>>> {
    match std::fs::read_to_string(proc(process, "cgroup")) {
        Ok(text) => Ok(Some(parse(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Before 4.6 there is only one.
pub(crate) fn is_in_first_namespace(process: i32) -> bool {
    std::fs::metadata(proc(process, "ns/cgroup")).map_or(true, |namespace| namespace.ino() == FIRST_NAMESPACE)
}

fn parse(text: &str) -> Vec<(Hierarchy, String)> {
    let parse_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let hierarchy = Hierarchy::of(fields.next()?, fields.next()?)?;
        Some((hierarchy, fields.next()?.to_owned()))
    };
    text.lines().filter_map(parse_line).collect()
}

fn proc(process: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/{name}"))
}

/// The kernel takes what it is told in one piece, and only files that are there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_which_processes_are_killed_or_stopped() {
        let text = "9:name=systemd:/user.slice\n8:pids:/\n6:cpu,freezer:/a:b\n4:memory:/x\n0::/init.scope\n";
        let expected = [
            (Hierarchy::Named("name=systemd"), "/user.slice".to_owned()),
            (Hierarchy::Named("freezer"), "/a:b".to_owned()),
            (Hierarchy::Unified, "/init.scope".to_owned()),
        ];
        assert_eq!(parse(text), expected);
    }
}
