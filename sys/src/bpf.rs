//! The few `bpf(2)` calls that the block tracker needs, and an assembler for its instructions.
//!
//! No libbpf, no BTF, no compiler on the host: programs are a few dozen instructions put together here.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
/// Length of `union bpf_attr` passed: covers the fields used; the kernel takes the rest as zero.
const ATTRIBUTE_LEN: usize = 48;
/// Room for the verifier's explanation of a refusal.
const LOG_LEN: usize = 64 * 1024;

/// An array map with one value, mapped into memory: the program's store is our load.
pub(crate) struct SharedBytes {
    map: OwnedFd,
    address: NonNull<u8>,
    len: usize,
    mapped_len: usize,
}

// SAFETY: the memory is only ever accessed through atomics, and stays mapped until drop.
unsafe impl Send for SharedBytes {}
// SAFETY: as above: all access is atomic.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// A zeroed value of `len` bytes, `len` a multiple of 8.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        assert!(len.is_multiple_of(8), "scanned in words");
        let value_len = u32::try_from(len).map_err(io::Error::other)?;
        let mut attribute = [0u8; ATTRIBUTE_LEN];
        for (index, field) in [BPF_MAP_TYPE_ARRAY, 4, value_len, 1, BPF_F_MMAPABLE]
            .into_iter()
            .enumerate()
        {
            attribute[index * 4..index * 4 + 4].copy_from_slice(&field.to_ne_bytes());
        }
        let map = bpf(BPF_MAP_CREATE, &attribute)?;
        let mapped_len = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh shared mapping of a map of that length; nothing else is placed there.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            map,
            address: NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?,
            len,
            mapped_len,
        })
    }

    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping is `len` bytes long at least, lives as long as `self`, and is accessed atomically only.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.len) }
    }

    pub(crate) fn map(&self) -> &OwnedFd {
        &self.map
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in `new`.
        unsafe { libc::munmap(self.address.as_ptr().cast::<c_void>(), self.mapped_len) };
    }
}

/// Loads a tracepoint program; a refusal carries the end of the verifier's explanation.
pub(crate) fn load_tracepoint_program(program: &Program) -> io::Result<OwnedFd> {
    let code = &program.code;
    let licence = c"GPL";
    let mut log = vec![0u8; LOG_LEN];
    let mut attribute = [0u8; ATTRIBUTE_LEN];
    attribute[0..4].copy_from_slice(&BPF_PROG_TYPE_TRACEPOINT.to_ne_bytes());
    attribute[4..8].copy_from_slice(&((code.len() / 8) as u32).to_ne_bytes());
    attribute[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attribute[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_ne_bytes());
    // First without a log: a log that overflows would itself be a refusal.
    match bpf(BPF_PROG_LOAD, &attribute) {
        Ok(program) => Ok(program),
        Err(error) => {
            attribute[24..28].copy_from_slice(&1u32.to_ne_bytes());
            attribute[28..32].copy_from_slice(&(LOG_LEN as u32).to_ne_bytes());
            attribute[32..40].copy_from_slice(&(log.as_mut_ptr() as u64).to_ne_bytes());
            if let Ok(program) = bpf(BPF_PROG_LOAD, &attribute) {
                return Ok(program);
            }
            let text =
                String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
            let tail: Vec<&str> = text.trim().lines().rev().take(2).collect();
            Err(io::Error::new(
                error.kind(),
                format!("{error}: {}", tail.join(" / ")),
            ))
        }
    }
}

fn bpf(command: libc::c_int, attribute: &[u8; ATTRIBUTE_LEN]) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is as long as stated, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), ATTRIBUTE_LEN) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

/// A register.
#[derive(Clone, Copy)]
pub(crate) struct Register(pub(crate) u8);

/// A jump whose destination is not known yet.
pub(crate) struct Jump(usize);

/// Instructions being put together.
#[derive(Default)]
pub(crate) struct Program {
    code: Vec<u8>,
}

/// Conditions of 64-bit jumps: the operation bits of `BPF_JMP`.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Condition {
    Equal = 0x10,
    NotEqual = 0x50,
    Above = 0x20,
    AboveOrEqual = 0x30,
    Below = 0xa0,
    SignedLess = 0xc0,
}

impl Program {
    fn emit(&mut self, operation: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.code.push(operation);
        self.code.push(from << 4 | to);
        self.code.extend_from_slice(&offset.to_ne_bytes());
        self.code.extend_from_slice(&immediate.to_ne_bytes());
    }

