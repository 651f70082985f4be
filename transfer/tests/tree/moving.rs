//! What changes right before it is looked at, or while it is read: nothing of it may pass for unchanged.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::progress::{Event, Motion, Observer, Summary};
use transfer::source::SourceVolume;
use transfer::throttle::Throttle;

use super::bed::{Bed, noise};

/// Modification and change time of a file.
fn times(path: &Path) -> [(i64, i64); 2] {
    let found = std::fs::metadata(path).unwrap();
    [
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    ]
}

#[test]
fn a_second_change_within_one_second_is_found_where_times_are_whole_seconds() {
    let device = LoopDevice::new("g2c-tree-moving", 16 << 20, 512).unwrap();
    let format = ["-q", "-I", "128"].map(AsRef::as_ref);
    run("mkfs.ext4", format.into_iter().chain([device.path.as_os_str()])).unwrap();
    let mount = TestMount::new("g2c-tree-moving", &device.path, "relatime").unwrap();
    let file = mount.point.join("file");
    let bed = Bed::new();
    let sync = || {
        let summary = bed.sync_with(|plan| {
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = mount.point.clone();
        });
        summary.unwrap()
    };
    // Until all of it falls into one second.
    for attempt in 0.. {
        assert!(attempt < 20, "this machine is too slow");
        std::fs::write(&file, b"one").unwrap();
        let before = times(&file);
        std::thread::sleep(Duration::from_millis(60));
        sync();
        std::fs::write(&file, b"two").unwrap();
        if times(&file) == before {
            break;
        }
    }
    sync();
    assert_eq!(std::fs::read(bed.target.join("file")).unwrap(), b"two");
    // Long after, what is unchanged is not read again.
    std::thread::sleep(Duration::from_millis(2100));
    sync();
    assert_eq!(sync().bytes_read, 0);
}

/// Writes a file right before the first round takes its time.
struct Writing<'a>(&'a Bed);

impl Observer for Writing<'_> {
    fn event(&self, event: &Event) {
        if let Event::RoundStarted { .. } = event {
            self.0.write("newer", &noise(5000, 2));
        }
    }
}

#[test]
fn what_was_written_right_before_a_round_is_read_again_in_the_next_one() {
    let bed = Bed::new();
    bed.write("older", &noise(1000, 1));
    std::thread::sleep(Duration::from_millis(60));
    assert!(bed.sync_observed(&Writing(&bed), |_| {}).unwrap().ok);
    std::thread::sleep(Duration::from_millis(60));
    let read = || bed.sync().unwrap().bytes_read;
    assert_eq!(read(), 5000, "its times prove nothing");
    assert_eq!(read(), 0);
}

/// A process that stores to a page of a file through a mapping whenever it gets a line.
struct Mapper {
    process: std::process::Child,
    stores: u32,
}

impl Mapper {
    fn start(file: &Path) -> Self {
        let script = "import mmap,os,sys\n\
            f=os.open(sys.argv[1],os.O_RDWR)\n\
            m=mmap.mmap(f,0)\n\
            os.close(f)\n\
            for i,line in enumerate(sys.stdin):\n\
            \x20m[:8]=b'store %02d'%i\n\
            \x20print(flush=True)\n";
        let child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(file)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        Self {
            process: child.unwrap(),
            stores: 0,
        }
    }

    /// Returns what has been stored then.
    fn store(&mut self) -> String {
        use std::io::{Read as _, Write as _};
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.process
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0])
            .unwrap();
        self.stores += 1;
        format!("store {:02}", self.stores - 1)
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stores through the mapping when the first round is over.
struct Storing(Mutex<(Mapper, String)>);

impl Observer for Storing {
    fn event(&self, event: &Event) {
        if let Event::RoundFinished { round: 1, .. } = event {
            let mut storing = self.0.lock().unwrap();
            storing.1 = storing.0.store();
        }
    }
}

#[test]
fn a_store_to_a_page_that_is_dirty_already_arrives_with_the_next_round() {
    use go2cloud_tests::medium::{Format, Medium};
    // Of its own: whoever synchronises another one does not write these pages back.
    let medium = Medium::new(Format::Ext4, 32).unwrap();
    let bed = Bed::new();
    let file = medium.path().join("mapped");
    std::fs::write(&file, noise(64 << 10, 3)).unwrap();
    let mut mapper = Mapper::start(&file);
    mapper.store();
    // Until a store to the page, which is dirty, moves no time; the kernel may write it back at any moment.
    for attempt in 0.. {
        assert!(attempt < 20, "the premise");
        let before = times(&file);
        std::thread::sleep(Duration::from_millis(60));
        mapper.store();
        if times(&file) == before {
            break;
        }
    }
    let held =
        || String::from_utf8_lossy(&std::fs::read(bed.target.join("mapped")).unwrap()[..8]).into_owned();
    let sync = |observer: &dyn Observer| {
        let summary = bed.sync_observed(observer, |plan| {
            plan.rounds = transfer::source::Rounds::Count(2);
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = medium.path();
        });
        assert!(summary.as_ref().unwrap().ok, "{summary:?}");
    };
    let storing = Storing(Mutex::new((mapper, String::new())));
    sync(&storing);
    let (mut mapper, stored) = storing.0.into_inner().unwrap();
    assert_eq!(held(), stored);
    // Also when nobody has it mapped any more.
    let stored = mapper.store();
    drop(mapper);
    sync(&transfer::progress::Silent);
    assert_eq!(held(), stored);
}

