//! `go2cloud-compare [--atime] [--no-holes] [--one-file-system] [--skip PATH]... SOURCE TARGET`: exit 0 when the two
//! trees are the same in everything a Linux file system keeps, 1 when they differ (each difference on a line), 2 when
//! called wrongly.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use go2cloud_tests::compare::{Options, compare};

const USAGE: &str =
    "usage: go2cloud-compare [--atime] [--no-holes] [--one-file-system] [--skip PATH]... SOURCE TARGET";

fn main() -> ExitCode {
    let mut options = Options::default();
    let mut roots: Vec<OsString> = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    let mut valid = true;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--atime") => options.atime = true,
            Some("--no-holes") => options.holes = false,
            Some("--one-file-system") => options.cross_mounts = false,
            Some("--skip") => match arguments.next() {
                Some(path) => options.skip.push(path.into_vec()),
                None => valid = false,
            },
            Some(flag) if flag.starts_with("--") => valid = false,
            _ => roots.push(argument),
        }
    }
    let [source, target] = &roots[..] else {
        return usage();
    };
    if !valid {
        return usage();
    }
    let report = compare(source.as_ref(), target.as_ref(), options);
    let written = writeln!(std::io::stdout().lock(), "{report}");
    if report.is_equal() && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn usage() -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "{USAGE}");
    ExitCode::from(2)
}
