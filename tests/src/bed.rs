//! A test bed for the data plane: a receiver and runs of `go2cloud sync`, as a user would start them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::control::program;
use crate::disk::run;
use crate::process::{Process, command_in};
use crate::writer::Writer;

/// Folders for both sides and a secret that they share.
#[derive(Debug)]
pub struct Bed {
    folder: tempfile::TempDir,
    /// What is copied; `source` in the bed's folder unless a test says otherwise.
    pub source: PathBuf,
    /// Where it goes; `target` in the bed's folder unless a test says otherwise.
    pub target: PathBuf,
}

/// A receiver that is killed when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    process: Process,
    /// Where it listens.
    pub address: String,
}

impl Receiver {
    /// Starts a receiver with arguments that name its target, and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(listen: &str, secret: &Path, target: &[&OsStr], journal: &Path) -> Self {
        Self::start_in(None, listen, secret, target, journal)
    }

    /// The same in a network namespace, if one is named.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_in(
        namespace: Option<&str>,
        listen: &str,
        secret: &Path,
        target: &[&OsStr],
        journal: &Path,
    ) -> Self {
        let (ready, inside) = std::io::pipe().expect("a pipe");
        let mut command = command_in(namespace, &program("go2cloud-receiver"));
        command
            .args(["--listen", listen, "--json", "--secret-file"])
            .arg(secret)
            .args(target)
            .arg("--journal")
            .arg(journal)
            .stdout(inside)
            .stderr(Stdio::null());
        let process = Process::start(&mut command);
        // The command holds an end of the pipe; with it open, the receiver's end would never be noticed.
        drop(command);
        let mut stdout = BufReader::new(ready);
        let mut line = String::new();
        stdout.read_line(&mut line).expect("its first line");
        // What it says later must not block it.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let ready: Value = serde_json::from_str(&line).expect("its first line is JSON");
        let address = ready["address"].as_str().expect("it says where it listens");
        Self {
            process,
            address: address.to_owned(),
        }
    }

    /// Stops it where it is, as a machine without power is stopped; to be killed then.
    ///
    /// # Panics
    /// It does not run.
    pub fn freeze(&self) {
        self.process.signal(rustix::process::Signal::STOP);
    }

    /// Kills it at once.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code.
    pub code: Option<i32>,
    /// The JSON lines.
    pub events: Vec<Value>,
    /// What it said to people.
    pub stderr: String,
}

impl Run {
    /// The summary.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn summary(&self) -> &Value {
        let last = self.events.iter().rev().find(|event| event["event"] == "summary");
        last.unwrap_or_else(|| panic!("no summary: {self:?}"))
    }

    /// A number of the summary.
    ///
    /// # Panics
    /// There is no such number.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.summary()[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// Fails unless it ended well.
    ///
    /// # Panics
    /// It did not.
    pub fn assert_done(&self) {
        assert!(self.code == Some(0) && self.summary()["ok"] == true, "{self:?}");
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Bed {
    /// Empty folders in the system's temporary folder.
    ///
    /// # Panics
    /// They cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go2cloud-bed-")
            .tempdir_in("/var/tmp")
            .expect("a folder");
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        for path in [&source, &target] {
            std::fs::create_dir(path).expect("a folder in it");
        }
        let bed = Self {
            source,
            target,
            folder,
        };
        bed.write_secret("key");
        bed
    }

    /// A path in the bed's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a new secret file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write_secret(&self, name: &str) {
        let mut bytes = [0u8; 32];
        std::io::Read::read_exact(
            &mut std::fs::File::open("/dev/urandom").expect("random"),
            &mut bytes,
        )
        .expect("bytes");
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(self.path(name), text + "\n").expect("the secret file");
    }

    /// Starts a receiver and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn receiver(&self) -> Receiver {
        self.receiver_at("127.0.0.1:0", &["--into".as_ref(), self.target.as_os_str()])
    }

    /// Starts a receiver at an address with arguments that name its target, and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn receiver_at(&self, address: &str, target: &[&OsStr]) -> Receiver {
        Receiver::start(address, &self.path("key"), target, &self.path("journal"))
    }

    /// `go2cloud sync` of the source to `address`.
    #[must_use]
    pub fn command(&self, address: &str) -> Command {
        let mut command = self.command_without_source(address);
        command.arg(&self.source);
        command
    }

    /// `go2cloud sync` to `address`; what is copied is still to be named.
    #[must_use]
    pub fn command_without_source(&self, address: &str) -> Command {
        let mut command = Command::new(program("go2cloud"));
        command
            .args(["sync", "--json", "--to", address, "--secret-file"])
            .arg(self.path("key"));
        command.arg("--state").arg(self.path("state"));
        command
    }

    /// Runs it to its end with further arguments.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn sync(&self, address: &str, arguments: &[&str]) -> Run {
        finished(
            self.command(address)
                .args(arguments)
                .output()
                .expect("go2cloud starts"),
        )
    }

    /// Starts a run and kills it when `enough` of its events says so. Returns the event.
    ///
    /// # Panics
    /// It ends before.
    pub fn sync_and_kill(
        &self,
        address: &str,
        arguments: &[&str],
        mut enough: impl FnMut(&Value) -> bool,
    ) -> Value {
        let mut command = self.command(address);
        let mut process = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("go2cloud starts");
        let stdout = BufReader::new(process.stdout.take().expect("its output"));
        for line in stdout.lines() {
            let event: Value = serde_json::from_str(&line.expect("its output")).expect("JSON lines");
            if enough(&event) {
                process.kill().expect("it runs");
                process.wait().expect("it ends");
                return event;
            }
        }
        panic!("the run ended before it was killed: {:?}", process.wait());
    }

    /// Runs `go2cloud sync --freeze` with `options` in a root file system of its own, on which the program, the secret, the
    /// state and the output lie, while somebody rewrites `/rewritten`; kernel file systems are those of this host. Returns
    /// the run's summary.
    ///
    /// # Panics
    /// It fails, or it freezes for too long.
    #[must_use]
    pub fn sync_with_root(&self, root: &Path, address: &str, options: &str) -> Value {
        for folder in ["proc", "sys", "dev", "run", "opt/go2cloud"] {
            std::fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        run(Command::new("strip")
            .arg("-o")
            .arg(root.join("opt/go2cloud/go2cloud"))
            .arg(program("go2cloud")));
        std::fs::copy(self.path("key"), root.join("opt/go2cloud/key")).expect("the secret");
        let script = format!(
            "set -e; cd {root}; mount --rbind /proc proc; mount --rbind /sys sys; mount --rbind /dev dev; \
             mount -t tmpfs none run; exec timeout 100 chroot . /opt/go2cloud/go2cloud sync --json --to {address} \
             --secret-file /opt/go2cloud/key --state /state --freeze --freeze-max 20 {options} > {root}/output",
            root = root.display(),
        );
        let writer = Writer::default();
        let output = writer.during(&root.join("rewritten"), 2 << 20, || {
            Command::new("unshare")
                .args(["-m", "--propagation", "slave", "sh", "-c", &script])
                .output()
                .expect("unshare")
        });
        let said = std::fs::read_to_string(root.join("output")).expect("its output");
        assert!(output.status.success(), "{output:?}: {said}");
        let summary = said.lines().last().unwrap_or_default();
        let summary: Value = serde_json::from_str(summary).expect("JSON lines");
        assert_eq!(summary["ok"], true);
        assert!(
            summary["frozen_ms"].as_u64().expect("a number") < 20_000,
            "{said}"
        );
        summary
    }
}

