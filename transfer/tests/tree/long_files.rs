//! Changes of long files, at targets that do not hold what they should, or cannot be written as they are.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use go2cloud_tests::disk::flip;
use go2cloud_tests::medium::{Format, Medium};
use transfer::progress::{Event, Observer, Silent, Summary};
use transfer::source::Retry;

use crate::bed::{Bed, noise};

/// Long enough to travel in chunks.
const LEN: usize = 3 << 20;
/// More entries than a session looks at before it believes its journal.
const UNSEEN_BEHIND: usize = 300;

fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

/// One run without verification, which would find and repair what must not happen.
fn run(bed: &Bed) -> Summary {
    run_observed(bed, &Silent)
}

fn run_observed(bed: &Bed, observer: &dyn Observer) -> Summary {
    settle();
    let summary = bed.sync_observed(observer, |plan| {
        plan.verify = false;
        plan.retry = Retry::Times(2);
    });
    summary.unwrap()
}

fn chattr(change: &str, path: &Path) {
    let changed = Command::new("chattr").arg(change).arg(path).status();
    assert!(changed.unwrap().success(), "chattr {change} {}", path.display());
}

fn flags(path: &Path) -> String {
    let listed = Command::new("lsattr").arg(path).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    listed.split_whitespace().next().unwrap().to_owned()
}

fn assert_same(bed: &Bed, name: &str) {
    let [source, target] = [bed.path("source"), bed.target.clone()].map(|side| side.join(name));
    let same = std::fs::read(source).unwrap() == std::fs::read(target).unwrap();
    assert!(same, "{name} differs at the target");
}

#[test]
fn a_new_flag_of_a_long_file_does_not_empty_it() {
    let medium = Medium::new(Format::Ext4, 64).unwrap();
    let bed = Bed::within(&medium.path());
    bed.write("long", &noise(LEN, 1));
    assert!(run(&bed).ok);
    chattr("+c", &bed.path("source/long"));
    let summary = run(&bed);
    assert!(summary.ok && summary.bytes_data == 0, "{summary:?}");
    assert_same(&bed, "long");
    assert!(flags(&bed.target.join("long")).contains('c'));
}

#[test]
fn a_flag_that_the_target_refuses_does_not_empty_a_long_file() {
    let [on_btrfs, on_ext4] = [Format::Btrfs, Format::Ext4].map(|format| Medium::new(format, 128).unwrap());
    let mut bed = Bed::within(&on_btrfs.path());
    bed.target = on_ext4.path().join("target");
    std::fs::create_dir(&bed.target).unwrap();
    let source = bed.path("source/database");
    std::fs::write(&source, b"").unwrap();
    chattr("+C", &source);
    std::fs::write(&source, noise(LEN, 2)).unwrap();
    let named = |summary: &Summary| {
        !summary.ok
            && summary
                .skipped
                .iter()
                .any(|skipped| skipped.path == "database" && skipped.what.contains("flags"))
    };
    let summary = run(&bed);
    assert!(named(&summary), "{summary:?}");
    assert_same(&bed, "database");
    // Nothing changed; then one chunk did.
    for chunks in [0, 1] {
        if chunks > 0 {
            flip(&source, 1_000_000);
        }
        let summary = run(&bed);
        assert!(named(&summary), "{summary:?}");
        assert_eq!(summary.bytes_data, chunks << 16, "{summary:?}");
        assert_same(&bed, "database");
    }
}

/// A new content under the same inode is written whole: then a flag that counts for empty files only is set.
#[test]
fn a_file_that_is_sent_whole_gets_flags_that_only_an_empty_one_takes() {
    let medium = Medium::new(Format::Btrfs, 128).unwrap();
    let bed = Bed::within(&medium.path());
    let source = bed.path("source");
    bed.write("a", &noise(LEN, 3));
    std::fs::hard_link(source.join("a"), source.join("b")).unwrap();
    assert!(run(&bed).ok);
    // Short in between: what is known of its chunks is of no use.
    std::fs::write(source.join("a"), b"short").unwrap();
    assert!(run(&bed).ok);
    std::fs::write(source.join("a"), b"").unwrap();
    chattr("+C", &source.join("a"));
    std::fs::write(source.join("a"), noise(LEN, 4)).unwrap();
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    for name in ["a", "b"] {
        assert_same(&bed, name);
        assert!(flags(&bed.target.join(name)).contains('C'));
    }
    let [a, b] = ["a", "b"].map(|name| std::fs::metadata(bed.target.join(name)).unwrap().ino());
    assert_eq!(a, b);
}

/// A bed with a long file that a session does not look at before it believes its journal.
fn with_long_file_behind_others() -> Bed {
    let bed = Bed::new();
    for index in 0..UNSEEN_BEHIND {
        bed.write(&format!("file {index}"), b"");
    }
    bed.write("long", &noise(LEN, 5));
    assert!(run(&bed).ok);
    bed
}

/// Remembers why a session ended.
#[derive(Default)]
struct Reasons(std::sync::Mutex<Vec<String>>);

impl Observer for Reasons {
    fn event(&self, event: &Event) {
        if let Event::Retrying { error, .. } = event {
            self.0.lock().unwrap().push(error.clone());
        }
    }
}

