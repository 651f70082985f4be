//! The target loses power while it receives: what it had not flushed is lost in part. It starts again, the source goes on by
//! itself, nothing that was acknowledged is sent again, and the copy is equal.
#![cfg(test)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use go2cloud_tests::bed::{self, Bed};
use go2cloud_tests::compare::{self, Options};
use go2cloud_tests::dice::Dice;
use go2cloud_tests::maketree;
use go2cloud_tests::volatile::Volatile;

const IMAGE_LEN: u64 = 512 << 20;
/// Wire rate, in KiB/s: what is sent takes some seconds.
const RATE: &str = "12000";
/// What may have been sent between the last event and the power cut, in bytes: half a second of the rate, and frames.
const LATE: u64 = 8 << 20;
/// What must be durable in the first round before the power fails, in bytes: if it was sent again, that would be seen.
const DURABLE_MIN: u64 = 2 * LATE;

fn make_image(path: &Path, format: &str) {
    File::create(path).unwrap().set_len(IMAGE_LEN).unwrap();
    let force = if format == "ext4" { "-F" } else { "-f" };
    let output = Command::new(format!("mkfs.{format}"))
        .args(["-q", force])
        .arg(path)
        .output();
    assert!(output.unwrap().status.success());
}

/// 36 MiB that do not compress, in small and long files, and 400 files of a source tree.
fn plant(source: &Path) {
    maketree::source_code(&source.join("code"), 5, 400).unwrap();
    let mut dice = Dice::new(6);
    for (name, len, count) in [("small", 300 << 10, 40), ("long", 6 << 20, 4)] {
        for index in 0..count {
            let mut bytes = vec![0; len];
            dice.fill(&mut bytes);
            std::fs::write(source.join(format!("{name}{index}")), bytes).unwrap();
        }
    }
}

/// Changes and renames, and enough new data that a round takes a while.
fn change(source: &Path, seed: u64) -> Vec<String> {
    let mut done = maketree::shuffle(source, seed, 12).unwrap();
    let mutations = maketree::mutate(source, seed + 500, 25).unwrap();
    done.extend(mutations.iter().map(ToString::to_string));
    let mut bytes = vec![0; 10 << 20];
    Dice::new(seed + 900).fill(&mut bytes);
    for (index, piece) in bytes.chunks(1 << 20).enumerate() {
        std::fs::write(source.join(format!("new{seed}-{index}")), piece).unwrap();
    }
    done
}

/// When the power fails, and what had changed before.
struct Cut {
    /// Not before this time has passed.
    delay: Duration,
    /// Not before so many bytes were durable.
    durable: u64,
    /// Whatever was changed since then is to be sent.
    changed_since: SystemTime,
}

/// Sum of the lengths of the files below `root` that were changed, or only renamed, since then.
fn changed_len(root: &Path, since: SystemTime) -> u64 {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let entries = walkdir::WalkDir::new(root).into_iter();
    let metadata = entries.map(|entry| entry.unwrap().metadata().unwrap());
    metadata
        .filter(|metadata| metadata.is_file())
        // Times of files are some milliseconds behind the clock.
        .filter(|metadata| metadata.ctime() + 1 >= since.as_secs() as i64)
        .map(|metadata| metadata.len())
        .sum()
}

/// A process that does not outlive a test that fails: it would try for ever.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Ground {
    /// Before the bed, so that it is unmounted before the folder goes.
    disk: Option<Volatile>,
    bed: Bed,
    mounts: u32,
    options: &'static str,
}

impl Ground {
    fn new(format: &str) -> Self {
        let bed = Bed::new();
        make_image(&bed.path("image"), format);
        let mut ground = Self {
            disk: None,
            mounts: 0,
            // XFS refuses a second mount while the dead one is being taken down.
            options: if format == "xfs" { "loop,nouuid" } else { "loop" },
            bed,
        };
        ground.power_on();
        std::fs::create_dir_all(ground.bed.target.join("into")).unwrap();
        ground
    }

