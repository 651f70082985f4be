//! Whether later rounds can be told what changed, and by which means.

use std::path::Path;

use sys::fanotify::{Queue, Watch};
use transfer::disk::source::examine;

use super::{Finding, Subject};

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = vec![files(&subject.plan.source_root)];
    if subject.is_whole() {
        findings.push(blocks(subject));
    }
    findings
}

fn files(root: &Path) -> Finding {
    let name = "change tracker (files)";
    let watched = match Watch::new(Queue::Unlimited) {
        Ok(Some(watch)) => watch.add(root).map_err(|error| error.to_string()),
        Ok(None) => Ok(false),
        Err(error) => Err(error.to_string()),
    };
    match watched {
        Ok(true) => Finding::pass("T01", name, "fanotify names the directories that change"),
        Ok(false) => Finding::info(
            "T01",
            name,
            "fanotify is not available here: later rounds look at every entry",
        ),
        Err(why) => Finding::info(
            "T01",
            name,
            format!("fanotify fails ({why}): later rounds look at every entry"),
        ),
    }
}

fn blocks(subject: &Subject<'_>) -> Finding {
    let name = "change tracker (blocks)";
    let disks = &subject.inventory.disks;
    if disks.is_empty() {
        return Finding::info("T02", name, "no disk is visible");
    }
    let (mut tracked, mut told) = (true, Vec::new());
    for disk in disks {
        match examine(Path::new(&disk.device)) {
            Ok(seen) => {
                tracked &= seen.is_tracked;
                told.push(format!("{}: {}", disk.device, seen.tracking));
            }
            Err(error) => {
                tracked = false;
                told.push(format!("{}: {error}", disk.device));
            }
        }
    }
    let told = told.join("; ");
    if tracked {
        return Finding::pass("T02", name, told);
    }
    Finding::warn(
        "T02",
        name,
        told,
        "later rounds of a block-level migration read every used block of a disk that is not tracked; mount tracefs and run \
         as root",
    )
}
