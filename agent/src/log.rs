//! The log file in the folder `logs` beside the program: three levels, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use crate::folder;
use crate::migrate::plan::Run;

/// Size at which a log file is put aside, in bytes.
const SIZE_MAX: u64 = 10 << 20;
/// Files put aside: `log.1` is the youngest.
const KEPT: u32 = 5;

/// Starts logging to the file that `run` names.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn start(program_folder: &Path, run: &Run) -> io::Result<()> {
    let folder = folder::logs(program_folder);
    fs::create_dir_all(&folder)?;
    let file = Rotated::open(folder.join(&run.log_file), SIZE_MAX)?;
    let level = match run.log_level {
        1 => "error",
        2 => "info",
        _ => "debug",
    };
    // Libraries below speak up only when something is wrong.
    let ours = ["agent", "csm", "transfer", "sys"].map(|name| format!("{name}={level}"));
    let others = if level == "error" { "error" } else { "warn" };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{others},{}", ours.join(","))))
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(file))
        .finish();
    // Only the first start of a process counts; a second one is a test's.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// A file that is put aside when it has grown.
struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: u64,
}

impl Rotated {
    fn open(path: PathBuf, size_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            size,
            size_max,
        })
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match fs::rename(self.aside(number), self.aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.aside(1))?;
        *self = Self::open(self.path.clone(), self.size_max)?;
        Ok(())
    }
}

impl Write for Rotated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.size_max {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Rotated::open(path.clone(), 10).unwrap();
        for number in 0..9 {
            writeln!(log, "line {number}").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\n");
        assert_eq!(
            fs::read_to_string(folder.path().join("log.1")).unwrap(),
            "line 7\n"
        );
        assert_eq!(
            fs::read_to_string(folder.path().join("log.5")).unwrap(),
            "line 3\n"
        );
        assert!(!folder.path().join("log.6").exists());
        drop(log);
        let mut log = Rotated::open(path.clone(), 100).unwrap();
        writeln!(log, "more").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\nmore\n");
    }
}
