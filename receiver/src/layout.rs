//! Makes the target's disks what the source's are: partition tables, volume groups, file systems, swap, with the
//! identity that the source's configuration refers to (GUIDs, UUIDs, labels, names). Then fstab, boot entries and
//! crypttab need no change.
//!
//! The story: read the source's inventory ([`survey`] wrote it there) → plan every command, refuse with all reasons at
//! once → run them → mount the tree. Nothing is touched that is mounted, in use, or not named; a disk that carries
//! something is overwritten only when that was asked for.

pub mod array;
pub mod command;
pub mod file_system;
pub mod grow;
pub mod partitions;
pub mod plan;

pub use transfer::storage as inventory;
pub use transfer::storage::survey;
