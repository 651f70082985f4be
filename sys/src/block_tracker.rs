//! Which 64 KiB chunks of a block device were written since the last look, without a kernel module.
//!
//! The kernel reports every request at the tracepoints `block_bio_queue` (before it), `block_rq_complete` and
//! `block_bio_complete` (after it). A chunk is marked at both ends: a write queued before a look and landing after it is
//! marked again when it lands. Anything that is not a read and has a length marks: writes, discards, write-zeroes.
//!
//! *BPF* (5.5 and later): a program of a few dozen instructions stores one byte per chunk into memory shared with this
//! process; nothing can overflow. *perf* (older): records in rings; a lost one marks everything. Requests of more than
//! 64 MiB mark regions of 64 MiB. Not seen: DAX mappings, SCSI or NVMe pass-through, other hosts of a shared disk.
//! A tracker that saw no request at all while the device was being read is blind: see [`Harvest::saw_requests`].

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::block_device::BlockDevice;
use crate::bpf::{Condition, Program, Register, SharedBytes, load_tracepoint_program};
use crate::chunk_set::ChunkSet;
use crate::perf::{self, Record, Ring};
use crate::tracepoint::{BlockEvent, open_tracefs};

/// Length of a chunk in bytes: one byte of memory each is 16 MiB per TiB.
pub const CHUNK_LEN: u64 = 64 * 1024;
/// Sectors of 512 bytes per chunk, as a power of two.
const CHUNK_SECTORS_SHIFT: i32 = 7;
/// Chunks per region, as a power of two: larger requests mark regions of 64 MiB.
const REGION_SHIFT: i32 = 10;
/// Steps of the program's loops, which the verifier walks through one by one.
const STEPS_MAX: u64 = 1 << REGION_SHIFT;
/// Chunks of one map: with its regions and flags just below 4 MiB, the largest value that older kernels accept.
const SEGMENT_CHUNKS: u64 = 4 * 1024 * 1024 - 64 * 1024;
/// Memory of all rings of a tracker, and bounds of one CPU's ring, in bytes.
const RINGS_LEN: usize = 16 << 20;
const RING_LEN_MIN: usize = 64 << 10;
const RING_LEN_MAX: usize = 1 << 20;
/// Pause between two looks into the rings: 1 MiB holds 14,000 records, so 700,000 requests per second and CPU fit.
const RING_PAUSE: Duration = Duration::from_millis(20);
const EVENTS: [&str; 3] = ["block_bio_queue", "block_rq_complete", "block_bio_complete"];

/// How a device is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A BPF program marks bytes in shared memory.
    Bpf,
    /// Trace records in rings.
    Perf,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bpf => "BPF program on block tracepoints",
            Self::Perf => "perf records of block tracepoints",
        })
    }
}

/// What was written since the last look.
#[derive(Clone, Debug)]
pub struct Harvest {
    /// Chunks of the device, counted from its start.
    pub dirty: ChunkSet,
    /// Whether records were lost; then every chunk is dirty.
    pub lost: bool,
    /// Whether any request, reads included, was seen since the last look.
    pub saw_requests: bool,
}

/// Watches one device for as long as it lives.
pub struct BlockTracker {
    chunk_count: u64,
    backend: Backend,
    /// Why not by the better method.
    instead: Option<io::Error>,
}

enum Backend {
    Bpf(Vec<Segment>),
    Perf(PerfWatch),
}

/// Where the marks of some chunks lie in a byte array: chunks, regions, then two flags.
#[derive(Clone, Copy)]
struct Layout {
    first_chunk: u64,
    chunk_count: u64,
    region_count: u64,
}

impl Layout {
    fn new(first_chunk: u64, chunk_count: u64) -> Self {
        Self {
            first_chunk,
            chunk_count,
            region_count: chunk_count.div_ceil(1 << REGION_SHIFT),
        }
    }

    fn seen(self) -> usize {
        (self.chunk_count + self.region_count) as usize
    }

    fn lost(self) -> usize {
        self.seen() + 1
    }

    fn len(self) -> usize {
        (self.seen() + 2).next_multiple_of(8)
    }

