//! `go2cloud sync` with `go2cloud-receiver --into`, stopped or killed at any point while the source goes on changing: one more run
//! makes both equal, and sends what was durable only once.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use go2cloud_tests::bed::{self, Bed, Run};
use go2cloud_tests::compare::{self, Options};
use go2cloud_tests::dice::Dice;
use go2cloud_tests::disk::Disk;
use go2cloud_tests::maketree;
use go2cloud_tests::process::wait_until;

fn assert_equal(bed: &Bed) {
    compare::compare(&bed.source, &bed.target, Options::default()).assert_equal();
}

/// Bytes that do not compress.
fn noise(path: &Path, seed: u64, len: usize) {
    let mut bytes = vec![0; len];
    Dice::new(seed).fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Lets the clock go past the margin within which a time proves nothing.
fn settle() {
    std::thread::sleep(Duration::from_millis(100));
}

/// Starts an agent, and waits for the moment at which something is done to it.
fn start_until(mut agent: Command, moment: &str, has_come: impl Fn() -> bool) -> Child {
    let agent = agent
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(
        moment,
        Duration::from_micros(200),
        || has_come().then_some(()),
        String::new,
    );
    agent
}

/// Length of the file that keeps a run busy until its receiver is killed.
const BALLAST_LEN: usize = 8 << 20;

/// Runs against a receiver that is killed when `is_enough` of its tree, before anything of that is durable in its journal if that
/// happens within 2 s.
fn kill_receiver_when(bed: &Bed, is_enough: impl Fn() -> bool) {
    noise(&bed.source.join("ballast"), 99, BALLAST_LEN);
    let receiver = bed.receiver();
    let mut command = bed.command(&receiver.address);
    command.args(["--no-retry", "--bandwidth-limit", "2000"]);
    let agent = start_until(command, "the moment to kill the receiver", is_enough);
    receiver.kill();
    let run = bed::finished(agent.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
}

/// One run that ends well with a new receiver.
fn again(bed: &Bed, arguments: &[&str]) -> Run {
    let receiver = bed.receiver();
    let run = bed.sync(&receiver.address, arguments);
    run.assert_done();
    assert_equal(bed);
    run
}

fn durable_beyond(len: u64) -> impl Fn(&serde_json::Value) -> bool {
    move |event| event["bytes_durable"].as_u64().is_some_and(|bytes| bytes > len)
}

#[test]
fn a_file_that_comes_back_while_a_long_one_replaced_it_in_part_is_sent() {
    let bed = Bed::new();
    let (file, aside) = (bed.source.join("f"), bed.path("aside"));
    fs::write(&file, "fourteen bytes").unwrap();
    settle();
    let receiver = bed.receiver();
    bed.sync(&receiver.address, &[]).assert_done();
    fs::rename(&file, &aside).unwrap();
    noise(&file, 1, 30 << 20);
    settle();
    bed.sync_and_kill(
        &receiver.address,
        &["--bandwidth-limit", "10000"],
        durable_beyond(6 << 20),
    );
    fs::rename(&aside, &file).unwrap();
    drop(receiver);
    again(&bed, &[]);
}

#[test]
fn a_long_file_that_replaces_another_goes_on_where_it_was() {
    let bed = Bed::new();
    let file = bed.source.join("f");
    noise(&file, 1, 3 << 20);
    settle();
    let receiver = bed.receiver();
    bed.sync(&receiver.address, &[]).assert_done();
    noise(&bed.path("new"), 2, 30 << 20);
    fs::rename(bed.path("new"), &file).unwrap();
    settle();
    let event = bed.sync_and_kill(
        &receiver.address,
        &["--bandwidth-limit", "10000"],
        durable_beyond(8 << 20),
    );
    let durable = event["bytes_durable"].as_u64().unwrap();
    drop(receiver);
    let run = again(&bed, &["--checksum"]);
    let wire = run.number("bytes_wire");
    assert!(
        wire < (30 << 20) - durable + (2 << 20),
        "{wire} bytes sent again, {durable} were durable"
    );
}

#[test]
fn a_directory_that_comes_back_while_it_was_being_removed_is_whole() {
    let bed = Bed::new();
    let (directory, aside) = (bed.source.join("d"), bed.path("aside"));
    fs::create_dir(&directory).unwrap();
    for index in 0..3000 {
        fs::write(directory.join(format!("f{index}")), "x").unwrap();
    }
    settle();
    again(&bed, &[]);
    fs::rename(&directory, &aside).unwrap();
    settle();
    let copy = bed.target.join("d");
    // The order in which it will be read and removed.
    let first = fs::read_dir(&copy).unwrap().next().unwrap().unwrap().path();
    kill_receiver_when(&bed, || !first.exists());
    fs::rename(&aside, &directory).unwrap();
    again(&bed, &[]);
}

/// A receiver that dies between a removal and its record has no reason to be sent everything again.
#[test]
fn a_receiver_killed_after_a_removal_keeps_its_journal() {
    let bed = Bed::new();
    for index in 0..200 {
        noise(&bed.source.join(format!("f{index}")), index, 40_000);
    }
    settle();
    again(&bed, &[]);
    fs::remove_file(bed.source.join("f7")).unwrap();
    settle();
    let copy = bed.target.join("f7");
    kill_receiver_when(&bed, || !copy.exists());
    for index in 100..200 {
        fs::remove_file(bed.source.join(format!("f{index}"))).unwrap();
    }
    let run = again(&bed, &["--checksum"]);
    assert!(run.number("bytes_data") <= BALLAST_LEN as u64, "{run:?}");
}

/// Other names of a file that was being rewritten hold what it held then.
#[test]
fn a_name_that_is_left_of_a_file_that_was_being_rewritten_has_its_old_content_again() {
    let bed = Bed::new();
    let [one, other] = ["a", "b"].map(|name| bed.source.join(name));
    noise(&one, 1, 500_000);
    fs::hard_link(&one, &other).unwrap();
    settle();
    again(&bed, &[]);
    let before = fs::read(&one).unwrap();
    noise(&one, 2, 500_000);
    settle();
    let (copy, wanted) = (bed.target.join("a"), fs::read(&one).unwrap());
    kill_receiver_when(&bed, || fs::read(&copy).unwrap() == wanted);
    fs::remove_file(&one).unwrap();
    fs::write(&other, before).unwrap();
    settle();
    again(&bed, &[]);
}

#[test]
fn what_an_interrupted_run_had_begun_and_the_source_has_no_more_goes() {
    let bed = Bed::new();
    let (folder, image) = (bed.source.join("folder"), bed.source.join("image"));
    fs::create_dir_all(folder.join("deep")).unwrap();
    for index in 0..300 {
        noise(&folder.join(format!("deep/f{index}")), index, 20_000);
    }
    noise(&image, 1, 30 << 20);
    noise(&bed.source.join("stays"), 2, 1000);
    settle();
    let receiver = bed.receiver();
    bed.sync_and_kill(
        &receiver.address,
        &["--bandwidth-limit", "10000"],
        durable_beyond(14 << 20),
    );
    assert!(bed.target.join("image").exists() && bed.target.join("folder").exists());
    fs::remove_dir_all(&folder).unwrap();
    fs::remove_file(&image).unwrap();
    drop(receiver);
    let run = again(&bed, &["--checksum"]);
    assert_eq!(
        run.summary()["verified"]["compared"],
        2,
        "the root and a file: {run:?}"
    );
}

/// New entries of a receiver that was killed are in no record.
#[test]
fn what_a_killed_receiver_had_made_and_the_source_has_no_more_goes() {
    let bed = Bed::new();
    noise(&bed.source.join("stays"), 2, 1000);
    settle();
    again(&bed, &[]);
    for index in 0..50 {
        fs::create_dir(bed.source.join(format!("d{index}"))).unwrap();
        noise(&bed.source.join(format!("d{index}/f")), index, 1000);
    }
    let last = bed.target.join("d7/f");
    kill_receiver_when(&bed, || last.exists());
    for index in 0..50 {
        fs::remove_dir_all(bed.source.join(format!("d{index}"))).unwrap();
    }
    fs::remove_file(bed.source.join("ballast")).unwrap();
    let run = again(&bed, &["--checksum"]);
    assert_eq!(run.summary()["verified"]["compared"], 2, "{run:?}");
}

/// What was put into a target behind its journal's back is found by verification, unless the rules leave it out.
#[test]
fn verification_names_and_removes_what_is_not_at_the_source() {
    let bed = Bed::new();
    fs::write(bed.target.join("before"), "the first run").unwrap();
    noise(&bed.source.join("d"), 1, 1000);
    settle();
    let receiver = bed.receiver();
    let arguments = ["--checksum", "--exclude", "/left"];
    bed.sync(&receiver.address, &arguments).assert_done();
    assert!(bed.target.join("before").exists(), "it was there before us");
    fs::remove_file(bed.target.join("before")).unwrap();
    fs::create_dir_all(bed.target.join("foreign/deep")).unwrap();
    fs::write(bed.target.join("left"), "alone").unwrap();
    let run = bed.sync(&receiver.address, &arguments);
    run.assert_done();
    // The directory, the one in it, and the time of what they lay in.
    assert_eq!(run.summary()["verified"]["repaired"], 3, "{run:?}");
    assert_eq!(run.number("deleted"), 1, "{run:?}");
    let names: Vec<_> = fs::read_dir(&bed.target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.len() == 2 && names.contains(&"left".into()), "{names:?}");
}

/// A target that lost something while the link was down: no event names it, so the rounds before the freeze look at everything.
#[test]
fn what_is_gone_at_the_target_before_a_freeze_is_sent_again() {
    let mut bed = Bed::new();
    let mut disk = Disk::new(64);
    disk.format(0, "ext4");
    bed.source = disk.mount(0, "noatime").join("source");
    for folder in ["d", "other"] {
        fs::create_dir_all(bed.source.join(folder)).unwrap();
        noise(&bed.source.join(folder).join("x"), 1, 1000);
        noise(&bed.source.join(folder).join("y"), 2, 1000);
    }
    settle();
    let receiver = bed.receiver();
    let address = receiver.address.clone();
    let (reached, done) = (bed.path("reached"), bed.path("done"));
    let wait = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done",
        reached.display(),
        done.display()
    );
    let mut command = bed.command(&address);
    command.args(["--freeze", "--freeze-max", "20", "--pre-freeze", &wait]);
    let agent = start_until(command, "the command", || reached.exists());
    receiver.kill();
    fs::remove_dir_all(bed.target.join("d")).unwrap();
    noise(&bed.source.join("d/x"), 3, 1000);
    noise(&bed.source.join("d/new"), 4, 1000);
    let _receiver = bed.receiver_at(&address, &["--into".as_ref(), bed.target.as_os_str()]);
    fs::write(&done, "").unwrap();
    let run = bed::finished(agent.wait_with_output().unwrap());
    run.assert_done();
    assert!(run.number("resumes") >= 1, "{run:?}");
    assert_equal(&bed);
}

/// Where things wait outside of the tree, to be brought back.
struct Aside {
    folder: PathBuf,
    waiting: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    /// Takes something out of the tree, and puts something else in its place now and then.
    fn take(&mut self, root: &Path, dice: &mut Dice) -> String {
        let Some(path) = any(root, dice) else {
            return String::new();
        };
        let place = self.folder.join(format!("{}", dice.bits()));
        fs::rename(&path, &place).unwrap();
        match dice.below(4) {
            0 => noise(&path, dice.bits(), 10_000),
            1 => noise(&path, dice.bits(), 4 << 20),
            2 => maketree::source_code(&path, dice.bits(), 40).unwrap(),
            _ => {}
        }
        self.waiting.push((path.clone(), place));
        format!("take {} away", path.display())
    }

    /// Brings things back to where they were, in place of what is there.
    fn give_back(&mut self, dice: &mut Dice) -> Vec<String> {
        let mut done = Vec::new();
        let mut kept = Vec::new();
        for (path, place) in self.waiting.drain(..).rev() {
            if dice.one_in(4) || !path.parent().is_some_and(Path::is_dir) {
                kept.push((path, place));
                continue;
            }
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
            fs::rename(&place, &path).unwrap();
            done.push(format!("bring {} back", path.display()));
        }
        kept.reverse();
        self.waiting = kept;
        done
    }
}

/// Any entry below `root`.
fn any(root: &Path, dice: &mut Dice) -> Option<PathBuf> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name();
    let paths: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
        .collect();
    (!paths.is_empty()).then(|| dice.pick(&paths).clone())
}

