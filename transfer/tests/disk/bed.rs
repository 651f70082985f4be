//! A source disk with real file systems, a receiver in this process, and the means to compare.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sys::loop_device::{LoopDevice, TestMount, run, scan};
use transfer::progress::{Event, Observer, Silent, StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{
    Compression, DisksSource, Freeze, Lead, Retry, Rounds, SourceVolume, SyncPlan, sync_led,
};
use transfer::target::{DiskTarget, Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

pub(crate) const MIB: u64 = 1 << 20;

/// Folders and the secret of a migration.
pub(crate) struct Bed {
    pub(crate) folder: PathBuf,
    secret: Secret,
    /// Removes the folder at the end.
    _owned: Option<tempfile::TempDir>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with_secret("fedcba9876543210fedcba9876543210")
    }

    pub(crate) fn with_secret(secret: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("g2c-block-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let mut bed = Self::at(folder.path(), secret);
        bed._owned = Some(folder);
        bed
    }

    /// The bed of another process.
    pub(crate) fn at(folder: &Path, secret: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            secret: Secret::parse(secret.as_bytes()).unwrap(),
            _owned: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn plan(&self, disks: &[&Path]) -> SyncPlan {
        SyncPlan {
            target: Vec::new(),
            secret: self.secret.clone(),
            connections: 3,
            volume: SourceVolume::Disks(DisksSource {
                disks: disks.iter().map(|disk| disk.to_path_buf()).collect(),
                freeze: None,
            }),
            state: self.path("state"),
            throttle: Arc::new(Throttle::new(0)),
            compression: Compression::Auto,
            verify: false,
            rounds: Rounds::Count(1),
            retry: Retry::Never,
            gives_way: false,
        }
    }

    pub(crate) fn receiver(&self, targets: &[&Path], overwrite: bool) -> Receiver {
        let disks = targets.iter().map(|path| DiskTarget {
            path: path.to_path_buf(),
            overwrite,
        });
        let plan = ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: self.secret.clone(),
            volume: TargetVolume::Disks(disks.collect()),
            journal: self.path("journal"),
        };
        Receiver::bind(plan).unwrap()
    }

    /// Serves `targets` while `plan` runs.
    pub(crate) fn sync(&self, targets: &[&Path], plan: SyncPlan) -> transfer::Result<Summary> {
        self.sync_watched(targets, plan, &Silent)
    }

    pub(crate) fn sync_watched(
        &self,
        targets: &[&Path],
        plan: SyncPlan,
        observer: &dyn Observer,
    ) -> transfer::Result<Summary> {
        let rounds = plan.rounds;
        self.sync_led(targets, plan, &rounds, observer)
    }

    pub(crate) fn sync_led(
        &self,
        targets: &[&Path],
        mut plan: SyncPlan,
        lead: &dyn Lead,
        observer: &dyn Observer,
    ) -> transfer::Result<Summary> {
        let receiver = self.receiver(targets, false);
        plan.target = vec![receiver.local_addr()];
        let stop = StopFlag::default();
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            let summary = sync_led(&plan, lead, observer, &StopFlag::default());
            stop.stop();
            summary
        })
    }
}

/// Asks for a cutover at the end of the run.
pub(crate) fn with_freeze(mut plan: SyncPlan, max: Duration) -> SyncPlan {
    let SourceVolume::Disks(source) = &mut plan.volume else {
        unreachable!()
    };
    source.freeze = Some(Freeze {
        max,
        before: None,
        after: None,
    });
    plan
}

/// Partitions a device by an sfdisk script.
pub(crate) fn partition(device: &LoopDevice, script: &str) {
    let mut sfdisk = Command::new("sfdisk")
        .arg("-q")
        .arg(&device.path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    device.scan_partitions().unwrap();
}

pub(crate) fn make_file_system(kind: &str, device: &Path) {
    let program = match kind {
        "swap" => "mkswap".to_owned(),
        kind => format!("mkfs.{kind}"),
    };
    let force: &[&str] = match kind {
        "ext4" => &["-q", "-F"],
        "swap" => &[],
        _ => &["-q", "-f"],
    };
    run(&program, force.iter().map(OsStr::new).chain([device.as_os_str()])).unwrap();
}

/// An image attached read-only, so that comparing cannot change it.
pub(crate) struct Image {
    pub(crate) device: PathBuf,
}

impl Image {
    pub(crate) fn attach(path: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["-f", "--show", "-P"])
            .arg(path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let image = Self { device };
        scan(&image.device).unwrap();
        image
    }

    pub(crate) fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.device.display()))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("partx").arg("-d").arg(&self.device).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

/// Checks a file system without repairing it.
pub(crate) fn fsck(kind: &str, device: &Path) {
    go2cloud_tests::disk::wait_until_unused(device);
    let result = match kind {
        "ext4" => run("e2fsck", ["-f".as_ref(), "-n".as_ref(), device.as_os_str()]),
        "xfs" => run("xfs_repair", ["-n".as_ref(), device.as_os_str()]),
        "btrfs" => run(
            "btrfs",
            ["check".as_ref(), "--readonly".as_ref(), device.as_os_str()],
        ),
        _ => Ok(()),
    };
    result.unwrap_or_else(|error| panic!("{kind} on {}: {error}", device.display()));
}

/// Compares the contents, names, modes, owners and times of two mounted trees.
pub(crate) fn assert_trees_equal(source: &Path, target: &Path) {
    let list = |root: &Path| {
        let output = Command::new("find")
            .args([".", "-xdev", "-printf", "%p %y %m %U %G %s %T@ %l\\n"])
            .current_dir(root)
            .output()
            .unwrap();
        let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let (ours, theirs) = (list(source), list(target));
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!(our, their);
    }
    assert_eq!(ours.len(), theirs.len());
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(source)
        .arg(target)
        .output()
        .unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}

pub(crate) fn mount(device: &Path, options: &str) -> TestMount {
    TestMount::new("g2c-block-test", device, options).unwrap()
}

/// A device of random content.
pub(crate) fn random_disk(len: u64, sector_len: u32, seed: u64) -> LoopDevice {
    let disk = LoopDevice::new("g2c-block-faults", len, sector_len).unwrap();
    let file = std::fs::File::options().write(true).open(&disk.backing).unwrap();
    let mut dice = crate::workload::Dice::new(seed);
    let mut at = 0;
    while at < len {
        let part = (len - at).min(MIB);
        file.write_all_at(&dice.bytes(part as usize), at).unwrap();
        at += part;
    }
    file.sync_all().unwrap();
    disk
}

/// Compares a device with an image, byte by byte.
pub(crate) fn assert_equal(disk: &LoopDevice, image: &Path) {
    let (ours, theirs) = (
        std::fs::read(&disk.backing).unwrap(),
        std::fs::read(image).unwrap(),
    );
    assert_eq!(ours.len(), theirs.len());
    let differing = ours
        .chunks(4096)
        .zip(theirs.chunks(4096))
        .position(|(a, b)| a != b);
    assert_eq!(differing, None, "first block that differs");
}

/// An observer that keeps every event.
#[derive(Default)]
pub(crate) struct Recorded(std::sync::Mutex<Vec<Event>>);

impl Recorded {
    pub(crate) fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let warnings = events.iter().filter_map(|event| match event {
            Event::Warning { message } => Some(message.clone()),
            _ => None,
        });
        warnings.collect()
    }
}

impl Observer for Recorded {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}
