//! What end-to-end tests share: random trees, file systems to put them on, and a comparison that owes nothing to the
//! code under test. The tests themselves drive the programs only.

pub mod bed;
pub mod cloud;
pub mod compare;
pub mod control;
pub mod dice;
pub mod disk;
pub mod hooks;
pub mod host;
pub mod maketree;
pub mod medium;
pub mod network;
pub mod process;
pub mod proxy;
pub mod volatile;
pub mod writer;
