//! Linux made safe: system calls, ioctls, trackers.
//!
//! The only crate with `unsafe` code: one call per block, each with its reason. "The kernel cannot do that" is an
//! answer (`None`, [`std::io::ErrorKind::Unsupported`]), not a surprise. This crate knows nothing of the product.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper live here and nowhere else"
)]

pub mod aligned;
pub mod block_device;
pub mod block_tracker;
mod bpf;
pub mod chunk_set;
pub mod freeze;
pub mod getfsmap;
pub mod loop_device;
pub mod mounts;
mod perf;
mod tracepoint;
pub mod watchdog;