/// Changes of all kinds; `aside` takes part.
fn change(bed: &Bed, aside: &mut Aside, dice: &mut Dice) -> Vec<String> {
    let mut done = aside.give_back(dice);
    done.extend(maketree::shuffle(&bed.source, dice.bits(), 6).unwrap());
    let mutations = maketree::mutate(&bed.source, dice.bits(), 12).unwrap();
    done.extend(mutations.iter().map(ToString::to_string));
    for _ in 0..3 {
        done.push(aside.take(&bed.source, dice));
    }
    if let Some(path) = any(&bed.source, dice).filter(|_| dice.one_in(2)) {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        done.push(format!("remove {}", path.display()));
    }
    maketree::source_code(&bed.source.join(format!("new{:x}", dice.bits())), dice.bits(), 60).unwrap();
    done
}

/// Kills one of the two at a random point of a run.
fn kill_one(bed: &Bed, dice: &mut Dice) -> String {
    let receiver = bed.receiver();
    let mut command = bed.command(&receiver.address);
    command.args(["--no-retry", "--bandwidth-limit", "20000"]);
    let mut agent = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let delay = Duration::from_millis(20 + dice.below(900));
    let end = Instant::now() + delay;
    while Instant::now() < end && agent.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let who = if dice.one_in(3) {
        agent.kill().unwrap();
        "agent"
    } else {
        receiver.kill();
        "receiver"
    };
    agent.wait().unwrap();
    format!("kill the {who} after {delay:?}")
}

