//! Errands end to end over loopback: the target's signature under a receipt, for trees and for disks, and probes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sys::loop_device::LoopDevice;
use transfer::Kind;
use transfer::link::errand::{Errands, PROBE_LEN_MAX};
use transfer::progress::{Silent, StopFlag, Summary};
use transfer::receipt::{Statement, countersign};
use transfer::secret::Secret;
use transfer::source::{Compression, DisksSource, Retry, Rounds, SourceVolume, SyncPlan, TreeSource, sync};
use transfer::target::{DiskTarget, Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

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

    fn with_receiver<T>(&self, volume: TargetVolume, act: impl FnOnce(SocketAddr, &str) -> T) -> T {
        let receiver = Receiver::bind(ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: self.secret.clone(),
            volume,
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

    fn tree(&self) -> TargetVolume {
        TargetVolume::Tree {
            root: self.path("target"),
        }
    }

    fn sync(&self, target: SocketAddr, volume: SourceVolume, verify: bool) -> Summary {
        let plan = SyncPlan {
            target: vec![target],
            secret: self.secret.clone(),
            connections: 1,
            volume,
            state: self.path("state"),
            throttle: Arc::new(Throttle::new(0)),
            compression: Compression::Off,
            verify,
            rounds: Rounds::Count(1),
            retry: Retry::Never,
            gives_way: false,
        };
        sync(&plan, &Silent, &StopFlag::default()).unwrap()
    }

    fn source(&self) -> SourceVolume {
        SourceVolume::Tree(TreeSource {
            root: self.path("source"),
            cross_mounts: false,
            excludes: Vec::new(),
            never: Vec::new(),
            estimate: false,
            freeze: None,
        })
    }

    fn signed(&self, target: SocketAddr, key: &str) -> Statement {
        let countersigned = countersign(&[target], &self.secret, b"receipt").unwrap();
        assert_eq!(countersigned.public_key, key);
        countersigned.check(b"receipt").unwrap()
    }
}

#[test]
fn a_tree_s_target_attests_what_it_holds_and_nothing_that_it_was_told() {
    let bed = Bed::new();
    let (key, last) = bed.with_receiver(bed.tree(), |target, key| {
        assert_eq!(bed.signed(target, key).sealed, None);
        let summary = bed.sync(target, bed.source(), true);
        let statement = bed.signed(target, key);
        assert_eq!(statement.sealed, summary.sealed);
        assert_eq!(statement.sealed.unwrap().generation, 1);
        assert_eq!(statement.verified, summary.verified);
        fs::write(bed.path("source/file"), "another content").unwrap();
        let summary = bed.sync(target, bed.source(), false);
        let statement = bed.signed(target, key);
        assert_eq!(statement.sealed, summary.sealed);
        assert_eq!(
            statement.verified, None,
            "what was verified was an earlier content"
        );
        (key.to_owned(), bed.sync(target, bed.source(), true))
    });
    // The key and what is known outlive the process.
    bed.with_receiver(bed.tree(), |target, again| {
        assert_eq!(again, key);
        let statement = bed.signed(target, again);
        assert_eq!(
            (statement.sealed, statement.verified),
            (last.sealed, last.verified)
        );
        let summary = bed.sync(target, bed.source(), false);
        assert_eq!(bed.signed(target, again).sealed, summary.sealed);
    });
}

#[test]
fn the_target_of_disks_attests_too() {
    let bed = Bed::new();
    let disk = LoopDevice::new("g2c-agent-errand", 8 << 20, 512).unwrap();
    fs::write(&disk.path, vec![7; 3 << 20]).unwrap();
    let volume = || {
        let path = bed.path("image");
        TargetVolume::Disks(vec![DiskTarget {
            path,
            overwrite: true,
        }])
    };
    let summary = bed.with_receiver(volume(), |target, key| {
        let source = SourceVolume::Disks(DisksSource {
            disks: vec![disk.path.clone()],
            freeze: None,
        });
        let summary = bed.sync(target, source, true);
        let statement = bed.signed(target, key);
        assert_eq!(statement.sealed, summary.sealed);
        assert_eq!(statement.verified, summary.verified);
        assert!(statement.verified.is_some());
        summary
    });
    bed.with_receiver(volume(), |target, key| {
        let statement = bed.signed(target, key);
        assert_eq!(
            (statement.sealed, statement.verified),
            (summary.sealed, summary.verified)
        );
    });
}

#[test]
fn a_source_that_comes_as_another_goes_finds_the_receiver_free() {
    let bed = Bed::new();
    bed.with_receiver(bed.tree(), |target, _| {
        // Each run is a source of its own to the receiver, and none of them tries again.
        for number in 0..20 {
            fs::write(bed.path("source/file"), number.to_string()).unwrap();
            bed.sync(target, bed.source(), false);
        }
        assert_eq!(fs::read(bed.path("target/file")).unwrap(), b"19");
    });
}

#[test]
fn errands_need_the_secret_and_probes_are_bounded() {
    let bed = Bed::new();
    bed.with_receiver(bed.tree(), |target, _| {
        let stranger = Secret::generate().unwrap();
        let refused = countersign(&[target], &stranger, b"receipt").unwrap_err();
        assert_eq!(refused.kind(), Kind::Refused);
        let mut errands = Errands::connect(&[target], &bed.secret).unwrap();
        errands.probe(0).unwrap();
        errands.probe(3_000_001).unwrap();
        assert!(errands.probe(PROBE_LEN_MAX + 1).is_err());
    });
}
