//! The tree engine: directory trees, entry by entry.

pub mod apply;
pub mod baseline;
pub mod capture;
mod cutover;
pub mod entry;
pub mod estimate;
pub mod filter;
pub mod foreseen;
pub mod journal;
pub mod links;
pub mod long;
pub mod mounts;
pub mod moves;
pub mod operation;
pub mod receive;
pub mod replica;
pub mod round;
pub mod scan;
pub mod send;
pub mod shared;
pub mod spool;
pub mod sync;
pub mod tally;
pub mod tasks;
pub mod track;
pub mod verify;
pub mod write;