    /// Moves the marks into `harvest`.
    fn take(self, marks: &[AtomicU8], harvest: &mut Harvest) {
        let take = |index: usize| {
            marks[index].load(Ordering::Relaxed) != 0 && marks[index].swap(0, Ordering::AcqRel) != 0
        };
        harvest.saw_requests |= take(self.seen());
        harvest.lost |= take(self.lost());
        for region in (0..self.region_count).filter(|region| take((self.chunk_count + region) as usize)) {
            let first = self.first_chunk + (region << REGION_SHIFT);
            let last = (first + (1 << REGION_SHIFT)).min(self.first_chunk + self.chunk_count);
            harvest.dirty.insert_range(first..last);
        }
        for chunk in (0..self.chunk_count).filter(|chunk| take(*chunk as usize)) {
            harvest.dirty.insert(self.first_chunk + chunk);
        }
    }
}

/// A part of the device with its own map and programs.
struct Segment {
    layout: Layout,
    marks: SharedBytes,
    /// Open events keep the programs attached.
    _events: Vec<OwnedFd>,
    /// The programs, in the order of [`EVENTS`].
    programs: Vec<OwnedFd>,
}

/// How often the kernel left a program out because it would have interrupted another one on its processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Before requests.
    pub before: u64,
    /// After them.
    pub after: u64,
}

impl BlockTracker {
    /// Begins to watch `device` by the best method that the kernel offers.
    ///
    /// # Errors
    /// The kernel refuses both methods: no privilege, lockdown, no tracefs. The message holds both reasons.
    pub fn attach(device: &BlockDevice) -> io::Result<Self> {
        Self::attach_by(device, Method::Bpf).or_else(|bpf| match Self::attach_by(device, Method::Perf) {
            Ok(tracker) => Ok(Self {
                instead: Some(bpf),
                ..tracker
            }),
            Err(perf) => Err(io::Error::new(perf.kind(), format!("BPF: {bpf}; perf: {perf}"))),
        })
    }

    /// Begins to watch `device` by this method.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_by(device: &BlockDevice, method: Method) -> io::Result<Self> {
        let chunk_count = device.len.div_ceil(CHUNK_LEN);
        let tracefs = open_tracefs()?;
        let events = EVENTS
            .iter()
            .map(|name| BlockEvent::look(&tracefs, name))
            .collect::<io::Result<Vec<_>>>()?;
        let backend = match method {
            Method::Bpf => Backend::Bpf(attach_programs(device, &events, chunk_count)?),
            Method::Perf => Backend::Perf(PerfWatch::attach(device, &events, chunk_count)?),
        };
        Ok(Self {
            chunk_count,
            backend,
            instead: None,
        })
    }

    /// How this device is watched, and why not better; for people.
    pub fn describe(&self) -> String {
        match &self.instead {
            None => self.method().to_string(),
            Some(why) => format!("{}, for there is no BPF: {why}", self.method()),
        }
    }

    /// How this device is watched.
    pub fn method(&self) -> Method {
        match self.backend {
            Backend::Bpf(_) => Method::Bpf,
            Backend::Perf(_) => Method::Perf,
        }
    }

    /// How often the kernel has left the programs out so far; `None` where it does not tell (before 6.7) or there are none. A
    /// write is missed only where both concern the same one.
    pub fn left_out(&self) -> Option<LeftOut> {
        let Backend::Bpf(segments) = &self.backend else {
            return None;
        };
        let mut sum = LeftOut::default();
        for segment in segments {
            let mut misses = segment.programs.iter().map(recursion_misses);
            sum.before += misses.next()??;
            for after in misses {
                sum.after += after?;
            }
        }
        Some(sum)
    }

    /// Takes and clears all marks. Read the chunks *after* this call: what is written meanwhile is marked anew.
    pub fn harvest(&self) -> Harvest {
        let mut harvest = Harvest {
            dirty: ChunkSet::empty(self.chunk_count),
            lost: false,
            saw_requests: false,
        };
        match &self.backend {
            Backend::Bpf(segments) => {
                for segment in segments {
                    segment.layout.take(segment.marks.bytes(), &mut harvest);
                }
            }
            Backend::Perf(watch) => {
                watch.shared.drain();
                watch.shared.layout.take(&watch.shared.marks, &mut harvest);
            }
        }
        if harvest.lost {
            harvest.dirty = ChunkSet::full(self.chunk_count);
        }
        harvest
    }
}