    /// Mounts the image, at the same place for the receiver each time.
    fn power_on(&mut self) {
        self.mounts += 1;
        let folder = self.bed.path(&format!("power{}", self.mounts));
        let disk = Volatile::mount(&self.bed.path("image"), &folder, self.options).unwrap();
        let link = self.bed.path("powered");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(disk.path(), &link).unwrap();
        self.bed.target = link;
        self.disk = Some(disk);
    }

    fn receiver(&self, address: &str) -> bed::Receiver {
        let into = self.bed.target.join("into");
        self.bed
            .receiver_at(address, &["--into".as_ref(), into.as_os_str()])
    }

    /// Runs a sync during which the power is cut after `delay`; the run goes on by itself. Returns the receiver that was started
    /// then.
    fn interrupted(
        &mut self,
        address: &str,
        receiver: bed::Receiver,
        cut: Cut,
        dice: &mut Dice,
    ) -> bed::Receiver {
        let process = self
            .bed
            .command(address)
            .args(["--bandwidth-limit", RATE, "--no-back-off"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Ended(process.unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let begin = Instant::now();
        let (mut durable, mut wire) = (0, 0);
        // Until the power fails; a round that was faster is whole.
        for line in lines.by_ref() {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            durable = event["bytes_durable"].as_u64().unwrap_or(durable);
            wire = event["bytes_wire"].as_u64().unwrap_or(wire);
            if begin.elapsed() >= cut.delay && durable >= cut.durable || event["event"] == "summary" {
                break;
            }
        }
        receiver.freeze();
        let (kept, lost) = self.disk.take().unwrap().cut(dice);
        receiver.kill();
        self.power_on();
        let receiver = self.receiver(address);
        let rest: Vec<serde_json::Value> = lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        let status = process.0.wait().unwrap();
        if let Some(summary) = rest.iter().rev().find(|event| event["event"] == "summary") {
            assert!(status.success() && summary["ok"] == true, "{summary}");
            let total = summary["bytes_wire"].as_u64().unwrap();
            let changed = changed_len(&self.bed.source, cut.changed_since);
            assert!(
                total - wire < changed.saturating_sub(durable) + LATE,
                "{} bytes sent after the cut: {durable} of {changed} were durable, {kept} blocks kept, {lost} lost",
                total - wire
            );
        }
        receiver
    }

    fn assert_equal(&self, what: &str) {
        let report = compare::compare(
            &self.bed.source,
            &self.bed.target.join("into"),
            Options::default(),
        );
        assert!(report.is_equal(), "{what}: {report:?}");
    }
}

fn cut_again_and_again(format: &str, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut ground = Ground::new(format);
    // The journal is on the same disk.
    let journal = ground.bed.target.join("journal");
    std::fs::create_dir(&journal).unwrap();
    std::os::unix::fs::symlink(&journal, ground.bed.path("journal")).unwrap();
    plant(&ground.bed.source);
    let mut receiver = ground.receiver("127.0.0.1:0");
    let address = receiver.address.clone();
    for round in 0..4 {
        let changed_since = if round == 0 {
            SystemTime::UNIX_EPOCH
        } else {
            SystemTime::now()
        };
        let done = match round {
            0 => Vec::new(),
            _ => change(&ground.bed.source, seed * 10 + round),
        };
        let cut = Cut {
            delay: Duration::from_millis(300 + dice.below(2600)),
            durable: if round == 0 { DURABLE_MIN } else { 0 },
            changed_since,
        };
        receiver = ground.interrupted(&address, receiver, cut, &mut dice);
        let what = format!("{format} seed {seed} round {round} {done:#?}");
        // Before anything is repaired that verification finds.
        ground.assert_equal(&what);
        let run = ground.bed.sync(&address, &["--checksum"]);
        run.assert_done();
        assert_eq!(run.summary()["verified"]["repaired"], 0, "{done:#?} {run:?}");
        ground.assert_equal(&what);
    }
}

#[test]
fn power_cuts_of_a_target_on_ext4_lose_nothing_that_was_acknowledged() {
    cut_again_and_again("ext4", 1);
}

#[test]
fn power_cuts_of_a_target_on_xfs_lose_nothing_that_was_acknowledged() {
    cut_again_and_again("xfs", 2);
}
