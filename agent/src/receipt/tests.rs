use std::fs;

use transfer::progress::{Silent, Skipped, StopFlag};
use transfer::source::{Compression, Retry, Rounds, SourceVolume, SyncPlan, TreeSource};
use transfer::target::{Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

use super::*;
use crate::cli::VerifyArgs;
use crate::exit;

/// A source with its state, and a target that serves.
struct Bed {
    folder: tempfile::TempDir,
    secret: Secret,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["source", "target"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("source/file"), "content").unwrap();
        Self {
            folder,
            secret: Secret::generate().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn with_target<T>(&self, act: impl FnOnce(SocketAddr, &str) -> T) -> T {
        self.with_target_at("127.0.0.1:0".parse().unwrap(), act)
    }

    fn with_target_at<T>(&self, listen: SocketAddr, act: impl FnOnce(SocketAddr, &str) -> T) -> T {
        let receiver = Receiver::bind(ServePlan {
            listen,
            secret: self.secret.clone(),
            volume: TargetVolume::Tree {
                root: self.path("target"),
            },
            journal: self.path("journal"),
        })
        .unwrap();
        let stop = StopFlag::default();
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            let result = act(receiver.local_addr(), &receiver.receipt_key());
            stop.stop();
            result
        })
    }

    fn sync(&self, target: SocketAddr) -> Summary {
        let plan = SyncPlan {
            target: vec![target],
            secret: self.secret.clone(),
            connections: 1,
            volume: SourceVolume::Tree(TreeSource {
                root: self.path("source"),
                cross_mounts: false,
                excludes: Vec::new(),
                never: Vec::new(),
                estimate: false,
                freeze: None,
            }),
            state: self.path("baseline"),
            throttle: std::sync::Arc::new(Throttle::new(0)),
            compression: Compression::Off,
            verify: true,
            rounds: Rounds::Count(1),
            retry: Retry::Never,
            gives_way: false,
        };
        transfer::source::sync(&plan, &Silent, &StopFlag::default()).unwrap()
    }

    fn write(&self, outcome: Outcome<'_>, target: Option<SocketAddr>) -> PathBuf {
        let baseline = self.path("baseline");
        let run = Run {
            source: "abc",
            system: "Debian",
            volumes: vec!["/srv".into()],
            job: Some("job-1"),
            target: "ins-1",
            began: jiff::Timestamp::now(),
            baseline: &baseline,
            outcome,
        };
        let addresses: Vec<SocketAddr> = target.into_iter().collect();
        let peer = Peer {
            addresses: &addresses,
            secret: &self.secret,
        };
        let peer = target.map(|_| peer);
        let state = State::at(self.path("state"));
        write(
            &run,
            peer.ok_or("the target was not reached"),
            &self.path("logs"),
            "job-1",
            &state,
        )
        .unwrap()
    }
}

fn check(receipt: &Path, key: Option<&str>, target_key: Option<&str>) -> exit::Exit {
    run(&VerifyArgs {
        receipt: receipt.to_owned(),
        key: key.map(str::to_owned),
        target_key: target_key.map(str::to_owned),
    })
}

#[test]
fn both_sides_sign_and_nothing_can_be_changed() {
    let bed = Bed::new();
    bed.with_target(|target, target_key| {
        let summary = bed.sync(target);
        let path = bed.write(Outcome::Done(&summary), Some(target));
        let document = fs::read_to_string(&path).unwrap();
        assert!(serde_json::from_str::<Value>(&document).is_ok());
        let verified = verify::verify(&document).unwrap();
        let (statement, key) = verified.target.unwrap();
        assert_eq!(key, target_key);
        assert_eq!(statement.sealed, summary.sealed);
        assert_eq!(statement.verified.unwrap().root, summary.verified.unwrap().root);
        assert_eq!(verified.body["summary"]["files"], 2);
        for (from, to) in [
            ("\"files\":2", "\"files\":3"),
            ("job-1", "job-2"),
            ("signed_at\":1", "signed_at\":2"),
            ("\"complete\"", "\"Complete\""),
        ] {
            let changed = document.replacen(from, to, 1);
            assert_ne!(changed, document, "{from}");
            assert!(verify::verify(&changed).is_err(), "{from}");
        }
        assert_eq!(check(&path, None, None), exit::DONE);
        assert_eq!(
            check(&path, Some(&verified.source_key), Some(target_key)),
            exit::DONE
        );
        assert_eq!(check(&path, Some("00"), None), exit::FAILED);
        assert_eq!(check(&path, None, Some("00")), exit::FAILED);
    });
}

#[test]
fn a_target_that_has_lost_its_journal_vouches_for_nothing() {
    let bed = Bed::new();
    let summary = bed.with_target(|target, _| bed.sync(target));
    fs::remove_dir_all(bed.path("journal")).unwrap();
    bed.with_target(|target, _| {
        let path = bed.write(Outcome::Done(&summary), Some(target));
        assert_eq!(check(&path, None, None), exit::PARTIAL);
    });
}

