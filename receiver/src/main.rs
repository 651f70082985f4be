//! `go2cloud-receiver`: parses, wires up, calls; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    receiver::main_from(std::env::args_os())
}
