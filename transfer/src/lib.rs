//! The data plane of go2cloud, both sides of the wire.
//!
//! A *volume* is one directory tree or one disk. The source scans it, finds what differs from the baseline, reads,
//! hashes, compresses and throttles it onto a [`link`]; the target verifies, writes and journals it, and acknowledges
//! what is durable. This crate knows nothing of HTTP, jobs, terminals or environment variables.

pub mod boot_check;
pub mod compress;
pub mod courtesy;
pub mod disk;
pub mod error;
pub mod limits;
pub mod link;
pub mod lock;
pub mod machine;
pub mod payload;
pub mod progress;
pub mod protocol;
pub mod receipt;
pub mod secret;
pub mod sequence;
pub mod signature;
pub mod source;
pub mod storage;
pub mod target;
pub mod throttle;
pub mod tree;

pub use error::{Error, Kind, Result};
