//! `go2cloud`: the source side of a migration.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::main_from(std::env::args_os())
}
