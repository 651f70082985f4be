//! The program `go2cloud-control`.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::main_from(std::env::args_os())
}
