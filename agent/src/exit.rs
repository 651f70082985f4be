//! Exit codes: part of the command-line contract.

use std::process::ExitCode;

/// An exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

/// Done and complete.
pub const DONE: Exit = Exit(0);
/// Failed; what is durable at the target is kept for the next run.
pub const FAILED: Exit = Exit(1);
/// The command line or a configuration file was refused; nothing was done.
pub const USAGE: Exit = Exit(2);
/// `--check`: there are warnings; the migration can go on.
pub const CHECK_WARNED: Exit = Exit(2);
/// `--check`: something must be repaired first; also when the checks before a migration found it.
pub const CHECK_FAILED: Exit = Exit(3);
/// Done, but some entries could not be copied as they are; the summary names them.
pub const PARTIAL: Exit = Exit(23);
/// Stopped by Ctrl-C or SIGTERM at a safe point; the same command resumes.
pub const INTERRUPTED: Exit = Exit(130);

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