fn attach_programs(
    device: &BlockDevice,
    events: &[BlockEvent],
    chunk_count: u64,
) -> io::Result<Vec<Segment>> {
    raise_memory_limit();
    let mut segments = Vec::new();
    for first_chunk in (0..chunk_count).step_by(SEGMENT_CHUNKS as usize) {
        let layout = Layout::new(first_chunk, SEGMENT_CHUNKS.min(chunk_count - first_chunk));
        let marks = SharedBytes::new(layout.len())?;
        let (mut open, mut programs) = (Vec::new(), Vec::new());
        for event in events {
            let program = load_tracepoint_program(&marking_program(device, event, layout, &marks))?;
            // One event on one CPU suffices: the program runs at every hit of the tracepoint.
            let perf_event = perf::open_tracepoint(event.id, perf::online_cpus()?.1[0])?;
            perf::attach_program(&perf_event, &program)?;
            open.push(perf_event);
            programs.push(program);
        }
        segments.push(Segment {
            layout,
            marks,
            _events: open,
            programs,
        });
    }
    Ok(segments)
}

fn recursion_misses(program: &OwnedFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"));
    line?.trim().parse().ok()
}

/// Before 5.11 maps count as locked memory.
fn raise_memory_limit() {
    let unlimited = rustix::process::Rlimit {
        current: None,
        maximum: None,
    };
    // A refusal shows up as a refusal to make the map.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);
}

/// Puts together the program for one event: the same steps as [`PerfShared::mark`].
fn marking_program(device: &BlockDevice, event: &BlockEvent, layout: Layout, marks: &SharedBytes) -> Program {
    let [scratch, wide, context, first, last, base] = [1, 2, 6, 7, 8, 9].map(Register);
    let mut p = Program::default();
    let mut leave = Vec::new();
    p.copy(context, Register(1));
    p.load32(scratch, context, event.device.offset);
    p.set_wide(wide, u64::from(device.disk.kernel()));
    leave.push(p.jump_if_register(Condition::NotEqual, scratch, wide));
    p.set_map_value(base, marks.map());
    p.copy(scratch, base);
    p.add(scratch, layout.seen() as i32);
    p.store_one(scratch);
    p.load8(scratch, context, event.operation.offset);
    leave.push(p.jump_if(Condition::Equal, scratch, i32::from(b'R')));
    p.load32(last, context, event.sectors.offset);
    leave.push(p.jump_if(Condition::Equal, last, 0));
    p.load64(first, context, event.sector.offset);
    p.add_register(last, first);
    p.add(last, -1);
    p.set_wide(
        wide,
        device.start / 512 + (layout.first_chunk << CHUNK_SECTORS_SHIFT),
    );
    p.subtract_register(first, wide);
    p.subtract_register(last, wide);
    leave.push(p.jump_if(Condition::SignedLess, last, 0));
    let before = p.jump_if(Condition::SignedLess, first, 0);
    let inside = p.jump_if(Condition::AboveOrEqual, first, 0);
    p.land(before);
    p.set(first, 0);
    p.land(inside);
    p.shift_right(first, CHUNK_SECTORS_SHIFT);
    p.shift_right(last, CHUNK_SECTORS_SHIFT);
    leave.push(p.jump_if(Condition::AboveOrEqual, first, layout.chunk_count as i32));
    let ends_inside = p.jump_if(Condition::Below, last, layout.chunk_count as i32);
    p.set(last, layout.chunk_count as i32 - 1);
    p.land(ends_inside);
    p.copy(scratch, last);
    p.subtract_register(scratch, first);
    let large = p.jump_if(Condition::AboveOrEqual, scratch, STEPS_MAX as i32);
    let fine = marking_loop(&mut p, 0, layout.chunk_count);
    leave.extend(fine);
    p.end();
    p.land(large);
    p.shift_right(first, REGION_SHIFT);
    p.shift_right(last, REGION_SHIFT);
    let coarse = marking_loop(&mut p, layout.chunk_count, layout.region_count);
    leave.extend(coarse);
    // More regions than the loop may take: say so.
    p.copy(scratch, base);
    p.add(scratch, layout.lost() as i32);
    p.store_one(scratch);
    for jump in leave {
        p.land(jump);
    }
    p.end();
    p
}

/// Marks bytes `offset + first ..= offset + last` of `count`; the returned jumps leave when done, falling through means
/// that the steps did not suffice.
fn marking_loop(p: &mut Program, offset: u64, count: u64) -> Vec<crate::bpf::Jump> {
    let [scratch, steps, first, last, base] = [1, 5, 7, 8, 9].map(Register);
    p.set(steps, 0);
    let top = p.here();
    let done = p.jump_if_register(Condition::Above, first, last);
    let outside = p.jump_if(Condition::AboveOrEqual, first, count as i32);
    p.copy(scratch, base);
    p.add_register(scratch, first);
    p.add(scratch, offset as i32);
    p.store_one(scratch);
    p.add(first, 1);
    p.add(steps, 1);
    let again = p.jump_if(Condition::Below, steps, STEPS_MAX as i32);
    p.lead(again, top);
    let finished = p.jump_if_register(Condition::Above, first, last);
    vec![done, outside, finished]
}

