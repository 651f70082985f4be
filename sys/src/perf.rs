//! `perf_event_open(2)` on tracepoints: to hang a BPF program on, or with a ring of records to read.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_SAMPLE_RAW: u64 = 1 << 10;
/// First of the attribute's flags.
const DISABLED: u64 = 1;
/// `PERF_ATTR_SIZE_VER0`: every kernel accepts this length.
const ATTRIBUTE_LEN: usize = 64;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// ioctls of linux/perf_event.h.
const ENABLE: libc::c_ulong = 0x2400;
const SET_OUTPUT: libc::c_ulong = 0x2405;
const SET_FILTER: libc::c_ulong = 0x4008_2406;
const SET_BPF: libc::c_ulong = 0x4004_2408;

const RECORD_LOST: u32 = 2;
const RECORD_THROTTLE: u32 = 5;
const RECORD_SAMPLE: u32 = 9;
/// Offsets of `data_head` and `data_tail` in the first page of a ring.
const HEAD_OFFSET: usize = 1024;
const TAIL_OFFSET: usize = 1032;
/// A ring with less room than this counts as overflown: the kernel reports a loss only with the next record that fits.
const ROOM_MIN: u64 = 4096;
/// Largest record: the header's length field has 16 bits.
const RECORD_LEN_MAX: usize = 1 << 16;

