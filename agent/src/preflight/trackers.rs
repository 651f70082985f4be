//! Whether later rounds can be told what changed, and by which means.

use std::path::Path;

use sys::block_device::BlockDevice;
use sys::block_tracker::BlockTracker;
use sys::fanotify::{Queue, Watch};

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
    let Some(disk) = subject.inventory.disks.first() else {
        return Finding::info("T02", name, "no disk is visible");
    };
    match tracker(Path::new(&disk.device)) {
        Ok(method) => Finding::pass("T02", name, method),
        Err(why) => Finding::warn(
            "T02",
            name,
            format!("none on {}: {why}", disk.device),
            "later rounds of a block-level migration read every used block; mount tracefs and run as root",
        ),
    }
}

/// How the blocks of `device` can be tracked.
pub(super) fn tracker(device: &Path) -> Result<String, String> {
    match BlockDevice::look(device) {
        Ok(Some(device)) => match BlockTracker::attach(&device) {
            Ok(tracker) => Ok(tracker.method().to_string()),
            Err(error) => Err(error.to_string()),
        },
        Ok(None) => Err("not a block device".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
