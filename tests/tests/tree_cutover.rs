//! `go2cloud sync DIR --freeze`: a directory in use is cut over; an agent that dies or hangs while everything is frozen; the
//! root file system with the agent and all its files on it. Every failure ends with a retry and a comparison.
#![cfg(test)]

use std::ffi::OsStr;
use std::path::Path;

use go2cloud_tests::bed::{Bed, Receiver};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::disk::Disk;
use go2cloud_tests::maketree;
use go2cloud_tests::writer::{PART_LEN, Writer};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn receiver(bed: &Bed) -> Receiver {
    bed.receiver_at(
        "127.0.0.1:0",
        &[OsStr::new("--into"), bed.path("target").as_os_str()],
    )
}

/// The writer's file as it was at one moment: the numbers of its parts are a row, wherever it stood in the file.
fn assert_of_one_moment(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let mut numbers: Vec<u64> = bytes
        .chunks(PART_LEN)
        .map(|part| u64::from_le_bytes(part[..8].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    let row: Vec<u64> = (numbers[0]..numbers[0] + numbers.len() as u64).collect();
    assert_eq!(numbers, row);
}

#[test]
fn an_agent_that_dies_or_hangs_while_a_tree_is_frozen_leaves_nothing_frozen() {
    let bed = Bed::new();
    let mut disk = Disk::new(96);
    disk.format(0, "ext4");
    let point = disk.mount(0, "noatime");
    std::fs::create_dir(point.join("still")).unwrap();
    maketree::source_code(&point.join("still"), 7, 50).unwrap();
    let receiver = receiver(&bed);
    let start = || {
        let mut command = bed.command_without_source(&receiver.address);
        // What is open for writing is sent while frozen: on this link it takes seconds.
        command.args([
            "--freeze",
            "--freeze-max",
            "7",
            "--connections",
            "1",
            "--bandwidth-limit",
            "16000",
        ]);
        command.arg(&point);
        command
    };
    let writer = Writer::default();
    let _ = writer.during(&point.join("rewritten"), 32 * MIB, || {
        writer.outlive(&bed, start).go_on()
    });
    assert_of_one_moment(&bed.path("target/rewritten"));
    compare(
        &point.join("still"),
        &bed.path("target/still"),
        Options::default(),
    )
    .assert_equal();
}

#[test]
fn the_root_file_system_with_the_agent_and_its_files_on_it_is_frozen() {
    let bed = Bed::new();
    let mut disk = Disk::new(500);
    disk.format(0, "ext4");
    let root = disk.mount(0, "relatime");
    maketree::source_code(&root.join("data"), 3, 100).unwrap();
    let receiver = receiver(&bed);
    // The receipt, too, lies on the file system that is frozen.
    let summary = bed.sync_with_root(&root, &receiver.address, "--cross-mounts --exclude /output /");
    assert_of_one_moment(&bed.path("target/rewritten"));
    compare(&root.join("data"), &bed.path("target/data"), Options::default()).assert_equal();
    let receipt: Value = serde_json::from_slice(&receipt_in(&root.join("state"))).unwrap();
    assert_eq!(
        receipt["receipt"]["summary"]["frozen_ms"], summary["frozen_ms"],
        "{receipt}"
    );
    assert!(!bed.path("target/state").exists() && !bed.path("target/output").exists());
}

fn receipt_in(folder: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names = entries.map(|entry| entry.path());
    let is_receipt = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("receipt-") && name.ends_with(".json")
    };
    std::fs::read(names.find(is_receipt).expect("a receipt")).unwrap()
}