#[test]
fn a_long_file_that_is_gone_at_the_target_is_sent_whole() {
    let bed = with_long_file_behind_others();
    bed.write("long, too", &noise(LEN, 6));
    assert!(run(&bed).ok);
    for name in ["long", "long, too"] {
        std::fs::remove_file(bed.target.join(name)).unwrap();
        flip(&bed.path("source").join(name), 2_000_000);
    }
    let reasons = Reasons::default();
    let summary = run_observed(&bed, &reasons);
    assert!(summary.ok, "{summary:?}");
    let reasons = reasons.0.into_inner().unwrap();
    let is_told = reasons.iter().all(|reason| reason.contains("its journal says"));
    assert!(
        is_told && reasons.len() == 1,
        "both are found at once: {reasons:?}"
    );
    for name in ["long", "long, too"] {
        assert_same(&bed, name);
    }
    assert_eq!(run(&bed).bytes_data, 0);
}

#[test]
fn a_long_file_of_another_length_at_the_target_is_sent_whole() {
    let bed = with_long_file_behind_others();
    for len in [1 << 20, LEN as u64 + 5] {
        let target = std::fs::File::options().write(true).open(bed.target.join("long"));
        target.unwrap().set_len(len).unwrap();
        flip(&bed.path("source/long"), 2_500_000);
        let summary = run(&bed);
        assert!(summary.ok && summary.resumes == 1, "{summary:?}");
        assert_same(&bed, "long");
    }
    // It grows at the source, and is gone at the target.
    std::fs::remove_file(bed.target.join("long")).unwrap();
    bed.write("long", &noise(LEN + 100_000, 5));
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    assert_same(&bed, "long");
}

/// A program that runs; nobody can write to its file.
struct Running(Child);

impl Running {
    fn start(program: &Path) -> Self {
        Self(Command::new(program).arg("60").spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sleep` with so much behind it that it travels in chunks.
fn program(bed: &Bed) {
    let found = Command::new("sh").args(["-c", "command -v sleep"]).output();
    let path = String::from_utf8(found.unwrap().stdout).unwrap();
    let mut program = std::fs::read(path.trim()).unwrap();
    program.extend(noise(LEN, 7));
    bed.write("program", &program);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bed.path("source/program"), mode).unwrap();
}

#[test]
fn a_program_that_runs_at_the_target_is_replaced_as_a_whole() {
    let bed = Bed::new();
    program(&bed);
    assert!(run(&bed).ok);
    let target = bed.target.join("program");
    let before = std::fs::metadata(&target).unwrap().ino();
    let _running = Running::start(&target);
    flip(&bed.path("source/program"), LEN as u64);
    // Its new name must not get what is there until then.
    std::fs::hard_link(bed.path("source/program"), bed.path("source/second")).unwrap();
    let summary = run(&bed);
    assert!(summary.ok && summary.resumes == 1, "{summary:?}");
    assert_same(&bed, "program");
    assert_same(&bed, "second");
    assert_ne!(std::fs::metadata(&target).unwrap().ino(), before);
    assert_eq!(run(&bed).bytes_data, 0);
}

#[test]
fn a_program_that_runs_under_another_name_is_left_alone_and_named() {
    let bed = Bed::new();
    program(&bed);
    std::fs::hard_link(bed.path("source/program"), bed.path("source/second")).unwrap();
    assert!(run(&bed).ok);
    let old = std::fs::read(bed.target.join("program")).unwrap();
    let running = Running::start(&bed.target.join("second"));
    flip(&bed.path("source/program"), LEN as u64);
    std::fs::hard_link(bed.path("source/program"), bed.path("source/third")).unwrap();
    for _ in 0..2 {
        let summary = run(&bed);
        let named = summary.skipped.iter().any(|skipped| skipped.path == "program");
        assert!(!summary.ok && named, "{summary:?}");
        assert!(std::fs::read(bed.target.join("second")).unwrap() == old);
        assert!(!bed.target.join("third").exists());
    }
    drop(running);
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    let [first, others @ ..] = ["program", "second", "third"].map(|name| {
        assert_same(&bed, name);
        std::fs::metadata(bed.target.join(name)).unwrap().ino()
    });
    assert_eq!(others, [first; 2]);
}

/// What an interruption left of a first copy, and then was lost at the target, must not be asked for again and again.
#[test]
fn an_intent_makes_chunks_unknown_that_have_no_entry_yet() {
    use transfer::tree::entry::{Digest, EntryPath};
    use transfer::tree::replica::{Record, Replica};
    let folder = tempfile::tempdir().unwrap();
    let mut replica = Replica::create(folder.path(), [1; 16]).unwrap();
    let path = EntryPath::parse(*b"long").unwrap();
    let chunks = Record::Chunks {
        path: path.clone(),
        ino: 7,
        chunk_log2: 16,
        first: 0,
        digests: vec![Digest([1; 32]); 20],
    };
    replica.append(&[chunks]).unwrap();
    replica.seal().unwrap();
    assert!(replica.snapshot().cursor().chunks(&path, 7).unwrap().is_some());
    let intent = Record::Intent {
        path: path.clone(),
        chunks: Vec::new(),
    };
    replica.append(&[intent]).unwrap();
    replica.seal().unwrap();
    assert_eq!(replica.snapshot().cursor().chunks(&path, 7).unwrap(), None);
}