/// Kills the receiver in the midst of several rounds, changes the source, and lets the same run go on with a new receiver.
fn resume(bed: &Bed, aside: &mut Aside, dice: &mut Dice) -> Vec<String> {
    let receiver = bed.receiver();
    let address = receiver.address.clone();
    let mut command = bed.command(&address);
    command.args(["--rounds", "3", "--bandwidth-limit", "20000"]);
    let agent = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let delay = Duration::from_millis(100 + dice.below(1200));
    std::thread::sleep(delay);
    receiver.kill();
    let mut done = vec![format!("kill the receiver of a run of rounds after {delay:?}")];
    done.extend(change(bed, aside, dice));
    settle();
    let _receiver = bed.receiver_at(&address, &["--into".as_ref(), bed.target.as_os_str()]);
    let run = bed::finished(agent.wait_with_output().unwrap());
    run.assert_done();
    done.push("go on".to_owned());
    if run.number("resumes") == 0 {
        // It was over before.
        bed.sync(&address, &[]).assert_done();
        done.push("run to the end".to_owned());
    }
    done
}

fn kill_again_and_again(seed: u64) {
    let mut dice = Dice::new(seed);
    let bed = Bed::new();
    let mut aside = Aside {
        folder: bed.path("aside"),
        waiting: Vec::new(),
    };
    fs::create_dir(&aside.folder).unwrap();
    maketree::source_code(&bed.source, seed, 400).unwrap();
    noise(&bed.source.join("long"), seed, 6 << 20);
    let mut story = vec![kill_one(&bed, &mut dice)];
    for _ in 0..3 {
        for _ in 0..2 {
            story.extend(change(&bed, &mut aside, &mut dice));
            story.push(kill_one(&bed, &mut dice));
        }
        if dice.one_in(2) {
            story.extend(resume(&bed, &mut aside, &mut dice));
        } else {
            story.extend(aside.give_back(&mut dice));
            settle();
            let receiver = bed.receiver();
            bed.sync(&receiver.address, &[]).assert_done();
            story.push("run to the end".to_owned());
        }
        let report = compare::compare(&bed.source, &bed.target, Options::default());
        assert!(report.is_equal(), "seed {seed}: {report:#?} after {story:#?}");
    }
    let run = again(&bed, &["--checksum"]);
    assert_eq!(run.summary()["verified"]["repaired"], 0, "{run:?}");
}

#[test]
fn whoever_is_killed_while_the_source_changes_one_more_run_makes_both_equal() {
    kill_again_and_again(1);
}

#[test]
fn whoever_is_killed_while_the_source_changes_one_more_run_makes_both_equal_too() {
    kill_again_and_again(2);
}
