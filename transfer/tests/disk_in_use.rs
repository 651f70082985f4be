//! Disks and image files that somebody else has in use are never written to: a mounted copy, a second receiver.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bed::{Bed, MIB, assert_equal, make_file_system, mount, partition, random_disk};
use sys::loop_device::{Attached, LoopDevice};
use transfer::progress::Silent;
use transfer::source::{Lead, Next, Standing};

#[test]
fn an_image_that_is_mounted_is_refused_by_the_name_of_its_device() {
    let disk = LoopDevice::new("g2c-block-used", 24 * MIB, 512).unwrap();
    make_file_system("ext4", &disk.path);
    let bed = Bed::new();
    let image = bed.path("target.img");
    let again = || bed.sync(&[&image], bed.plan(&[&disk.path]));
    again().unwrap();
    // Mounted below a name that the image does not have any more.
    let other = bed.path("other name");
    std::fs::hard_link(&image, &other).unwrap();
    let attached = Attached::new(&[], &other).unwrap();
    std::fs::remove_file(&other).unwrap();
    let mounted = mount(&attached.0, "noatime");
    let refused = again().unwrap_err().describe();
    for word in [attached.0.to_str().unwrap(), "losetup -d"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    drop(mounted);
    drop(attached);
    // Who only looks disturbs nobody, unless by a mount, which would see the copy change.
    let attached = Attached::new(&["--read-only"], &image).unwrap();
    again().unwrap();
    let mounted = mount(&attached.0, "ro,noload");
    assert!(again().unwrap_err().describe().contains("losetup -d"));
    drop(mounted);
    again().unwrap();
}

/// A loop device does not claim the device that it stands over, so that the kernel lets others have it for themselves.
#[test]
fn a_disk_that_is_mounted_through_a_loop_device_is_refused() {
    let disk = LoopDevice::new("g2c-block-used", 24 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=20M\n");
    make_file_system("ext4", &disk.partition(1));
    let bed = Bed::new();
    let target = LoopDevice::new("g2c-block-used", 24 * MIB, 512).unwrap();
    let again = || bed.sync(&[&target.path], bed.plan(&[&disk.path]));
    again().unwrap();
    target.scan_partitions().unwrap();
    let before = std::fs::read(&target.backing).unwrap();
    for (over, flags) in [
        (target.path.clone(), &["--partscan"][..]),
        (target.partition(1), &[][..]),
    ] {
        let attached = Attached::new(flags, &over).unwrap();
        let refused = again().unwrap_err().describe();
        for word in [attached.0.to_str().unwrap(), "losetup -d"] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
    assert!(
        std::fs::read(&target.backing).unwrap() == before,
        "nothing was written"
    );
    again().unwrap();
}

/// Whether this process, in which the receiver runs, has a file open.
fn is_open(file: &Path) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .flatten()
        .any(|descriptor| std::fs::read_link(descriptor.path()).is_ok_and(|path| path == file))
}

/// What is written through a loop device may come to the image when it is detached: while the receiver waits for that.
#[test]
fn an_image_that_is_detached_just_now_is_looked_at_afterwards() {
    let disk = random_disk(12 * MIB, 512, 4);
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    let attached = Attached::new(&[], &image).unwrap();
    let device = std::fs::File::options().write(true).open(&attached.0).unwrap();
    device.write_all_at(&[7; 4096], 5 * MIB).unwrap();
    let summary = std::thread::scope(|scope| {
        let again = scope.spawn(|| bed.sync(&[&image], bed.plan(&[&disk.path])));
        let since = Instant::now();
        while !is_open(&image) && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It looks for loop devices now, and waits for a while when it finds one.
        std::thread::sleep(Duration::from_millis(100));
        drop((device, attached));
        again.join().unwrap().unwrap()
    });
    assert_eq!(summary.sent, 1, "{summary:?}");
    assert_equal(&disk, &image);
}

/// Holds a run after its first round.
struct Holds {
    is_here: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Lead for Holds {
    fn next(&self, standing: Standing) -> transfer::Result<Next> {
        if standing.rounds == 0 {
            return Ok(Next::Round);
        }
        self.is_here.send(()).unwrap();
        let waiting = self.go_on.lock().unwrap();
        waiting.recv_timeout(Duration::from_secs(60)).unwrap();
        Ok(Next::End)
    }
}

#[test]
fn two_receivers_of_one_image_are_refused() {
    let disks = [random_disk(6 * MIB, 512, 1), random_disk(6 * MIB, 512, 2)];
    let (bed, stranger) = (Bed::new(), Bed::new());
    let image = bed.path("target.img");
    let ((is_here, arrived), (let_go, go_on)) = (sync_channel(1), sync_channel(1));
    let holds = Holds {
        is_here,
        go_on: Mutex::new(go_on),
    };
    std::thread::scope(|scope| {
        let plan = bed.plan(&[&disks[0].path]);
        let first = scope.spawn(|| bed.sync_led(&[&image], plan, &holds, &Silent));
        arrived.recv_timeout(Duration::from_secs(60)).unwrap();
        // One with the same journal, and one with its own.
        let refused = [(&bed, "journal"), (&stranger, "target.img")].map(|(receiving, place)| {
            let mut plan = receiving.plan(&[&disks[1].path]);
            plan.state = stranger.path("state");
            (receiving.sync(&[&image], plan), place)
        });
        let_go.send(()).unwrap();
        first.join().unwrap().unwrap();
        for (result, place) in refused {
            let refused = result.unwrap_err().describe();
            assert!(
                refused.contains(place) && refused.contains("end the other"),
                "{refused}"
            );
        }
    });
    assert_equal(&disks[0], &image);
}
