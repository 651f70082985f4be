//! A process that thaws file systems when nobody else does.
//!
//! Forked before the first file system is frozen, it holds the mount points open and a pipe to its parent. It thaws at
//! the deadline even if the parent is stopped, and at once when the parent ends, however it ends: the kernel closes the
//! pipe. It needs no disk: its pages are locked, it allocates nothing, opens nothing, writes nothing. It stays until the
//! parent is gone or has dismissed it, because a freeze that the parent began may complete after the deadline.
//! Before its time begins to run, the parent takes it out of its own control groups, which may be killed as a whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::control_group::Shelter;

/// `_IOWR('X', 120, int)` of linux/fs.h.
pub(crate) const FITHAW: libc::c_ulong = 0xc004_5878;
/// File systems that one watchdog can hold: far more than one host mounts from its disks.
pub const FILE_SYSTEMS_MAX: usize = 256;
/// How often the watchdog thaws again after the deadline while its parent lives on.
const REPEAT_MS: libc::c_int = 100;

/// What the parent writes to end the watchdog without a thaw.
const DISMISSED: u8 = b'd';
/// What the parent writes to let the time run.
const BEGIN: u8 = b'b';

/// A running watchdog. Dropping it makes it thaw everything and end; [`Watchdog::dismiss`] makes it just end.
#[derive(Debug)]
pub struct Watchdog {
    /// The end that the child watches; closing it ends the child.
    leash: Option<File>,
    child: libc::pid_t,
    shelter: Shelter,
}

/// What may end a watchdog together with this program, so that nothing would thaw; `None` if nothing known can.
///
/// # Errors
/// There could be no watchdog.
pub fn exposure() -> io::Result<Option<String>> {
    let mut rehearsal = Watchdog::arm([].iter(), Duration::MAX)?;
    Ok(rehearsal.shelter.exposure.take())
}

impl Watchdog {
    /// Starts a watchdog over the mount points `file_systems` that thaws them `deadline` from now.
    ///
    /// # Errors
    /// The system gives no process or pipe, or there are too many file systems.
    pub fn arm<'a>(
        file_systems: impl ExactSizeIterator<Item = &'a File>,
        deadline: Duration,
    ) -> io::Result<Self> {
        let count = file_systems.len();
        if count > FILE_SYSTEMS_MAX {
            return Err(io::Error::other(format!(
                "{count} file systems are more than {FILE_SYSTEMS_MAX}"
            )));
        }
        let (leash_end, leash) = pipe()?;
        let (ready, ready_end) = pipe()?;
        let mut kept = [-1; FILE_SYSTEMS_MAX];
        for (slot, file) in kept.iter_mut().zip(file_systems) {
            *slot = file.as_raw_fd();
        }
        let duty = Duty {
            file_systems: kept,
            count,
            leash: leash_end.as_raw_fd(),
            ready: ready_end.as_raw_fd(),
            deadline_ms: libc::c_int::try_from(deadline.as_millis()).unwrap_or(libc::c_int::MAX),
        };
        // SAFETY: the child runs `stand_watch` only, which makes system calls and touches nothing that another thread
        // of the parent may have locked at the time of the fork.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(io::Error::last_os_error()),
            0 => stand_watch(&duty),
            _ => {
                drop(leash_end);
                drop(ready_end);
                let mut leash = File::from(leash);
                let shelter = Shelter::take(child);
                let begun = leash.write_all(&[BEGIN]);
                let watchdog = Self {
                    leash: Some(leash),
                    child,
                    shelter,
                };
                begun?;
                // The child says when its memory is locked; without that word there must be no freeze.
                let mut word = [0u8; 1];
                File::from(ready).read_exact(&mut word)?;
                Ok(watchdog)
            }
        }
    }

    /// Ends the watchdog without a thaw: its owner has thawed what it froze.
    pub fn dismiss(mut self) {
        if let Some(mut leash) = self.leash.take() {
            // If the watchdog is gone already there is nobody to tell.
            let _ = leash.write_all(&[DISMISSED]);
        }
    }

    /// The process number of the watchdog.
    pub fn process(&self) -> i32 {
        self.child
    }

    /// Whether the watchdog still runs. Without one no file system may be frozen.
    pub fn is_alive(&self) -> bool {
        // SAFETY: WNOWAIT and WNOHANG only look; the zeroed structure is a valid out-parameter.
        let mut state: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `state` is a valid out-parameter and the child is ours.
        let result = unsafe { libc::waitid(libc::P_PID, self.child as libc::id_t, &raw mut state, options) };
        if result < 0 {
            return false;
        }
        // SAFETY: waitid filled the structure for a child event, where the process number is valid; zero means none.
        let changed = unsafe { state.si_pid() };
        changed == 0
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.leash.take());
        let mut status = 0;
        // SAFETY: the child is ours and was not waited for; `status` is a valid out-parameter.
        unsafe { libc::waitpid(self.child, &raw mut status, 0) };
        self.shelter.leave();
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// What the child needs, prepared before the fork: afterwards nothing may be allocated.
struct Duty {
    file_systems: [RawFd; FILE_SYSTEMS_MAX],
    count: usize,
    leash: RawFd,
    ready: RawFd,
    deadline_ms: libc::c_int,
}

