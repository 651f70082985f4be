//! The self-hosted control plane: the CSM API, the CVM calls that a migration needs, providers, and the administrators'
//! command line.
//!
//! A request takes this way: [`http`] → signature ([`http::auth`]) → parameters ([`schema`]) → [`actions`], which ask the
//! state tables ([`state`]) and change the world through the [`engine`], which answers when the [`store`] has it.
//! [`provider`]s do what has to be done to instances. Nothing here knows file systems, disks, or how bytes travel.

pub mod actions;
pub mod app;
pub mod cli;
pub mod clock;
pub mod code;
pub mod engine;
pub mod http;
pub mod identity;
pub mod incremental;
pub mod metrics;
pub mod network;
pub mod provider;
pub mod records;
pub mod region;
pub mod schema;
pub mod serve;
pub mod state;
pub mod store;
pub mod vault;
pub mod world;

use std::ffi::OsString;
use std::process::ExitCode;

/// The program, with its command line: the first argument is the program's name. Exit codes: 0 done, 1 failed, 2 wrong
/// usage.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(arguments)
}
