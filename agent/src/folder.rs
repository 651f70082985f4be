//! The folder in which the program and its configuration files lie.

use std::path::{Path, PathBuf};

/// A file that makes a folder the tool's own: without it, the program was installed among others, as in `/usr/bin`.
const MARK: &str = "client.json";

/// The folder of the running program.
pub fn of_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    program.parent()?.canonicalize().ok()
}

/// The tool's own folder, which is never migrated; `None` when the program lies in a folder that is not only its own.
pub fn own() -> Option<PathBuf> {
    of_program().filter(|folder| folder.join(MARK).is_file())
}

/// Folders that belong to everybody: nothing is written beside a program in one of them.
const SHARED: [&str; 6] = [
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
];

/// The folder of the log files: `logs` beside the program, or the system's place when it was installed among others.
pub fn logs(program_folder: &Path) -> PathBuf {
    if SHARED.iter().any(|shared| program_folder == Path::new(shared)) {
        PathBuf::from("/var/log/go2cloud")
    } else {
        program_folder.join("logs")
    }
}