    /// The position of the next instruction.
    pub(crate) fn here(&self) -> usize {
        self.code.len() / 8
    }

    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.emit(0xbf, to.0, from.0, 0, 0);
    }

    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.emit(0xb7, to.0, 0, 0, value);
    }

    pub(crate) fn set_wide(&mut self, to: Register, value: u64) {
        self.emit(0x18, to.0, 0, 0, value as u32 as i32);
        self.emit(0, 0, 0, 0, (value >> 32) as u32 as i32);
    }

    /// The address of a map's only value (`BPF_PSEUDO_MAP_VALUE`).
    pub(crate) fn set_map_value(&mut self, to: Register, map: &OwnedFd) {
        self.emit(0x18, to.0, 2, 0, map.as_raw_fd());
        self.emit(0, 0, 0, 0, 0);
    }

    pub(crate) fn load8(&mut self, to: Register, base: Register, offset: u16) {
        self.emit(0x71, to.0, base.0, offset as i16, 0);
    }

    pub(crate) fn load32(&mut self, to: Register, base: Register, offset: u16) {
        self.emit(0x61, to.0, base.0, offset as i16, 0);
    }

    pub(crate) fn load64(&mut self, to: Register, base: Register, offset: u16) {
        self.emit(0x79, to.0, base.0, offset as i16, 0);
    }

    /// Stores the byte 1 at `base`.
    pub(crate) fn store_one(&mut self, base: Register) {
        self.emit(0x72, base.0, 0, 0, 1);
    }

    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.emit(0x07, to.0, 0, 0, value);
    }

    pub(crate) fn add_register(&mut self, to: Register, from: Register) {
        self.emit(0x0f, to.0, from.0, 0, 0);
    }

    pub(crate) fn subtract_register(&mut self, to: Register, from: Register) {
        self.emit(0x1f, to.0, from.0, 0, 0);
    }

    pub(crate) fn shift_right(&mut self, to: Register, bits: i32) {
        self.emit(0x77, to.0, 0, 0, bits);
    }

    pub(crate) fn jump_if(&mut self, condition: Condition, left: Register, right: i32) -> Jump {
        self.emit(0x05 | condition as u8, left.0, 0, 0, right);
        Jump(self.here() - 1)
    }

    pub(crate) fn jump_if_register(&mut self, condition: Condition, left: Register, right: Register) -> Jump {
        self.emit(0x0d | condition as u8, left.0, right.0, 0, 0);
        Jump(self.here() - 1)
    }

    /// Makes `jump` lead to `destination`, forwards or backwards.
    pub(crate) fn lead(&mut self, jump: Jump, destination: usize) {
        let distance = destination as i64 - jump.0 as i64 - 1;
        let distance = i16::try_from(distance).expect("programs are far shorter than 32 Ki instructions");
        self.code[jump.0 * 8 + 2..jump.0 * 8 + 4].copy_from_slice(&distance.to_ne_bytes());
    }

    /// Leads `jump` to the next instruction.
    pub(crate) fn land(&mut self, jump: Jump) {
        self.lead(jump, self.here());
    }

    /// Returns 1. A program on a tracepoint that returns 0 would keep the event from everybody else who listens there
    /// with perf (`perf_trace_run_bpf_submit` in the kernel).
    pub(crate) fn end(&mut self) {
        self.set(Register(0), 1);
        self.emit(0x95, 0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn instructions_have_the_kernels_encoding() {
        let mut program = Program::default();
        let jump = program.jump_if(Condition::Equal, Register(1), 82);
        program.load32(Register(8), Register(6), 24);
        program.land(jump);
        program.end();
        assert_eq!(
            program.code,
            [
                0x15, 0x01, 1, 0, 82, 0, 0, 0, // if r1 == 82 skip one
                0x61, 0x68, 24, 0, 0, 0, 0, 0, // r8 = *(u32 *)(r6 + 24)
                0xb7, 0, 0, 0, 1, 0, 0, 0, // r0 = 1
                0x95, 0, 0, 0, 0, 0, 0, 0, // exit
            ]
        );
    }

    #[test]
    fn a_map_is_shared_memory_and_a_bad_program_is_explained() {
        let map = SharedBytes::new(65_544).unwrap();
        map.bytes()[65_543].store(9, Ordering::Relaxed);
        assert_eq!(map.bytes()[65_543].load(Ordering::Relaxed), 9);
        let mut program = Program::default();
        program.load8(Register(1), Register(5), 0);
        program.end();
        let error = load_tracepoint_program(&program).unwrap_err().to_string();
        assert!(error.contains("R5"), "{error}");
    }
}
