//! How long tasks of this machine have been waiting for processors, memory and disks (PSI, `/proc/pressure`).

use std::io;
use std::time::Duration;

/// Time in which at least one task waited, since the machine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// For a processor.
    pub cpu: Duration,
    /// For memory to be reclaimed or to come back from the disk.
    pub memory: Duration,
    /// For a disk.
    pub io: Duration,
}

impl Stalls {
    /// As of now; `None` where the kernel does not tell (before 4.20, or switched off).
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn now() -> io::Result<Option<Self>> {
        let read = |name: &str| match std::fs::read_to_string(format!("/proc/pressure/{name}")) {
            Ok(text) => Ok(total(&text)),
            // EOPNOTSUPP: built in, but not switched on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        };
        let (cpu, memory, io) = (read("cpu")?, read("memory")?, read("io")?);
        Ok(cpu
            .zip(memory)
            .zip(io)
            .map(|((cpu, memory), io)| Self { cpu, memory, io }))
    }
}

/// The total of the line `some`, in µs in the file.
fn total(text: &str) -> Option<Duration> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let total = line.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text = "some avg10=1.00 avg60=2.00 avg300=3.00 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        assert_eq!(total(text), Some(Duration::from_micros(1_234_567)));
        assert_eq!(total("garbage"), None);
        if let Some(first) = Stalls::now().unwrap() {
            let then = Stalls::now().unwrap().unwrap();
            assert!(then.cpu >= first.cpu && then.io >= first.io && then.memory >= first.memory);
        }
    }
}
