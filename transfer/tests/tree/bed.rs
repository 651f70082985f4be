//! Both sides of the tree engine in one process, over loopback.

use std::sync::Arc;

use transfer::progress::{Silent, StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Compression, Lead, Retry, Rounds, SourceVolume, SyncPlan, TreeSource, sync_led};
use transfer::target::{Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

pub(crate) struct Bed {
    folder: tempfile::TempDir,
    pub(crate) target: std::path::PathBuf,
    pub(crate) secret: Secret,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// In a folder of its own in this one.
    pub(crate) fn within(folder: &std::path::Path) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let bed = Self {
            target: folder.path().join("target"),
            folder,
            secret: Secret::generate().unwrap(),
        };
        for name in ["source", "target", "state"] {
            std::fs::create_dir(bed.path(name)).unwrap();
        }
        bed
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sync(&self) -> transfer::Result<Summary> {
        self.sync_with(|_| {})
    }

    pub(crate) fn sync_with(&self, adjust: impl FnOnce(&mut SyncPlan)) -> transfer::Result<Summary> {
        self.sync_observed(&Silent, adjust)
    }

    pub(crate) fn sync_observed(
        &self,
        observer: &dyn transfer::progress::Observer,
        adjust: impl FnOnce(&mut SyncPlan),
    ) -> transfer::Result<Summary> {
        self.sync_led(None, observer, adjust)
    }

    /// In the rounds that `lead` wants, or else those of the plan.
    pub(crate) fn sync_led(
        &self,
        lead: Option<&dyn Lead>,
        observer: &dyn transfer::progress::Observer,
        adjust: impl FnOnce(&mut SyncPlan),
    ) -> transfer::Result<Summary> {
        let plan = ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: self.secret.clone(),
            volume: TargetVolume::Tree {
                root: self.target.clone(),
            },
            journal: self.path("journal"),
        };
        let receiver = Receiver::bind(plan).unwrap();
        let stop = StopFlag::default();
        let mut plan = SyncPlan {
            target: vec![receiver.local_addr()],
            secret: self.secret.clone(),
            connections: 3,
            volume: SourceVolume::Tree(TreeSource {
                root: self.path("source"),
                cross_mounts: false,
                excludes: Vec::new(),
                never: Vec::new(),
                estimate: false,
                freeze: None,
            }),
            state: self.path("state"),
            throttle: Arc::new(Throttle::new(0)),
            compression: Compression::Auto,
            verify: true,
            rounds: Rounds::Count(1),
            retry: Retry::Never,
            gives_way: false,
        };
        adjust(&mut plan);
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            let lead = lead.unwrap_or(&plan.rounds);
            let summary = sync_led(&plan, lead, observer, &StopFlag::default());
            stop.stop();
            summary
        })
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.path("source").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn assert_equal(&self) {
        let diff = std::process::Command::new("rsync")
            .args(["-aHAXnic", "--delete"])
            .arg(format!("{}/", self.path("source").display()))
            .arg(format!("{}/", self.target.clone().display()))
            .output()
            .unwrap();
        let listed = String::from_utf8_lossy(&diff.stdout).into_owned();
        assert!(
            diff.status.success() && listed.is_empty(),
            "rsync sees differences:\n{listed}"
        );
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes()[..4]);
    }
    bytes.truncate(len);
    bytes
}
