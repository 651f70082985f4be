//! Measures the replica: `replica FOLDER [ENTRIES]`. One number per line, and the peak of the memory used.

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::path::PathBuf;
use std::time::Instant;

use transfer::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp, Time};
use transfer::tree::replica::{Record, Replica, Version};
use transfer::{Error, Kind, Result};

/// Children of one directory: as many as a source tree has on average.
const CHILDREN: u64 = 12;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = || Error::new(Kind::Usage, "measure: give a folder and a number of entries");
    let folder = PathBuf::from(arguments.next().ok_or_else(usage)?);
    let count = match arguments.next() {
        Some(count) => count
            .to_str()
            .and_then(|count| count.parse().ok())
            .ok_or_else(usage)?,
        None => 200_000,
    };
    let mut replica = Replica::create(&folder.join("source"), [1; 16])?;
    measure("append", count, || {
        append(&mut replica, (0..count).map(|at| record(at, count, 0)))
    })?;
    measure("seal", count, || replica.seal())?;
    println!(
        "on disk: {} bytes per entry",
        size(&folder.join("source"))? / count
    );
    read(&replica, count)?;
    let changed = count / 100;
    let picks = || (0..changed).map(|at| record(at * 100, count, 1));
    measure("append a hundredth changed", changed, || {
        append(&mut replica, picks())
    })?;
    measure("seal a hundredth changed", changed, || replica.seal())?;
    read(&replica, count)?;
    measure("seal nothing", 1, || replica.seal())?;
    let quarter = count / 3;
    measure("append a third changed", quarter, || {
        append(&mut replica, (0..quarter).map(|at| record(at * 3, count, 2)))
    })?;
    measure("seal a third changed, with a merge", count, || replica.seal())?;
    measure("rename everything", count, || {
        replica.append(&[Record::Rename {
            from: name(b"top")?,
            to: name(b"moved")?,
        }])?;
        replica.seal()
    })?;
    measure("export and import", count, || {
        let pieces = replica.export(Version::default())?;
        Replica::import(&folder.join("target"), pieces).map(drop)
    })?;
    drop(replica);
    measure("open", 1, || Replica::open(&folder.join("source")).map(drop))?;
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| Error::io("measure", "/proc/self/status", e))?;
    status
        .lines()
        .filter(|line| line.starts_with("VmHWM"))
        .for_each(|line| println!("{line}"));
    Ok(())
}

fn read(replica: &Replica, count: u64) -> Result<()> {
    let snapshot = replica.snapshot();
    measure("read in order", count, || {
        snapshot.iter().try_for_each(|entry| entry.map(drop))
    })?;
    let mut cursor = snapshot.cursor();
    measure("list every directory, depth first", count, || {
        let mut found = 0u64;
        let mut stack = vec![EntryPath::root()];
        while let Some(directory) = stack.pop() {
            let start = stack.len();
            cursor.children(&directory, &mut |entry| {
                found += 1;
                if entry.node == Node::Directory {
                    stack.push(entry.path);
                }
                Ok(())
            })?;
            stack[start..].reverse();
        }
        assert!(found >= count, "all entries are listed");
        Ok(())
    })?;
    let picked = (count / 10).max(1);
    measure("get at random", picked, || {
        (0..picked).try_for_each(|at| cursor.get(&path(at.wrapping_mul(7919) % count)?).map(drop))
    })
}

fn append(replica: &mut Replica, records: impl Iterator<Item = Result<Record>>) -> Result<()> {
    for record in records {
        replica.append(&[record?])?;
    }
    replica.checkpoint()
}

/// Entry `at` of a tree in which the children of entry n are those from n × [`CHILDREN`] on; 0 is the topmost.
fn path(at: u64) -> Result<EntryPath> {
    let mut parts = Vec::new();
    let mut rest = at;
    while rest > 0 {
        parts.push(format!("component-{:x}", rest % CHILDREN));
        rest /= CHILDREN;
    }
    parts.push("top".into());
    parts.reverse();
    name(parts.join("/").as_bytes())
}

fn name(bytes: &[u8]) -> Result<EntryPath> {
    EntryPath::parse(bytes).map_err(|error| Error::new(Kind::Usage, "name an entry").because(error))
}

fn record(at: u64, count: u64, version: u32) -> Result<Record> {
    let time = Time {
        sec: 1_700_000_000 + at as i64,
        nsec: version,
    };
    let node = if at * CHILDREN < count {
        Node::Directory
    } else {
        Node::File(Content {
            len: at % 40_000,
            digest: Digest::of(&at.to_le_bytes()),
            chunk_log2: 0,
        })
    };
    Ok(Record::Entry(Entry {
        path: path(at)?,
        stamp: Stamp {
            file_system: 0,
            ino: 1000 + at,
            birth_ns: 1_700_000_000_000_000_000 + at as i64,
            size: at % 40_000,
            mtime: time,
            ctime: time,
            clean: true,
        },
        meta: Meta {
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            atime: time,
            mtime: time,
            ..Meta::default()
        },
        node,
    }))
}

fn size(folder: &std::path::Path) -> Result<u64> {
    let failed = |e| Error::io("measure", folder, e);
    let mut sum = 0;
    for file in std::fs::read_dir(folder).map_err(failed)? {
        sum += file.and_then(|file| file.metadata()).map_err(failed)?.len();
    }
    Ok(sum)
}

fn measure(what: &str, count: u64, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    action()?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_start);
    println!(
        "{what}: {seconds:.3} s, {cpu:.3} s of one core, {:.0} per core second",
        count as f64 / cpu
    );
    Ok(())
}

/// Processor time of this program: what counts on a machine that has other things to do.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