/// The child's whole life.
fn stand_watch(duty: &Duty) -> ! {
    leave_the_parents_group();
    close_all_but(duty);
    lock_memory();
    if !begins(duty) {
        // SAFETY: ends this process without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    // A rehearsal touches every page that the real thing needs, so that they are in memory and locked.
    rehearse(duty);
    // SAFETY: the descriptor is open and the buffer holds one byte.
    unsafe { libc::write(duty.ready, b"r".as_ptr().cast(), 1) };
    // SAFETY: plain system call on an open descriptor.
    unsafe { libc::close(duty.ready) };
    let mut wait_ms = duty.deadline_ms;
    let mut began = now_ms();
    loop {
        let left =
            wait_ms.saturating_sub(libc::c_int::try_from(now_ms() - began).unwrap_or(libc::c_int::MAX));
        if left > 0 {
            match wait_for_word(duty.leash, left) {
                Word::None | Word::Begin => continue,
                Word::Dismissed => {}
                Word::ParentGone => thaw_all(duty),
            }
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(0) };
        }
        thaw_all(duty);
        wait_ms = REPEAT_MS;
        began = now_ms();
    }
}

/// Waits for the parent's word that the time runs; without it nothing was frozen.
fn begins(duty: &Duty) -> bool {
    loop {
        match wait_for_word(duty.leash, -1) {
            Word::None => {}
            Word::Begin => return true,
            Word::Dismissed | Word::ParentGone => return false,
        }
    }
}

/// What came through the pipe.
enum Word {
    None,
    Begin,
    Dismissed,
    ParentGone,
}

/// Waits up to `wait_ms` for the parent to say something or to end.
fn wait_for_word(leash: RawFd, wait_ms: libc::c_int) -> Word {
    let mut watched = libc::pollfd {
        fd: leash,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid entry is passed.
    let result = unsafe { libc::poll(&raw mut watched, 1, wait_ms) };
    if result <= 0 {
        return Word::None;
    }
    let mut byte = 0u8;
    // SAFETY: the descriptor is open and the buffer holds one byte.
    match unsafe { libc::read(leash, (&raw mut byte).cast(), 1) } {
        0 => Word::ParentGone,
        1 if byte == DISMISSED => Word::Dismissed,
        1 if byte == BEGIN => Word::Begin,
        _ => Word::None,
    }
}

fn thaw_all(duty: &Duty) {
    // The reverse of the order in which they were frozen. Those that are not frozen answer EINVAL.
    for file_system in duty.file_systems[..duty.count].iter().rev() {
        // SAFETY: the descriptor is open; FITHAW ignores its argument.
        unsafe { libc::ioctl(*file_system, FITHAW as _, 0) };
    }
}

fn rehearse(duty: &Duty) {
    wait_for_word(duty.leash, 0);
    now_ms();
    // SAFETY: -1 is no descriptor: the call fails with EBADF and does nothing.
    unsafe { libc::ioctl(-1, FITHAW as _, 0) };
}

/// A signal to the parent's terminal or process group must not end the watchdog.
fn leave_the_parents_group() {
    // SAFETY: plain system call.
    unsafe { libc::setsid() };
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
        libc::SIGTSTP,
    ] {
        // SAFETY: SIG_IGN is a valid disposition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The parent's sockets and files must be able to close while the watchdog lives.
fn close_all_but(duty: &Duty) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: valid out-parameter.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let last = RawFd::try_from(limit.rlim_cur).unwrap_or(1 << 20).min(1 << 20);
    for descriptor in 0..last {
        let kept = descriptor == duty.leash
            || descriptor == duty.ready
            || duty.file_systems[..duty.count].contains(&descriptor);
        if !kept {
            // SAFETY: closing a number that is no descriptor fails with EBADF and does nothing.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Locks pages as they are touched (4.4 and later): locking all at once would copy the parent's whole memory.
fn lock_memory() {
    // SAFETY: plain system call.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
}

fn now_ms() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: valid out-parameter.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests;
