//! Verification after a cutover: both media are read again, and what does not fit is repaired or named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/relay.rs"]
mod relay;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bed::{Bed, MIB, assert_equal, assert_trees_equal, make_file_system, mount, random_disk, with_freeze};
use relay::Relay;
use sys::loop_device::{LoopDevice, TestMount};
use transfer::progress::{Event, Observer, Silent, StopFlag, Summary};
use transfer::source::{Retry, SourceVolume, SyncPlan, sync};

/// Where a file of the test lies in its disk: found by its content.
const MARKER: &[u8; 4096] = &[0x5a; 4096];

/// A mounted file system with a marked block.
struct Source {
    mount: TestMount,
    disk: LoopDevice,
    marker_at: u64,
}

impl Source {
    fn new() -> Self {
        let disk = LoopDevice::new("g2c-block-verify", 64 * MIB, 512).unwrap();
        make_file_system("ext4", &disk.path);
        let mount = mount(&disk.path, "noatime");
        workload::Workload::fill(&mount.point, 5, 6 * MIB);
        std::fs::write(mount.point.join("marker"), MARKER).unwrap();
        sys::loop_device::run("sync", ["-f".as_ref(), mount.point.as_os_str()]).unwrap();
        let content = std::fs::read(&disk.backing).unwrap();
        // Small file systems have blocks of 1024 bytes.
        let marker_at = content
            .chunks(1024)
            .position(|block| block == &MARKER[..1024])
            .unwrap() as u64
            * 1024;
        Self {
            mount,
            disk,
            marker_at,
        }
    }

    /// A cutover with verification that runs `after` when the file systems are thawed.
    fn plan(&self, bed: &Bed, after: Option<String>) -> SyncPlan {
        let mut plan = with_freeze(bed.plan(&[&self.disk.path]), Duration::from_secs(20));
        plan.verify = true;
        let SourceVolume::Disks(source) = &mut plan.volume else {
            unreachable!()
        };
        source.freeze.as_mut().unwrap().after = after;
        plan
    }

    /// A command that writes a byte at the marker, into the device or into the file behind it.
    fn write_at_marker(&self, to: &Path) -> String {
        format!(
            "printf X | dd of={} bs=1 seek={} conv=notrunc,fsync status=none",
            to.display(),
            self.marker_at
        )
    }
}

/// Removes a file from the source and damages what the image still has of it, after the first round.
struct Freed<'a> {
    file: &'a Path,
    damage: Damage<'a>,
}

impl Observer for Freed<'_> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::RoundFinished { .. }) && self.file.exists() {
            std::fs::remove_file(self.file).unwrap();
            let folder = self.file.parent().unwrap();
            sys::loop_device::run("sync", ["-f".as_ref(), folder.as_os_str()]).unwrap();
        }
        self.damage.event(event);
    }
}

/// Damages the image once, after the first round.
struct Damage<'a> {
    image: &'a Path,
    at: u64,
    is_done: AtomicBool,
}

impl Observer for Damage<'_> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::RoundFinished { .. }) && !self.is_done.swap(true, Ordering::AcqRel) {
            let file = std::fs::File::options().write(true).open(self.image).unwrap();
            file.write_all_at(b"!", self.at).unwrap();
        }
    }
}

fn receipt(bed: &Bed) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bed.path("state/receipt.json")).unwrap()).unwrap()
}

/// Cuts over while the image gets damaged at the marker.
fn cut_over(source: &Source, bed: &Bed, after: Option<String>) -> transfer::Result<Summary> {
    let image = bed.path("target.img");
    let damage = Damage {
        image: &image,
        at: source.marker_at + 77,
        is_done: AtomicBool::new(false),
    };
    bed.sync_watched(&[&image], source.plan(bed, after), &damage)
}

#[test]
fn damage_of_the_frozen_copy_is_repaired_while_the_source_still_holds_it() {
    let (source, bed) = (Source::new(), Bed::new());
    let summary = cut_over(&source, &bed, None).unwrap();
    assert_eq!(summary.verified.as_ref().unwrap().repaired, 1, "{summary:?}");
    let receipt = receipt(&bed);
    let (verified, disk) = (&receipt["verified"], &receipt["disks"][0]);
    assert_eq!(verified["root"], disk["root"]);
    assert_eq!(disk["areas"][0]["root"].as_str().unwrap().len(), 64);
    let read = &disk["source_read"];
    assert!(read["compared"].as_u64().unwrap() > 100, "{receipt}");
    assert!(read["bytes"].as_u64().unwrap() > 6 * MIB, "{receipt}");
    let image = mount(&bed.path("target.img"), "loop,noatime");
    assert_trees_equal(&source.mount.point, &image.point);
}