#[test]
fn a_target_that_holds_something_else_is_not_passed_over() {
    let bed = Bed::new();
    bed.with_target(|target, _| {
        let early = bed.sync(target);
        fs::write(bed.path("source/file"), "another content").unwrap();
        bed.sync(target);
        let path = bed.write(Outcome::Done(&early), Some(target));
        let why = verify::verify(&fs::read_to_string(&path).unwrap()).unwrap_err();
        assert!(why.contains("different contents"), "{why}");
        assert_eq!(check(&path, None, None), exit::FAILED);
    });
}

#[test]
fn failures_and_skipped_entries_have_receipts_and_a_code_of_their_own() {
    let bed = Bed::new();
    let failed = Outcome::Failed {
        code: "ERROR_DATA_TRANSMISSION",
        step: "File Transmission",
        message: "the disk \",\"countersigned\":{} is full",
    };
    let path = bed.write(failed, None);
    let document = fs::read_to_string(&path).unwrap();
    let verified = verify::verify(&document).unwrap();
    assert_eq!(verified.body["failure"]["step"], "File Transmission");
    assert!(verified.target.unwrap_err().contains("not reached"));
    assert_eq!(check(&path, None, None), exit::PARTIAL);
    bed.with_target(|target, _| {
        assert_eq!(check(&bed.write(failed, Some(target)), None, None), exit::PARTIAL);
        let summary = Summary {
            ok: false,
            skipped_total: 3,
            skipped: vec![Skipped {
                path: "a/b".into(),
                what: "content".into(),
                why: "Input/output error".into(),
            }],
            ..bed.sync(target)
        };
        let path = bed.write(Outcome::Done(&summary), Some(target));
        let text = fs::read_to_string(path.with_extension("txt")).unwrap();
        assert!(text.contains("content of a/b: Input/output error"), "{text}");
        assert!(
            text.contains("3 entries\n") && text.contains("and 2 more"),
            "{text}"
        );
        assert_eq!(check(&path, None, None), exit::PARTIAL);
    });
    for foreign in ["{}", "", "{\"receipt\":{},\"signature\":{}}"] {
        assert!(verify::verify(foreign).is_err(), "{foreign}");
    }
}

#[test]
fn names_are_plain() {
    assert_eq!(name_for("[fd00::1]:443"), "-fd00--1--443");
    assert_eq!(name_for("ins-1"), "ins-1");
}

#[test]
fn a_target_that_was_started_anew_meanwhile_still_signs_what_it_holds() {
    let bed = Bed::new();
    let summary = bed.with_target(|target, _| bed.sync(target));
    bed.with_target(|target, target_key| {
        let path = bed.write(Outcome::Done(&summary), Some(target));
        assert_eq!(check(&path, None, Some(target_key)), exit::DONE);
    });
}

#[test]
fn a_target_that_starts_late_is_asked_again() {
    let bed = Bed::new();
    let (summary, target) = bed.with_target(|target, _| (bed.sync(target), target));
    std::thread::scope(|scope| {
        let written = scope.spawn(|| bed.write(Outcome::Done(&summary), Some(target)));
        std::thread::sleep(2 * ASK_PAUSE);
        assert!(!written.is_finished(), "nobody listens there");
        bed.with_target_at(target, |_, target_key| {
            let path = written.join().unwrap();
            assert_eq!(check(&path, None, Some(target_key)), exit::DONE);
        });
    });
}

#[test]
fn an_image_is_added_once_and_cannot_be_changed() {
    let bed = Bed::new();
    bed.with_target(|target, _| {
        let summary = bed.sync(target);
        let path = bed.write(Outcome::Done(&summary), Some(target));
        let state = State::at(bed.path("state"));
        for image in ["img-old", "img-1"] {
            add_image(&path, image, &state).unwrap();
            assert_eq!(check(&path, None, None), exit::DONE);
        }
        let document = fs::read_to_string(&path).unwrap();
        assert_eq!(document.matches(IMAGE).count(), 1, "{document}");
        let verified = verify::verify(&document).unwrap();
        assert_eq!(verified.image.as_deref(), Some("img-1"));
        assert!(verified.target.is_ok(), "what the target signed still fits");
        let said = fs::read_to_string(path.with_extension("txt")).unwrap();
        assert!(said.contains("Image: img-1\n"), "{said}");
        for changed in [
            document.replace("img-1", "img-2"),
            document.replace(",\"image\":\"img-1\"", ""),
        ] {
            verify::verify(&changed).unwrap_err();
        }
    });
    let within = r#"{"a":{"x":1,"image":"in it"}}"#;
    assert_eq!(verify::without_image(within), (within, None), "only at the end");
}
