//! Freezing file systems: after it returns, everything is on the medium and nothing is written until the thaw.
//!
//! A freeze always ends: [`Frozen`] thaws on drop, and a [`Watchdog`] in another process thaws at the deadline and when
//! this process dies. A file system that the watchdog thawed is reported by [`Frozen::thaw`]: what was read after that
//! moment is not one state in time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::watchdog::{FITHAW, Watchdog};

/// `_IOWR('X', 119, int)` of linux/fs.h.
const FIFREEZE: libc::c_ulong = 0xc004_5877;

/// A file system to freeze, opened: whatever is mounted or unmounted there meanwhile, this is the one.
#[derive(Debug)]
pub struct FreezePoint {
    /// How it was reached.
    pub path: PathBuf,
    /// Anything in it.
    pub file: File,
}

impl FreezePoint {
    /// Opens the file system mounted at `path`.
    ///
    /// # Errors
    /// There is nothing, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| name(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Writes back everything that the file system has in memory.
    ///
    /// # Errors
    /// Its medium refuses.
    pub fn synchronise(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.file).map_err(|error| name(&self.path, &error.into()))
    }
}

/// File systems that this process froze. Dropping it thaws them.
#[derive(Debug)]
pub struct Frozen {
    frozen: Vec<FreezePoint>,
    unsupported: Vec<PathBuf>,
    /// `None` once dismissed.
    watchdog: Option<Watchdog>,
    began: Instant,
}

/// How a freeze ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thawed {
    /// From before the first file system froze until after the last one thawed.
    pub frozen_for: Duration,
    /// File systems that were found thawed already, by the watchdog at its deadline or by another program.
    pub thawed_early: Vec<PathBuf>,
    /// How many were frozen.
    pub frozen: usize,
    /// Those that know no freeze; they were synchronised instead.
    pub unsupported: Vec<PathBuf>,
}

impl Frozen {
    /// Freezes the file systems of `points`, in this order, for `deadline` at most.
    ///
    /// A file system that knows no freeze (vfat) is synchronised instead and listed by [`Frozen::thaw`].
    ///
    /// # Errors
    /// A file system is frozen by another program, or fails to freeze: then all are thawed again.
    pub fn freeze(points: Vec<FreezePoint>, deadline: Duration) -> io::Result<Self> {
        let watchdog = Watchdog::arm(points.iter().map(|point| &point.file), deadline)?;
        let mut frozen = Self {
            frozen: Vec::new(),
            unsupported: Vec::new(),
            watchdog: Some(watchdog),
            began: Instant::now(),
        };
        for point in points {
            if !frozen.watchdog.as_ref().is_some_and(Watchdog::is_alive) {
                return Err(io::Error::other("the process that guards the freeze ended"));
            }
            match command(&point.file, FIFREEZE) {
                Ok(()) => frozen.frozen.push(point),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => {
                    point.synchronise()?;
                    frozen.unsupported.push(point.path);
                }
                Err(error) => return Err(name(&point.path, &error)),
            }
        }
        Ok(frozen)
    }

    /// Time since before the first file system froze.
    pub fn frozen_for(&self) -> Duration {
        self.began.elapsed()
    }

    /// The process number of the watchdog.
    pub fn watchdog_process(&self) -> Option<i32> {
        self.watchdog.as_ref().map(Watchdog::process)
    }

    /// Thaws everything, in reverse order.
    ///
    /// # Errors
    /// A file system refuses to thaw; the others were thawed nevertheless.
    pub fn thaw(mut self) -> io::Result<Thawed> {
        let (mut thawed_early, frozen) = (Vec::new(), self.frozen.len());
        self.thaw_all(&mut thawed_early)?;
        Ok(Thawed {
            frozen_for: self.began.elapsed(),
            thawed_early,
            frozen,
            unsupported: std::mem::take(&mut self.unsupported),
        })
    }