#[test]
fn damage_where_nothing_is_any_more_is_none() {
    let (source, bed) = (Source::new(), Bed::new());
    let file = source.mount.point.join("gone");
    std::fs::write(&file, [0xa7; 1 << 20]).unwrap();
    sys::loop_device::run("sync", ["-f".as_ref(), file.as_os_str()]).unwrap();
    let content = std::fs::read(&source.disk.backing).unwrap();
    let mut chunks = content.chunks(65_536);
    let chunk = chunks
        .position(|chunk| chunk.iter().all(|byte| *byte == 0xa7))
        .unwrap() as u64;
    let image = bed.path("target.img");
    let freed = Freed {
        file: &file,
        damage: Damage {
            image: &image,
            at: chunk * 65_536 + 77,
            is_done: AtomicBool::new(false),
        },
    };
    let summary = bed
        .sync_watched(&[&image], source.plan(&bed, None), &freed)
        .unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert_eq!(summary.verified.unwrap().repaired, 0);
    let copy = mount(&image, "loop,noatime");
    assert_trees_equal(&source.mount.point, &copy.point);
}

#[test]
fn damage_of_what_the_source_has_changed_since_is_named() {
    let (source, bed) = (Source::new(), Bed::new());
    let after = source.write_at_marker(&source.disk.path);
    let error = cut_over(&source, &bed, Some(after)).unwrap_err().describe();
    assert!(error.contains("changed 1 of them"), "{error}");
    // Once more, and the copy is whole.
    let summary = bed
        .sync(&[&bed.path("target.img")], source.plan(&bed, None))
        .unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some());
}

#[test]
fn a_write_that_nobody_saw_is_found_by_reading_again() {
    let (source, bed) = (Source::new(), Bed::new());
    let image = bed.path("target.img");
    let unseen = source.write_at_marker(&source.disk.backing);
    let plan = source.plan(&bed, Some(unseen));
    let error = bed.sync(&[&image], plan).unwrap_err().describe();
    assert!(error.contains("nothing was seen to write"), "{error}");
    // A write that was seen is none of the copy's business: it came after the frozen moment.
    let seen = source.write_at_marker(&source.disk.path);
    let summary = bed.sync(&[&image], source.plan(&bed, Some(seen))).unwrap();
    assert_eq!(summary.verified.unwrap().repaired, 0);
    let read = &receipt(&bed)["disks"][0]["source_read"];
    assert!(read["written_since"].as_u64().unwrap() >= 1, "{read}");
}

/// Damages the image after the first round, and cuts the link when the target has noticed.
struct CutWhenNoticed<'a> {
    damage: Damage<'a>,
    relay: Relay,
    is_cut: AtomicBool,
}

impl Observer for CutWhenNoticed<'_> {
    fn event(&self, event: &Event) {
        self.damage.event(event);
        // What differs in the bytes read so far the target has forgotten and reported.
        let is_noticed = matches!(event, Event::Verifying { bytes, .. } if *bytes > self.damage.at);
        if is_noticed && !self.is_cut.swap(true, Ordering::AcqRel) {
            self.relay.cut(None);
        }
    }
}

/// Cuts over while the image gets damaged at the marker and the link is cut before that could be repaired.
fn cut_over_and_cut_off(source: &Source, bed: &Bed, after: Option<String>) -> transfer::Result<Summary> {
    let image = bed.path("target.img");
    let receiver = bed.receiver(&[&image], false);
    let observer = CutWhenNoticed {
        damage: Damage {
            image: &image,
            at: source.marker_at + 77,
            is_done: AtomicBool::new(false),
        },
        relay: Relay::to(receiver.local_addr()),
        is_cut: AtomicBool::new(false),
    };
    let mut plan = source.plan(bed, after);
    plan.target = vec![observer.relay.address];
    plan.retry = Retry::Times(5);
    let stop = StopFlag::default();
    std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let summary = sync(&plan, &observer, &StopFlag::default());
        stop.stop();
        assert!(observer.is_cut.load(Ordering::Acquire));
        summary
    })
}

#[test]
fn damage_of_the_frozen_copy_is_repaired_when_the_link_breaks_before_the_repair() {
    let (source, bed) = (Source::new(), Bed::new());
    let summary = cut_over_and_cut_off(&source, &bed, None).unwrap();
    assert!(summary.resumes > 0, "{summary:?}");
    assert_eq!(summary.verified.as_ref().unwrap().repaired, 1, "{summary:?}");
    let image = mount(&bed.path("target.img"), "loop,noatime");
    assert_trees_equal(&source.mount.point, &image.point);
}

