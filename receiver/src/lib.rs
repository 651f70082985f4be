//! The target side: serves a migration, lays out disks, converts the system that arrived, and boots it for proof.
//!
//! The way of a command: [`cli`] (raw arguments) → [`plan`] (checked, all refusals at once) → [`serve`]. This crate
//! knows nothing of clouds and jobs; how bytes travel is the `transfer` crate's affair.

pub mod boot_check;
pub mod cli;
pub mod convert;
pub mod layout;
pub mod limits;
pub mod migration_mode;
pub mod plan;
pub mod serve;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use transfer::{Error, Kind};

/// Runs the program with `args` (the first is the program's name) and says how it ended:
/// 0 done, 1 failed, 2 the command line or what it names cannot be used.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args
        .peek()
        .is_some_and(|program| migration_mode::is_wanted(program))
    {
        migration_mode::run();
    }
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed standard stream changes nothing about the outcome.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    start_log(cli.verbose);
    sys::descriptors::raise_limit();
    match (cli.command, cli.serve) {
        (Some(cli::Command::Convert(args)), _) => run(convert::command::run(*args)),
        (Some(cli::Command::BootCheck(args)), _) => run(boot_check::run(&args)),
        (Some(cli::Command::Inventory(args)), _) => run(layout::command::run_inventory(&args)),
        (Some(cli::Command::Layout(args)), _) => run(layout::command::run_layout(&args)),
        (None, Some(args)) => {
            let output = serve::Output::new(args.json);
            match plan::Plan::check(args).and_then(|plan| serve::serve(plan, &output)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    output.failed(&error);
                    exit_code(&error)
                }
            }
        }
        (None, None) => {
            print_error(&Error::new(Kind::Usage, "start").remedy("see go2cloud-receiver --help"));
            ExitCode::from(2)
        }
    }
}

fn run(result: transfer::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error);
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    match error.kind() {
        Kind::Usage => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Writes an error and all its causes, one line, to standard error.
pub(crate) fn print_error(error: &dyn std::error::Error) {
    let mut stderr = anstream::stderr().lock();
    let _ = writeln!(stderr, "go2cloud-receiver: {}", chain(error));
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // A second call in one process (the demo) keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
