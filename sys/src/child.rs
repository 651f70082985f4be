//! Child processes that do not outlive the one that started them.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Makes the kernel kill the child when the thread that starts it ends, however it ends. The child takes all signals,
/// whichever this program's threads have blocked: it can be asked to end.
pub fn end_with_parent(command: &mut Command) {
    let ask = || {
        take_all_signals()?;
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

fn take_all_signals() -> std::io::Result<()> {
    // SAFETY: a signal set is plain bytes, and all zeros is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the new set is valid, and the old one is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    if result != 0 {
        return Err(std::io::Error::from_raw_os_error(result));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            end_with_parent(&mut command);
            command.spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status}");
    }
}
