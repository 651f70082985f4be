//! The replica's memory does not grow with the number of entries. In a program of its own, so that the peak is its own.

use transfer::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use transfer::tree::replica::{Record, Replica, Version};

const ENTRIES: u64 = 300_000;

/// 24 MiB to sort in, some readers and writers, the program itself.
const PEAK_KIB_MAX: u64 = 80 * 1024;

fn record(at: u64, version: u64) -> Record {
    let path = format!("srv/tenant-{:03}/some/longer/name/document-{at:08}.txt", at % 400);
    Record::Entry(Entry {
        path: EntryPath::parse(path).expect("a plain path"),
        stamp: Stamp {
            ino: at + 10,
            size: version,
            clean: true,
            ..Stamp::default()
        },
        meta: Meta::default(),
        node: Node::File(Content {
            len: at,
            digest: Digest::of(&at.to_le_bytes()),
            chunk_log2: 0,
        }),
    })
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells of this process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("it tells the peak");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of KiB")
}

/// In memory where there is room for that: a busy disk would take minutes, and tmpfs does not count as ours.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("replica-memory-")
        .tempdir_in(parent)
        .expect("a folder")
}

#[test]
fn the_peak_is_bounded() {
    let folder = scratch();
    let mut replica = Replica::create(&folder.path().join("target"), [1; 16]).expect("created");
    for at in 0..ENTRIES {
        replica.append(&[record(at, 0)]).expect("appended");
    }
    replica.seal().expect("sealed");
    assert_eq!(replica.entries(), ENTRIES);
    for at in (0..ENTRIES).step_by(3) {
        replica.append(&[record(at, 1)]).expect("appended");
    }
    replica.seal().expect("sealed with a merge");
    let rename = Record::Rename {
        from: EntryPath::parse("srv").expect("a plain path"),
        to: EntryPath::parse("home").expect("a plain path"),
    };
    replica.append(&[rename]).expect("appended");
    replica.seal().expect("sealed with a rename of everything");
    let pieces = replica.export(Version::default()).expect("exported");
    let copy = Replica::import(&folder.path().join("source"), pieces).expect("imported");
    assert_eq!(copy.version(), replica.version());
    let mut changed = 0;
    let mut count = 0;
    for entry in copy.snapshot().iter() {
        let entry = entry.expect("readable");
        assert!(entry.path.as_bytes().starts_with(b"home/"));
        changed += entry.stamp.size;
        count += 1;
    }
    assert_eq!((count, changed), (ENTRIES, ENTRIES / 3));
    let peak = peak_kib();
    assert!(peak < PEAK_KIB_MAX, "{peak} KiB at the peak");
}