    fn thaw_all(&mut self, thawed_early: &mut Vec<PathBuf>) -> io::Result<()> {
        let mut failed = None;
        while let Some(FreezePoint { path, file }) = self.frozen.pop() {
            match command(&file, FITHAW) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => thawed_early.push(path),
                Err(error) => failed = Some(name(&path, &error)),
            }
        }
        match failed {
            // The watchdog, dropped without dismissal, tries once more.
            Some(error) => Err(error),
            None => {
                if let Some(watchdog) = self.watchdog.take() {
                    watchdog.dismiss();
                }
                Ok(())
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // A failure leaves the work to the watchdog, which is then dropped and thaws once more.
        let _ = self.thaw_all(&mut Vec::new());
    }
}

fn command(file: &File, request: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open; FIFREEZE and FITHAW ignore their argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn name(point: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", point.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_device::{LoopDevice, TestMount, run};
    use std::sync::mpsc;

    fn file_system(kind: &str) -> (LoopDevice, TestMount) {
        let device = LoopDevice::new("g2c-block-freeze", 400 << 20, 512).unwrap();
        run(&format!("mkfs.{kind}"), ["-q".as_ref(), device.path.as_os_str()]).unwrap();
        let mount = TestMount::new("g2c-block-freeze", &device.path, "noatime").unwrap();
        (device, mount)
    }

    /// Freezes what is mounted at `point`.
    fn freeze(point: &Path, deadline: Duration) -> io::Result<Frozen> {
        Frozen::freeze(vec![FreezePoint::open(point)?], deadline)
    }

    /// Writes in a thread; the receiver gets a word when the write is through.
    fn writer(point: &Path) -> mpsc::Receiver<()> {
        let (done, is_done) = mpsc::channel();
        let path = point.join(format!("written-{}", std::process::id()));
        std::thread::spawn(move || {
            std::fs::write(path, b"after the freeze").unwrap();
            let _ = done.send(());
        });
        is_done
    }

    #[test]
    fn writers_wait_for_the_thaw_and_the_time_is_measured() {
        for kind in ["ext4", "xfs", "btrfs"] {
            let (_device, mount) = file_system(kind);
            let frozen = freeze(&mount.point, Duration::from_secs(20)).unwrap();
            let written = writer(&mount.point);
            assert!(
                written.recv_timeout(Duration::from_millis(300)).is_err(),
                "{kind}: frozen"
            );
            let again = freeze(&mount.point, Duration::from_secs(20)).unwrap_err();
            assert!(again.to_string().contains("busy"), "{kind}: {again}");
            let state = frozen.thaw().unwrap();
            // The refused second freeze had a watchdog, too, which must not have ended the first freeze.
            assert!(state.thawed_early.is_empty(), "{kind}: {state:?}");
            written.recv_timeout(Duration::from_secs(5)).unwrap();
            assert!(state.frozen_for >= Duration::from_millis(300));
        }
    }

    #[test]
    fn the_watchdog_thaws_at_the_deadline_and_the_owner_learns_it() {
        let (_device, mount) = file_system("ext4");
        let frozen = freeze(&mount.point, Duration::from_millis(500)).unwrap();
        let written = writer(&mount.point);
        written.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(frozen.frozen_for() >= Duration::from_millis(500));
        assert_eq!(
            frozen.thaw().unwrap().thawed_early,
            std::slice::from_ref(&mount.point)
        );
    }

    #[test]
    fn a_file_system_without_freeze_is_named() {
        let (_device, mount) = file_system("ext4");
        let paths = [&mount.point, Path::new("/proc")];
        let points = paths.map(|path| FreezePoint::open(path).unwrap());
        let frozen = Frozen::freeze(points.into(), Duration::from_secs(20)).unwrap();
        let state = frozen.thaw().unwrap();
        assert_eq!(
            (state.frozen, &state.unsupported[..]),
            (1, &[PathBuf::from("/proc")][..])
        );
    }

    #[test]
    fn dropping_thaws() {
        let (_device, mount) = file_system("ext4");
        drop(freeze(&mount.point, Duration::from_secs(20)).unwrap());
        writer(&mount.point).recv_timeout(Duration::from_secs(5)).unwrap();
    }

    /// Not a test by itself: freezes in a process of its own and stops or dies there.
    #[test]
    fn freeze_and_stop_as_a_child() {
        let Ok(point) = std::env::var("G2C_BLOCK_FREEZE_POINT") else {
            return;
        };
        let deadline = Duration::from_secs(if std::env::var("G2C_BLOCK_SIGNAL").unwrap() == "STOP" {
            2
        } else {
            60
        });
        let _frozen = freeze(Path::new(&point), deadline).unwrap();
        println!("frozen");
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_stopped_and_a_killed_owner_leave_nothing_frozen() {
        use std::io::{BufRead, BufReader};
        for signal in ["STOP", "KILL"] {
            let (_device, mount) = file_system("ext4");
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "freeze::tests::freeze_and_stop_as_a_child",
                    "--nocapture",
                ])
                .env("G2C_BLOCK_FREEZE_POINT", &mount.point)
                .env("G2C_BLOCK_SIGNAL", signal)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.map_while(Result::ok).any(|line| line.ends_with("frozen")));
            let written = writer(&mount.point);
            let early = written.recv_timeout(Duration::from_millis(200));
            let killed = std::process::Command::new("kill")
                .args(["-s", signal, &child.id().to_string()])
                .status();
            let thawed = written.recv_timeout(Duration::from_secs(10));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(
                killed.unwrap().success() && early.is_err(),
                "{signal}: it was frozen before"
            );
            thawed.unwrap();
        }
    }
}
