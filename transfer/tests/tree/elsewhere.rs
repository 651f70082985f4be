//! File systems inside a tree that another machine or process answers for, and does not.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sys::loop_device::{LoopDevice, TestMount, run};

use transfer::progress::Silent;
use transfer::source::{Rounds, SourceVolume};

use super::bed::{Bed, noise};

/// A file system of FUSE whose process never says a word: whoever asks it anything waits until this ends.
struct Dead {
    point: PathBuf,
    device: Option<File>,
}

impl Dead {
    fn mount(point: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty()).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let status = Command::new("mount")
            .args(["-i", "-t", "fuse.dead", "-o", &options, "dead"])
            .arg(point)
            .status();
        assert!(status.unwrap().success());
        Self {
            point: point.to_owned(),
            device: Some(device),
        }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Nobody waits any longer.
        self.device.take();
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up() {
    for crosses in [false, true] {
        let bed = Bed::new();
        let source = bed.path("source");
        bed.write("before/file", &noise(1000, 1));
        bed.write("linked", &noise(1000, 2));
        for name in ["dead", "known"] {
            std::fs::create_dir(source.join(name)).unwrap();
        }
        std::fs::hard_link(source.join("linked"), source.join("before/linked")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let mut deads = vec![Dead::mount(&source.join("dead"))];
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let bed = &bed;
            scope.spawn(move || {
                for mounted in ["", "known"] {
                    if !mounted.is_empty() {
                        deads.push(Dead::mount(&bed.path("source").join(mounted)));
                        // Renames, and names of one file, are looked for everywhere.
                        std::fs::rename(bed.path("source/before"), bed.path("source/new")).unwrap();
                        bed.write("linked", &noise(2000, 3));
                    }
                    let summary = bed.sync_observed(&Silent, |plan| {
                        plan.rounds = Rounds::Count(2);
                        let SourceVolume::Tree(tree) = &mut plan.volume else {
                            unreachable!()
                        };
                        tree.cross_mounts = crosses;
                        tree.estimate = true;
                    });
                    drop(done.send(summary));
                }
                deads
            });
            for _ in 0..2 {
                let summary = is_done.recv_timeout(Duration::from_secs(60));
                let summary = summary.unwrap_or_else(|_| {
                    // The threads would wait for ever.
                    eprintln!("the file system that does not answer held the run up");
                    std::process::exit(1);
                });
                assert!(summary.as_ref().unwrap().ok, "{summary:?}");
            }
        });
        assert!(bed.target.join("dead").is_dir() && bed.target.join("known").is_dir());
        bed.assert_equal();
    }
}

/// What systemd does for an automount: mounts a device when somebody opens the mount point.
const AUTOMOUNTER: &str = "
import ctypes,fcntl,os,struct,sys
device,point=(a.encode() for a in sys.argv[1:])
libc=ctypes.CDLL(None)
os.setsid()
r,w=os.pipe()
options='fd=%d,pgrp=%d,minproto=5,maxproto=5,direct'%(w,os.getpgrp())
assert libc.mount(b'systemd-1',point,b'autofs',0,options.encode())==0
root=os.open(point,os.O_RDONLY)
print('ready',flush=True)
packet=os.read(r,4096)
token=struct.unpack_from('I',packet,8)[0]
assert libc.mount(device,point,b'ext4',0,None)==0
fcntl.ioctl(root,0x9360,token)
os.close(root)
sys.stdin.read()
";

struct Automount {
    process: Child,
    point: PathBuf,
}

impl Automount {
    fn start(device: &Path, point: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", AUTOMOUNTER])
            .args([device, point])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let automount = Self {
            process,
            point: point.to_owned(),
        };
        assert_eq!(line.trim(), "ready");
        automount
    }
}

impl Drop for Automount {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for _ in 0..2 {
            let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        }
    }
}

#[test]
fn what_systemd_mounts_when_it_is_used_is_copied_where_mounts_are_crossed() {
    let device = LoopDevice::new("g2c-tree-automount", 16 << 20, 512).unwrap();
    run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
    let mount = TestMount::new("g2c-tree-automount", &device.path, "noatime").unwrap();
    std::fs::write(mount.point.join("loader"), noise(3000, 1)).unwrap();
    drop(mount);
    let bed = Bed::new();
    bed.write("file", b"x");
    let point = bed.path("source/efi");
    std::fs::create_dir(&point).unwrap();
    let automount = Automount::start(&device.path, &point);
    let sync = |crosses| {
        bed.sync_with(|plan| {
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.cross_mounts = crosses;
        })
    };
    assert!(sync(false).unwrap().ok);
    assert_eq!(std::fs::read_dir(bed.target.join("efi")).unwrap().count(), 0);
    let summary = sync(true).unwrap();
    assert!(summary.ok, "{summary:?}");
    assert!(std::fs::read(bed.target.join("efi/loader")).unwrap() == noise(3000, 1));
    bed.assert_equal();
    drop(automount);
}