/// Takes a finished process apart.
///
/// # Panics
/// Its output is not JSON lines.
#[must_use]
pub fn finished(output: Output) -> Run {
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let events = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    Run {
        code: output.status.code(),
        events: events.collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Forwards connections to `address` and lets `tamper` have its way with what goes to the target: connection number,
/// bytes that this connection has carried, the piece. `false` cuts the connection.
///
/// # Panics
/// No socket can be had, or the address is none.
pub fn relay(
    address: &str,
    tamper: impl Fn(usize, u64, &mut [u8]) -> bool + Send + Sync + 'static,
) -> String {
    let target: SocketAddr = address.parse().expect("an address");
    relay_to(move || Some(target), tamper)
}

/// The same to wherever `find` says when a connection comes; none is closed at once.
///
/// # Panics
/// No socket can be had.
pub fn relay_to(
    find: impl Fn() -> Option<SocketAddr> + Send + 'static,
    tamper: impl Fn(usize, u64, &mut [u8]) -> bool + Send + Sync + 'static,
) -> String {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    let own = listener.local_addr().expect("its address").to_string();
    let tamper = std::sync::Arc::new(tamper);
    std::thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let Ok(mut near) = connection else { return };
            let Some(target) = find() else { continue };
            let far = std::net::TcpStream::connect_timeout(&target, std::time::Duration::from_secs(5));
            let Ok(mut far) = far else { continue };
            let (mut back_from, mut back_to) = (
                far.try_clone().expect("a handle"),
                near.try_clone().expect("a handle"),
            );
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back_from, &mut back_to);
                let _ = back_to.shutdown(std::net::Shutdown::Both);
            });
            let tamper = std::sync::Arc::clone(&tamper);
            std::thread::spawn(move || {
                let mut buffer = [0u8; 16 * 1024];
                let mut carried = 0;
                while let Ok(count) = std::io::Read::read(&mut near, &mut buffer) {
                    if count == 0
                        || !tamper(number, carried, &mut buffer[..count])
                        || far.write_all(&buffer[..count]).is_err()
                    {
                        break;
                    }
                    carried += count as u64;
                }
                let _ = far.shutdown(std::net::Shutdown::Both);
                let _ = near.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    own
}

/// Sum of the lengths of all regular files below `root`.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn content_len(root: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(root).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its kind");
        if kind.is_dir() {
            sum += content_len(&entry.path());
        } else if kind.is_file() {
            sum += entry.metadata().expect("its status").len();
        }
    }
    sum
}
