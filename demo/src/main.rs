//! `demo [DIR]`: a one-machine cloud that migrates DIR for real.
//!
//! One file holds all three programs and starts itself as each of them, by name: a control plane, the receiver that the
//! control plane starts for an instance, and an agent. They speak over loopback as they would between machines: signed
//! API calls, TLS 1.3, durable acknowledgements.

mod cloud;
mod story;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Migrate a directory through a control plane, a receiver and an agent on this machine
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Directory to migrate
    #[arg(default_value = "/usr/share")]
    directory: PathBuf,
    /// Folder of the demo's cloud and of the result; one that an interrupted run left is taken up again
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp/go2cloud-demo")]
    work: PathBuf,
    /// Speed limit in KB/s
    #[arg(long, value_name = "KB/s")]
    bandwidth_limit: Option<u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(PathBuf::from);
    match name
        .as_ref()
        .and_then(|name| name.file_name())
        .and_then(|name| name.to_str())
    {
        Some("go2cloud") => agent::main_from(arguments),
        Some("go2cloud-receiver") => receiver::main_from(arguments),
        Some("go2cloud-control") => control::main_from(arguments),
        _ => demo(Arguments::parse_from(arguments)),
    }
}

fn demo(arguments: Arguments) -> ExitCode {
    match story::tell(&arguments.directory, &arguments.work, arguments.bandwidth_limit) {
        Ok(story::End::Success) => ExitCode::SUCCESS,
        Ok(story::End::Interrupted) => ExitCode::from(130),
        Err(error) => {
            world::say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