/// Does something once a round has read so much.
struct Meddling<F: FnOnce() + Send> {
    after: u64,
    meddle: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> Observer for Meddling<F> {
    fn event(&self, event: &Event) {
        if let Event::Progress(progress) = event
            && progress.bytes_read >= self.after
            && let Some(meddle) = self.meddle.lock().unwrap().take()
        {
            meddle();
        }
    }
}

/// A slow run, in the midst of which something happens: when so much was read.
fn sync_while(bed: &Bed, rate: u64, after: u64, meddle: impl FnOnce() + Send) -> Summary {
    let meddle = Mutex::new(Some(meddle));
    let summary = bed.sync_observed(&Meddling { after, meddle }, |plan| {
        plan.throttle = Arc::new(Throttle::new(rate));
    });
    summary.unwrap()
}

#[test]
fn what_vanishes_grows_shrinks_and_is_replaced_while_it_is_read_is_looked_at_again_in_the_same_round() {
    let bed = Bed::new();
    let source = bed.path("source");
    // They are read first.
    for name in ["grows", "shrinks"] {
        bed.write(name, &noise(12 << 20, 4));
    }
    for index in 0..24 {
        bed.write(&format!("b/{index:02}"), &noise(1 << 20, index));
        bed.write(&format!("c/{index:02}"), &noise(1000, index));
    }
    std::fs::hard_link(source.join("b/00"), source.join("c/linked")).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    let meddle = || {
        let open = |name: &str| File::options().write(true).open(source.join(name)).unwrap();
        let grows = open("grows");
        grows
            .write_all_at(b"at the end", grows.metadata().unwrap().len())
            .unwrap();
        open("shrinks").set_len(5 << 20).unwrap();
        for index in 0..24 {
            let file = source.join(format!("b/{index:02}"));
            if index % 2 == 0 {
                std::fs::remove_file(&file).unwrap();
            } else {
                std::fs::write(source.join("new"), noise(3000, index)).unwrap();
                std::fs::rename(source.join("new"), &file).unwrap();
            }
        }
    };
    let summary = sync_while(&bed, 10 << 20, 4 << 20, meddle);
    let unsettled = &summary.unsettled;
    assert!(
        unsettled.changed >= 2 && unsettled.vanished > 0 && unsettled.replaced > 0,
        "{unsettled:?}"
    );
    let grew = unsettled
        .last
        .iter()
        .any(|moved| moved.path == "grows" && moved.motion == Motion::Changed);
    assert!(grew, "{unsettled:?}");
    assert!(summary.ok && summary.rounds == 1, "{summary:?}");
    bed.assert_equal();
    std::thread::sleep(Duration::from_millis(60));
    let again = bed.sync().unwrap();
    assert_eq!((again.bytes_data, again.unsettled.changed), (0, 0), "{again:?}");
}

#[test]
fn names_of_a_file_whose_first_name_vanishes_before_it_is_read_are_copied() {
    let bed = Bed::new();
    let source = bed.path("source");
    let name = |folder: &str, index: u64| source.join(folder).join(format!("{index:02}"));
    std::fs::create_dir(source.join("b")).unwrap();
    for index in 0..24 {
        bed.write(&format!("a/{index:02}"), &noise(1 << 20, index));
        std::fs::hard_link(name("a", index), name("b", index)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(60));
    let meddle = || (0..24).for_each(|index| std::fs::remove_file(name("a", index)).unwrap());
    let summary = sync_while(&bed, 4 << 20, 1, meddle);
    assert!(summary.unsettled.vanished > 0, "{:?}", summary.unsettled);
    assert!(summary.ok, "{summary:?}");
    bed.assert_equal();
}

#[test]
fn a_very_long_file_that_is_renamed_while_its_directory_is_restless_stays() {
    let bed = Bed::new();
    let source = bed.path("source");
    bed.write("d/restless", &noise(12 << 20, 1));
    let long = File::create(source.join("d/long")).unwrap();
    long.set_len(300 << 20).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    assert!(bed.sync().unwrap().ok);
    bed.write("d/restless", &noise(12 << 20, 2));
    std::thread::sleep(Duration::from_millis(60));
    let meddle = || {
        bed.write("d/restless", &noise(12 << 20, 3));
        std::fs::rename(source.join("d/long"), source.join("d/renamed")).unwrap();
    };
    let summary = sync_while(&bed, 10 << 20, 1 << 20, meddle);
    assert!(summary.ok && summary.unsettled.changed > 0, "{summary:?}");
    bed.assert_equal();
}

#[test]
fn what_changes_all_the_time_is_named_until_it_rests() {
    let bed = Bed::new();
    bed.write("rests", b"x");
    // Long enough that no reading of it falls between two stores.
    bed.write("changes", &noise(32 << 20, 5));
    let stop = AtomicBool::new(false);
    let store = |place: u64| {
        let file = File::options()
            .write(true)
            .open(bed.path("source/changes"))
            .unwrap();
        for number in 0u64.. {
            if stop.load(Ordering::Acquire) {
                break;
            }
            file.write_all_at(&number.to_le_bytes(), place << 22).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let summary = std::thread::scope(|scope| {
        let store = &store;
        for place in 1..5 {
            scope.spawn(move || store(place));
        }
        let summary = bed.sync();
        stop.store(true, Ordering::Release);
        summary.unwrap()
    });
    assert!(!summary.ok && summary.skipped_total == 1, "{summary:?}");
    let named = &summary.skipped[0];
    assert!(
        named.path == "changes" && named.why.contains("changed while it was read"),
        "{named:?}"
    );
    assert!(summary.unsettled.changed >= 1, "{summary:?}");
    let rested = bed.sync().unwrap();
    assert!(rested.ok && rested.unsettled.changed == 0, "{rested:?}");
    bed.assert_equal();
}
