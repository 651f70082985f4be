use super::*;
use crate::control_group::is_in_first_namespace;
use crate::loop_device::{LoopDevice, TestMount, run};
use crate::mounts::mounts;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Where version 2 of control groups is mounted.
fn uppermost() -> PathBuf {
    let unified = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.kind == "cgroup2");
    unified.expect("these tests need control groups").point
}

/// A control group with a program in it that holds a freeze; all of it ends with this.
struct Group {
    path: PathBuf,
    owner: Child,
}

impl Group {
    /// Waits until the program in group `path` has frozen `point`, for 2 s at most with `signal` STOP. `before` is a shell's
    /// command in a mount namespace of its own.
    fn with_freezer(path: PathBuf, point: &Path, signal: &str, before: &str) -> Self {
        std::fs::create_dir(&path).unwrap();
        let script = format!("echo $$ > \"$0/cgroup.procs\" && {before} && exec \"$@\"");
        let owner = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(&path)
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "freeze::tests::freeze_and_stop_as_a_child",
                "--nocapture",
            ])
            .env("G2C_BLOCK_FREEZE_POINT", point)
            .env("G2C_BLOCK_SIGNAL", signal)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut group = Self { path, owner };
        let lines = BufReader::new(group.owner.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("frozen")));
        group
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        std::fs::write(self.path.join(name), text)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.write("cgroup.freeze", "0");
        let _ = self.write("freezer.state", "THAWED");
        let _ = self.owner.kill();
        let _ = self.owner.wait();
        let _ = self.write("cgroup.kill", "1");
        remove(&self.path);
    }
}

/// Whatever a test finds, nothing stays frozen: what is could not be unmounted.
struct ThawAtLast(File);

impl Drop for ThawAtLast {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open; FITHAW ignores its argument.
        unsafe { libc::ioctl(self.0.as_raw_fd(), FITHAW as _, 0) };
    }
}

/// Removes a group as soon as its last process has ended.
fn remove(group: &Path) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        std::fs::remove_dir(group).is_ok()
    })
}

/// Freezes a file system in a group, does `what` to the group, and asserts that somebody thaws.
fn assert_thawed_after(group: PathBuf, signal: &str, before: &str, what: impl Fn(&Group)) {
    let device = LoopDevice::new("g2c-block-watchdog", 32 << 20, 512).unwrap();
    run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
    let mount = TestMount::new("g2c-block-watchdog", &device.path, "noatime").unwrap();
    let thaw = ThawAtLast(File::open(&mount.point).unwrap());
    let group = Group::with_freezer(group, &mount.point, signal, before);
    let (begins, begun) = mpsc::channel();
    let (done, written) = mpsc::channel();
    let path = mount.point.join("written");
    let writer = std::thread::spawn(move || {
        let _ = begins.send(());
        std::fs::write(path, b"after the freeze").unwrap();
        let _ = done.send(());
    });
    begun.recv().unwrap();
    let early = written.recv_timeout(Duration::from_millis(200));
    what(&group);
    let thawed = written.recv_timeout(Duration::from_secs(6));
    drop(group);
    drop(thaw);
    writer.join().unwrap();
    assert!(early.is_err(), "it was frozen before");
    thawed.expect("thawed although the whole group was ended or stopped");
}

fn group_name(test: &str) -> String {
    format!("g2c-{test}-{}", std::process::id())
}

#[test]
fn an_owner_whose_whole_control_group_is_killed_leaves_nothing_frozen() {
    let group = uppermost().join(group_name("killed"));
    assert_thawed_after(group, "KILL", "true", |group| {
        group.write("cgroup.kill", "1").unwrap();
    });
}

#[test]
fn an_owner_whose_whole_control_group_is_stopped_leaves_nothing_frozen() {
    let group = uppermost().join(group_name("stopped"));
    assert_thawed_after(group, "STOP", "true", |group| {
        group.write("cgroup.freeze", "1").unwrap();
    });
    let freezer = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.kind == "cgroup" && mount.has_option("freezer"));
    if let Some(freezer) = freezer {
        assert_thawed_after(
            freezer.point.join(group_name("stopped")),
            "STOP",
            "true",
            |group| {
                group.write("freezer.state", "FROZEN").unwrap();
            },
        );
    }
}

/// As in a container, whose uppermost group takes no processes when its subgroups have limits.
#[test]
fn where_the_uppermost_group_takes_nobody_the_watchdog_has_one_of_its_own() {
    let uppermost = uppermost();
    let group = uppermost.join(group_name("refuge"));
    let refuses = format!("mount --bind /dev/full {}/cgroup.procs", uppermost.display());
    let refuge = uppermost.join("go2cloud-watchdog");
    assert_thawed_after(group, "KILL", &refuses, |group| {
        let inside = std::fs::read_to_string(refuge.join("cgroup.procs")).unwrap();
        assert!(!inside.trim().is_empty(), "the watchdog is in a group of its own");
        group.write("cgroup.kill", "1").unwrap();
    });
    // Its owner was killed before it could remove it; the next one's watchdog would go there, and it would.
    assert!(remove(&refuge));
}

#[test]
fn a_watchdog_is_exempt_from_the_search_for_memory_or_it_is_told() {
    let watchdog = Watchdog::arm([].iter(), Duration::from_secs(60)).unwrap();
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", watchdog.process())).unwrap();
    watchdog.dismiss();
    let exposure = exposure().unwrap();
    let is_first = is_in_first_namespace(std::process::id() as i32);
    // Only with CAP_SYS_RESOURCE may one be exempt.
    match score.trim() {
        "-1000" => assert_eq!(exposure.is_none(), is_first, "{exposure:?}"),
        _ if is_first => assert!(exposure.unwrap().contains("memory")),
        _ => assert!(exposure.is_some()),
    }
}