#[test]
fn a_run_is_cut_over_again_when_the_target_lost_what_the_source_has_changed_since() {
    let (source, bed) = (Source::new(), Bed::new());
    let thaws = bed.path("thaws");
    let after = source.write_at_marker(&source.disk.path);
    let after = format!("echo thawed >> {} && {after}", thaws.display());
    let summary = cut_over_and_cut_off(&source, &bed, Some(after)).unwrap();
    assert!(
        summary.verified.is_some() && summary.frozen_ms.is_some(),
        "{summary:?}"
    );
    assert_eq!(std::fs::read_to_string(&thaws).unwrap().lines().count(), 2);
    let mut marker = [0; 4096];
    let image = std::fs::File::open(bed.path("target.img")).unwrap();
    image.read_exact_at(&mut marker, source.marker_at).unwrap();
    assert_eq!((marker[0], &marker[1..]), (b'X', &MARKER[1..]));
}

/// Turns to another receiver when the rounds are over.
struct TurnAfterRounds {
    relay: Relay,
    to: std::net::SocketAddr,
    rounds_left: AtomicU32,
}

impl Observer for TurnAfterRounds {
    fn event(&self, event: &Event) {
        if matches!(event, Event::RoundFinished { .. })
            && self.rounds_left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.relay.cut(Some(self.to));
        }
    }
}

/// Turns to another receiver when the round is over; of the one that this makes necessary the answer is lost.
struct LosesTheAnswer {
    turns: TurnAfterRounds,
    is_mute: AtomicBool,
    finished: AtomicU32,
}

impl Observer for LosesTheAnswer {
    fn event(&self, event: &Event) {
        self.turns.event(event);
        match event {
            Event::RoundStarted { round: 2, .. } => {
                self.turns.relay.mute();
                self.is_mute.store(true, Ordering::Release);
            }
            Event::RoundFinished { .. } => {
                self.finished.fetch_add(1, Ordering::AcqRel);
            }
            _ => {}
        }
    }
}

#[test]
fn a_round_whose_end_was_not_heard_of_is_sealed_after_all() {
    let disk = random_disk(8 * MIB, 512, 32);
    let (bed, other) = (Bed::new(), Bed::new());
    let image = other.path("target.img");
    let receivers = [
        bed.receiver(&[&bed.path("target.img")], false),
        other.receiver(&[&image], false),
    ];
    let observer = LosesTheAnswer {
        turns: TurnAfterRounds {
            relay: Relay::to(receivers[0].local_addr()),
            to: receivers[1].local_addr(),
            rounds_left: 1.into(),
        },
        is_mute: AtomicBool::new(false),
        finished: 0.into(),
    };
    let mut plan = bed.plan(&[&disk.path]);
    plan.target = vec![observer.turns.relay.address];
    plan.retry = Retry::Times(5);
    let stop = StopFlag::default();
    let content = std::fs::read(&disk.backing).unwrap();
    let summary = std::thread::scope(|scope| {
        for receiver in &receivers {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        }
        let run = scope.spawn(|| sync(&plan, &observer, &StopFlag::default()));
        let has_arrived = || {
            observer.is_mute.load(Ordering::Acquire)
                && std::fs::read(&image).is_ok_and(|bytes| bytes == content)
        };
        while !has_arrived() && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        // The source waits for the answer by now.
        std::thread::sleep(Duration::from_millis(300));
        observer.turns.relay.cut(None);
        let summary = run.join().unwrap();
        stop.stop();
        summary.unwrap()
    });
    assert!(summary.ok && summary.resumes >= 2, "{summary:?}");
    assert_eq!(summary.rounds, observer.finished.load(Ordering::Acquire));
    assert_equal(&disk, &image);
}

#[test]
fn a_target_that_lost_everything_after_the_last_round_gets_it_again() {
    let disk = random_disk(8 * MIB, 512, 31);
    // Alone, and with a cutover, which makes two rounds more.
    for (freeze, rounds) in [(false, 1), (true, 3)] {
        let (bed, other) = (Bed::new(), Bed::new());
        let image = other.path("target.img");
        let receivers = [
            bed.receiver(&[&bed.path("target.img")], false),
            other.receiver(&[&image], false),
        ];
        let observer = TurnAfterRounds {
            relay: Relay::to(receivers[0].local_addr()),
            to: receivers[1].local_addr(),
            rounds_left: rounds.into(),
        };
        let mut plan = bed.plan(&[&disk.path]);
        if freeze {
            plan = with_freeze(plan, Duration::from_secs(20));
        }
        plan.target = vec![observer.relay.address];
        plan.retry = Retry::Times(5);
        let stop = StopFlag::default();
        let summary = std::thread::scope(|scope| {
            for receiver in &receivers {
                scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            }
            let summary = sync(&plan, &observer, &StopFlag::default());
            stop.stop();
            summary.unwrap()
        });
        assert!(summary.ok && summary.resumes > 0, "{summary:?}");
        assert_equal(&disk, &image);
    }
}
