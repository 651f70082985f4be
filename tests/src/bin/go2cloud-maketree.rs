//! `go2cloud-maketree everything|source-code|mutate ROOT SEED COUNT`: random trees for tests and benchmarks.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use go2cloud_tests::maketree::{everything, mutate, source_code};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, root, seed, count] = &arguments[..] else {
        return usage();
    };
    let (Ok(seed), Ok(count)) = (seed.parse(), count.parse()) else {
        return usage();
    };
    match make(kind, Path::new(root), seed, count) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => usage(),
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "cannot make the tree {root}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(kind: &str, root: &Path, seed: u64, count: u64) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match kind {
        "everything" => {
            for refused in everything(root, seed, count)? {
                writeln!(out, "not supported here: {refused}")?;
            }
        }
        "source-code" => source_code(root, seed, count)?,
        "mutate" => {
            for mutation in mutate(root, seed, usize::try_from(count).unwrap_or(usize::MAX))? {
                writeln!(out, "{mutation}")?;
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn usage() -> ExitCode {
    let _ = writeln!(
        io::stderr().lock(),
        "usage: go2cloud-maketree everything|source-code|mutate ROOT SEED COUNT"
    );
    ExitCode::from(2)
}
