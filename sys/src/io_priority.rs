//! I/O priority of the calling thread: reading for a migration gives way to everything else.

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h; with id 0 it is the calling thread.
const WHO_THREAD: libc::c_int = 1;
/// Class "best effort", and its lowest level.
const LOWEST: libc::c_int = 2 << 13 | 7;

/// Gives the calling thread the lowest priority that still makes progress on a busy disk. Only a hint: without a
/// scheduler that knows priorities nothing changes.
pub fn lower() {
    // SAFETY: plain system call.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_THREAD, 0, LOWEST) };
}

/// Class "idle".
const IDLE: libc::c_int = 3 << 13;
/// Niceness of threads in the background: a third of the weight of others, so that what waits for them is not starved.
const NICENESS: libc::c_int = 5;

/// Puts the calling thread into the background: its reads wait for everybody else's, and processors go to others first.
/// Hints, as [`lower`].
pub fn background() {
    // SAFETY: plain system call.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_THREAD, 0, IDLE) };
    // SAFETY: plain system call; on Linux, 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_is_taken() {
        std::thread::spawn(|| {
            background();
            // SAFETY: plain system call.
            let now = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_THREAD, 0) };
            assert_eq!(now, i64::from(IDLE));
            // SAFETY: plain system call.
            let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            assert!(niceness >= NICENESS, "{niceness}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_priority_is_taken() {
        std::thread::spawn(|| {
            lower();
            // SAFETY: plain system call.
            let now = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_THREAD, 0) };
            assert_eq!(now, i64::from(LOWEST));
        })
        .join()
        .unwrap();
    }
}
