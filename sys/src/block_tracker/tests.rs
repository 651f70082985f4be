use super::*;
use crate::aligned::AlignedBuffer;
use crate::block_device::{Access, DirectFile};
use crate::getfsmap;
use crate::loop_device::{LoopDevice, TestMount, run};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn read_all(path: &Path) -> Vec<u8> {
    let device = BlockDevice::look(path).unwrap().unwrap();
    let mut buffer = AlignedBuffer::zeroed(device.len as usize);
    DirectFile::open(path, Access::Read)
        .unwrap()
        .read_exact_at(&mut buffer, 0)
        .unwrap();
    buffer.to_vec()
}

fn changed_chunks(before: &[u8], after: &[u8]) -> Vec<u64> {
    before
        .chunks(CHUNK_LEN as usize)
        .zip(after.chunks(CHUNK_LEN as usize))
        .enumerate()
        .filter(|(_, (old, new))| old != new)
        .map(|(index, _)| index as u64)
        .collect()
}

/// A disk with two partitions, the first an ext4 file system.
fn partitioned_disk() -> (LoopDevice, TestMount) {
    let device = LoopDevice::new("g2c-block-tracker", 256 * MIB, 512).unwrap();
    let mut table = std::process::Command::new("sfdisk")
        .arg("-q")
        .arg(&device.path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let script = b"label: gpt\nstart=4096, size=300000\nstart=304200, size=200000\n";
    table.stdin.take().unwrap().write_all(script).unwrap();
    assert!(table.wait().unwrap().success());
    device.scan_partitions().unwrap();
    let partition = device.partition(1);
    // Otherwise the kernel goes on with making it while it is mounted.
    let at_once = "lazy_itable_init=0,lazy_journal_init=0";
    let arguments = ["-q", "-F", "-E", at_once].map(OsStr::new);
    run("mkfs.ext4", arguments.into_iter().chain([partition.as_os_str()])).unwrap();
    let mount = TestMount::new("g2c-block-tracker", &partition, "noatime").unwrap();
    (device, mount)
}

/// Writes in every way that a file system and a raw writer know, then proves that no changed chunk went unmarked.
fn nothing_is_missed(method: Method) {
    let (device, mount) = partitioned_disk();
    let whole = BlockDevice::look(&device.path).unwrap().unwrap();
    let second = BlockDevice::look(&device.partition(2)).unwrap().unwrap();
    assert_eq!((second.disk, second.start), (whole.number, 304_200 * 512));
    let tracker = BlockTracker::attach_by(&whole, method).unwrap();
    let partition_tracker = BlockTracker::attach_by(&second, method).unwrap();
    assert_eq!(tracker.method(), method);
    run("sync", [OsStr::new("-f"), mount.point.as_os_str()]).unwrap();
    tracker.harvest();
    let before = read_all(&device.path);
    let idle = tracker.harvest();
    assert!(idle.saw_requests, "our own reads are seen");
    let background = idle.dirty.count();
    assert!(
        background < 64,
        "an idle device is nearly clean: {background} chunks"
    );
    let second_before = read_all(&second.path);
    partition_tracker.harvest();

    for index in 0..20u64 {
        std::fs::write(
            mount.point.join(format!("file{index}")),
            vec![index as u8 + 1; 100_000],
        )
        .unwrap();
    }
    std::fs::remove_file(mount.point.join("file3")).unwrap();
    run("sync", [OsStr::new("-f"), mount.point.as_os_str()]).unwrap();
    let raw = DirectFile::open(&second.path, Access::Write).unwrap();
    let mut buffer = AlignedBuffer::zeroed(4096);
    buffer.fill(0xa5);
    raw.write_all_at(&buffer, 77 * 4096).unwrap();
    let buffered = std::fs::OpenOptions::new()
        .write(true)
        .open(&second.path)
        .unwrap();
    buffered.write_all_at(b"tail", second.len - 4).unwrap();
    buffered.sync_all().unwrap();
    run("fsfreeze", [OsStr::new("-f"), mount.point.as_os_str()]).unwrap();
    let harvest = tracker.harvest();
    let after = read_all(&device.path);
    run("fsfreeze", [OsStr::new("-u"), mount.point.as_os_str()]).unwrap();

    let changed = changed_chunks(&before, &after);
    assert!(changed.len() > 20, "the workload reached the medium");
    let missed: Vec<_> = changed
        .iter()
        .filter(|chunk| !harvest.dirty.contains(**chunk))
        .collect();
    assert!(missed.is_empty(), "missed {missed:?}");
    assert!(!harvest.lost);
    let second_harvest = partition_tracker.harvest();
    let second_after = read_all(&second.path);
    for chunk in changed_chunks(&second_before, &second_after) {
        assert!(second_harvest.dirty.contains(chunk), "partition chunk {chunk}");
    }
    let first_offset = 77 * 4096 / CHUNK_LEN;
    assert!(second_harvest.dirty.contains(first_offset));
    assert!(second_harvest.dirty.count() < 8, "nothing else was written");
    raw.zero_range(10 << 20, 70 << 20).unwrap(); // more than 64 MiB: regions
    let zeroed = partition_tracker.harvest().dirty;
    assert!(
        (160..1280).all(|chunk| zeroed.contains(chunk)),
        "{} chunks",
        zeroed.count()
    );
}

#[test]
fn bpf_misses_nothing() {
    nothing_is_missed(Method::Bpf);
}

#[test]
fn perf_misses_nothing() {
    nothing_is_missed(Method::Perf);
}

#[test]
fn an_overflowing_ring_marks_everything() {
    let device = LoopDevice::new("g2c-block-ring", 64 * MIB, 512).unwrap();
    let facts = BlockDevice::look(&device.path).unwrap().unwrap();
    let tracker = BlockTracker::attach_by(&facts, Method::Perf).unwrap();
    let Backend::Perf(watch) = &tracker.backend else {
        unreachable!()
    };
    let rings = watch.shared.rings.lock().unwrap(); // nobody drains while this is held
    let file = DirectFile::open(&device.path, Access::Write).unwrap();
    let buffer = AlignedBuffer::zeroed(512);
    for _ in 0..40_000 {
        file.write_all_at(&buffer, 0).unwrap();
    }
    drop(rings);
    let harvest = tracker.harvest();
    assert!(harvest.lost);
    assert_eq!(harvest.dirty.count(), facts.len / CHUNK_LEN);
    assert!(!tracker.harvest().lost, "after that it is watched again");
    file.write_all_at(&buffer, 3 * CHUNK_LEN).unwrap();
    let harvest = tracker.harvest();
    assert!(!harvest.lost, "a loss is told once");
    assert_eq!(harvest.dirty.iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn free_space_is_told_for_ext4_and_xfs() {
    for kind in ["ext4", "xfs"] {
        let device = LoopDevice::new("g2c-block-fsmap", 400 * MIB, 512).unwrap();
        run(&format!("mkfs.{kind}"), ["-q".as_ref(), device.path.as_os_str()]).unwrap();
        let mount = TestMount::new("g2c-block-fsmap", &device.path, "noatime").unwrap();
        std::fs::write(mount.point.join("file"), vec![0x5a; 30 << 20]).unwrap();
        run("sync", [OsStr::new("-f"), mount.point.as_os_str()]).unwrap();
        let facts = BlockDevice::look(&device.path).unwrap().unwrap();
        let mut free = Vec::new();
        assert!(getfsmap::each_free(&mount.point, facts.number, |range| free.push(range)).unwrap());
        let bytes: u64 = free.iter().map(|range| range.end - range.start).sum();
        assert!(
            (200 * MIB..371 * MIB).contains(&bytes),
            "{kind}: {bytes} bytes free"
        );
        assert!(
            free.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{kind}: in order"
        );
        let medium = read_all(&device.path);
        let content = [0x5a; 4096];
        for range in &free {
            for block in medium[range.start as usize..range.end as usize].chunks(4096) {
                assert_ne!(block, content, "{kind}: content of a file in free space");
            }
        }
    }
}

#[test]
fn the_kernel_tells_how_often_it_left_a_program_out() {
    let device = LoopDevice::new("g2c-block-left-out", 8 * MIB, 512).unwrap();
    let facts = BlockDevice::look(&device.path).unwrap().unwrap();
    let tracker = BlockTracker::attach_by(&facts, Method::Bpf).unwrap();
    let Backend::Bpf(segments) = &tracker.backend else {
        unreachable!("attached by BPF")
    };
    let programs = &segments[0].programs;
    assert_eq!(programs.len(), EVENTS.len());
    let first = format!("/proc/self/fdinfo/{}", programs[0].as_raw_fd());
    let tells = std::fs::read_to_string(first)
        .unwrap()
        .contains("recursion_misses");
    assert_eq!(tracker.left_out().is_some(), tells);
    let perf = BlockTracker::attach_by(&facts, Method::Perf).unwrap();
    assert_eq!(perf.left_out(), None);
}
