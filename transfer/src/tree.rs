//! The tree engine: directory trees, entry by entry.

pub mod capture;
pub mod entry;
pub mod filter;
pub mod operation;
pub mod replica;
pub mod track;
pub mod write;