/// Opens tracepoint `id` on `cpu`, for all processes; it makes no records before it is enabled.
pub(crate) fn open_tracepoint(id: u64, cpu: u32) -> io::Result<OwnedFd> {
    let mut attribute = [0u8; ATTRIBUTE_LEN];
    attribute[0..4].copy_from_slice(&PERF_TYPE_TRACEPOINT.to_ne_bytes());
    attribute[4..8].copy_from_slice(&(ATTRIBUTE_LEN as u32).to_ne_bytes());
    attribute[8..16].copy_from_slice(&id.to_ne_bytes());
    attribute[16..24].copy_from_slice(&1u64.to_ne_bytes()); // every event is a sample
    attribute[24..32].copy_from_slice(&PERF_SAMPLE_RAW.to_ne_bytes());
    attribute[40..48].copy_from_slice(&DISABLED.to_ne_bytes());
    // SAFETY: the attribute states its own length and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attribute.as_ptr(),
            -1 as libc::pid_t,
            cpu as libc::c_int,
            -1 as RawFd,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// Runs `program` at every hit of the tracepoint, on all CPUs, for as long as `event` is open. The event itself stays
/// disabled: the kernel runs programs before it looks for listeners (`perf_trace_run_bpf_submit`), and a listener without
/// a ring would only cost time.
pub(crate) fn attach_program(event: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    command(event, SET_BPF, program.as_raw_fd() as libc::c_ulong)
}

/// Lets only records pass that match `filter`, evaluated in the kernel.
pub(crate) fn set_filter(event: &OwnedFd, filter: &std::ffi::CStr) -> io::Result<()> {
    command(event, SET_FILTER, filter.as_ptr() as libc::c_ulong)
}

/// Sends the records of `event` to the ring of `ring_owner`, which must be on the same CPU.
pub(crate) fn share_ring(event: &OwnedFd, ring_owner: &OwnedFd) -> io::Result<()> {
    command(event, SET_OUTPUT, ring_owner.as_raw_fd() as libc::c_ulong)
}

/// Starts recording.
pub(crate) fn enable(event: &OwnedFd) -> io::Result<()> {
    command(event, ENABLE, 0)
}

fn command(event: &OwnedFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open; the argument is a descriptor, a C string that outlives the call, or ignored.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a ring held.
pub(crate) enum Record<'a> {
    /// The tracepoint's record.
    Sample(&'a [u8]),
    /// Records are missing.
    Lost,
}

/// The ring of one event, mapped into memory.
pub(crate) struct Ring {
    address: NonNull<u8>,
    page_len: usize,
    data_len: usize,
    record: Vec<u8>,
    /// Whether it was full when it was last emptied, and nothing has come since: what was lost is told already.
    is_told: bool,
}

// SAFETY: the ring's memory belongs to this value alone on our side of the kernel's protocol.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a ring of `data_len` bytes, a power of two and at least a page.
    pub(crate) fn map(event: &OwnedFd, data_len: usize) -> io::Result<Self> {
        let page_len = rustix::param::page_size();
        assert!(
            data_len.is_power_of_two() && data_len >= page_len,
            "the kernel takes 2^n pages"
        );
        // SAFETY: a fresh shared mapping; nothing else is placed there.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page_len + data_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            address: NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?,
            page_len,
            data_len,
            record: vec![0; RECORD_LEN_MAX],
            is_told: false,
        })
    }

    fn counter(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the offset lies inside the first mapped page.
        let pointer = unsafe { self.address.as_ptr().add(offset) };
        // SAFETY: the page is mapped for as long as `self` lives, the counters are aligned, the kernel writes them atomically.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    /// Takes every record that is in the ring now. A loss for lack of room is told at once, and not again when the kernel tells of
    /// it with the next record.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(Record<'_>)) {
        let head = self.counter(HEAD_OFFSET).load(Ordering::Acquire);
        let mut tail = self.counter(TAIL_OFFSET).load(Ordering::Relaxed);
        let is_full = head - tail + ROOM_MIN > self.data_len as u64;
        let mut record = std::mem::take(&mut self.record);
        while tail < head {
            self.copy_out(tail, &mut record[..8]);
            let kind = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            let len = usize::from(u16::from_ne_bytes([record[6], record[7]]));
            if len < 8 || tail + len as u64 > head {
                take(Record::Lost);
                tail = head;
                break;
            }
            self.copy_out(tail, &mut record[..len]);
            let is_told = std::mem::take(&mut self.is_told);
            match kind {
                RECORD_LOST if is_told => {}
                RECORD_SAMPLE if len >= 12 => {
                    let raw_len = u32::from_ne_bytes([record[8], record[9], record[10], record[11]]) as usize;
                    match record.get(12..12 + raw_len) {
                        Some(raw) => take(Record::Sample(raw)),
                        None => take(Record::Lost),
                    }
                }
                RECORD_LOST | RECORD_THROTTLE | RECORD_SAMPLE => take(Record::Lost),
                _ => {}
            }
            tail += len as u64;
        }
        self.record = record;
        self.counter(TAIL_OFFSET).store(tail, Ordering::Release);
        if is_full {
            // Only now there is room: all that was lost was lost before this is told.
            take(Record::Lost);
            self.is_told = true;
        }
    }

    fn copy_out(&self, position: u64, to: &mut [u8]) {
        let start = (position % self.data_len as u64) as usize;
        let first = to.len().min(self.data_len - start);
        // SAFETY: the start lies inside the data area, which follows the first page.
        let from = unsafe { self.address.as_ptr().add(self.page_len + start) };
        // SAFETY: `first` bytes up to the end of the data area at most; the kernel does not write between tail and head.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), first) };
        // SAFETY: the data area begins after the first page.
        let begin = unsafe { self.address.as_ptr().add(self.page_len) };
        let rest = &mut to[first..];
        // SAFETY: the rest is shorter than the data area, because a record is.
        unsafe { std::ptr::copy_nonoverlapping(begin, rest.as_mut_ptr(), rest.len()) };
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in `map`.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.page_len + self.data_len) };
    }
}

/// The CPUs that are online, from the kernel's list such as `0-3,8`.
pub(crate) fn online_cpus() -> io::Result<(String, Vec<u32>)> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let cpus =
        parse_cpus(text.trim()).ok_or_else(|| io::Error::other(format!("unknown list of CPUs: {text:?}")))?;
    Ok((text, cpus))
}

fn parse_cpus(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?),
            None => cpus.push(part.parse().ok()?),
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_parsed() {
        assert_eq!(parse_cpus("0-2,5,8-9"), Some(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(parse_cpus("0"), Some(vec![0]));
        assert_eq!(parse_cpus("x"), None);
    }
}