/// The fallback: rings of records, drained by a thread and before every look.
struct PerfWatch {
    shared: Arc<PerfShared>,
    thread: Option<JoinHandle<()>>,
    _events: Vec<OwnedFd>,
}

struct PerfShared {
    layout: Layout,
    marks: Vec<AtomicU8>,
    /// First sector of the device on its disk.
    start_sector: u64,
    rings: Mutex<Vec<Ring>>,
    /// The kernel's number of each event and where its fields lie.
    events: Vec<(u16, BlockEvent)>,
    cpus: String,
    stop: AtomicBool,
}

impl PerfWatch {
    fn attach(device: &BlockDevice, events: &[BlockEvent], chunk_count: u64) -> io::Result<Self> {
        let (cpus_text, cpus) = perf::online_cpus()?;
        let ring_len = (RINGS_LEN / cpus.len().max(1)).clamp(RING_LEN_MIN, RING_LEN_MAX);
        let ring_len = 1 << ring_len.ilog2();
        let filter = CString::new(format!("dev == {}", device.disk.kernel())).map_err(io::Error::other)?;
        let mut open: Vec<OwnedFd> = Vec::new();
        let mut rings = Vec::new();
        for cpu in cpus {
            let owner = open.len();
            for event in events {
                let perf_event = perf::open_tracepoint(event.id, cpu)?;
                perf::set_filter(&perf_event, &filter)?;
                if open.len() == owner {
                    rings.push(Ring::map(&perf_event, ring_len)?);
                } else {
                    perf::share_ring(&perf_event, &open[owner])?;
                }
                open.push(perf_event);
            }
        }
        for event in &open {
            perf::enable(event)?;
        }
        let layout = Layout::new(0, chunk_count);
        let shared = Arc::new(PerfShared {
            layout,
            marks: (0..layout.len()).map(|_| AtomicU8::new(0)).collect(),
            start_sector: device.start / 512,
            rings: Mutex::new(rings),
            events: events.iter().map(|event| (event.id as u16, *event)).collect(),
            cpus: cpus_text,
            stop: AtomicBool::new(false),
        });
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("block-tracker".into())
            .spawn(move || {
                while !watched.stop.load(Ordering::Acquire) {
                    watched.drain();
                    std::thread::sleep(RING_PAUSE);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _events: open,
        })
    }
}

impl Drop for PerfWatch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already reported on standard error.
            let _ = thread.join();
        }
    }
}

impl PerfShared {
    fn drain(&self) {
        let mut rings = self.rings.lock().expect("draining does not panic");
        for ring in rings.iter_mut() {
            ring.drain(|record| match record {
                Record::Sample(raw) => {
                    if self.mark(raw).is_none() {
                        self.lose();
                    }
                }
                Record::Lost => self.lose(),
            });
        }
        // A CPU that came online has no ring.
        if !perf::online_cpus().is_ok_and(|(cpus, _)| cpus == self.cpus) {
            self.lose();
        }
    }

    fn lose(&self) {
        self.marks[self.layout.lost()].store(1, Ordering::Release);
    }

    /// Marks what one record speaks of; `None` when the record is not understood.
    fn mark(&self, raw: &[u8]) -> Option<()> {
        let id = u16::from_ne_bytes(*raw.first_chunk()?);
        let (_, event) = self.events.iter().find(|(known, _)| *known == id)?;
        let bytes = |offset: u16| raw.get(usize::from(offset)..);
        self.marks[self.layout.seen()].store(1, Ordering::Release);
        let sectors = u64::from(u32::from_ne_bytes(*bytes(event.sectors.offset)?.first_chunk()?));
        if *bytes(event.operation.offset)?.first()? == b'R' || sectors == 0 {
            return Some(());
        }
        let sector = u64::from_ne_bytes(*bytes(event.sector.offset)?.first_chunk()?);
        let end = (sector + sectors).saturating_sub(self.start_sector);
        if end == 0 {
            return Some(());
        }
        let first = sector.saturating_sub(self.start_sector) >> CHUNK_SECTORS_SHIFT;
        let last = ((end - 1) >> CHUNK_SECTORS_SHIFT).min(self.layout.chunk_count - 1);
        for chunk in first..=last {
            self.marks[chunk as usize].store(1, Ordering::Release);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
