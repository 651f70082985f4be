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

#[cfg(test)]
mod tests {
    use super::*;

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
