//! The source side: command line, configuration, preflight, registration, job loop, cutover.
//!
//! The program parses, checks and wires; how bytes travel is the business of `transfer`, how the control plane is
//! spoken to that of `csm`.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod bandwidth;
pub mod boot_check;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod documents;
pub mod exit;
pub mod folder;
pub mod inventory;
pub mod log;
pub mod migrate;
pub mod output;
pub mod preflight;
pub mod receipt;
pub mod refusal;
pub mod resolve;
pub mod secret_text;
pub mod signals;
pub mod state;
pub mod status;
pub mod sync;
pub mod units;

use cli::Command;
use output::say;
use refusal::Refusals;

/// Runs the program with `args` (the first one is the program's name) and returns its exit code.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    sys::descriptors::raise_limit();
    match cli::parse(args) {
        cli::Parsed::Run(command, refusals) => run(*command, refusals),
        cli::Parsed::Shown(text) => {
            say(&text);
            exit::DONE.into()
        }
        cli::Parsed::Refused(refusals) => refusals.print().into(),
    }
}

fn run(command: Command, refusals: Refusals) -> ExitCode {
    match command {
        Command::Job(args) => migrate::run(&args, refusals).into(),
        Command::Sync(args) => sync::run(&args, refusals).into(),
        _ if !refusals.is_empty() => refusals.print().into(),
        Command::Status(args) => status::run(&args).into(),
        Command::Bandwidth(args) => bandwidth::run(&args).into(),
        Command::Finish(args) => migrate::finish::run(&args).into(),
        Command::Verify(args) => receipt::run(&args).into(),
        Command::SupportBundle(args) => bundle::run(&args).into(),
        Command::Completions(args) => documents::completions(&args).into(),
        Command::Man(args) => documents::man(&args).into(),
    }
}
