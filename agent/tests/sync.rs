//! `go2cloud sync` as a program, against a real receiver in this process.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use transfer::progress::{Silent, StopFlag};
use transfer::secret::Secret;
use transfer::target::{Receiver, ServePlan, TargetVolume};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A receiver, a source tree, and what `sync` needs to go from one to the other.
struct Bench {
    folder: tempfile::TempDir,
    address: String,
    stop: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["source/deep/er", "target", "journal"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for number in 0..200u32 {
            let path = folder.path().join(format!("source/deep/file {number}"));
            fs::write(path, noise(number, 3000)).unwrap();
        }
        fs::write(folder.path().join("source/deep/er/big"), noise(7, 4_000_000)).unwrap();
        std::os::unix::fs::symlink("deep/er/big", folder.path().join("source/link")).unwrap();
        fs::write(folder.path().join("key"), SECRET).unwrap();
        let receiver = Receiver::bind(ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: Secret::parse(SECRET.as_bytes()).unwrap(),
            volume: TargetVolume::Tree {
                root: folder.path().join("target"),
            },
            journal: folder.path().join("journal"),
        })
        .unwrap();
        let address = receiver.local_addr().to_string();
        let stop = Arc::new(StopFlag::default());
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || receiver.run(&Silent, &stop).unwrap())
        };
        Self {
            folder,
            address,
            stop,
            thread: Some(thread),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_go2cloud"));
        command
            .args(["sync", "-to", &self.address, "--secret-file"])
            .arg(self.path("key"))
            .arg("--state")
            .arg(self.path("state"))
            .args(flags)
            .stdin(Stdio::null());
        command
    }

    fn sync(&self, flags: &[&str]) -> Output {
        self.command(flags).arg(self.path("source")).output().unwrap()
    }

    fn assert_equal(&self) {
        assert_eq!(list(&self.path("source")), list(&self.path("target")));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes that do not compress, different for each seed.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Every entry below `root`: path, mode, mtime in ns, content or link target.
fn list(root: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let mut entries: Vec<_> = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            let content = if metadata.is_file() {
                fs::read(entry.path()).unwrap()
            } else if metadata.is_symlink() {
                fs::read_link(entry.path())
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                Vec::new()
            };
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            (
                path,
                metadata.mode(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                content,
            )
        })
        .collect();
    entries.sort();
    entries
}

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_tree_arrives_and_the_second_run_sends_no_data() {
    let bench = Bench::new();
    let receipt = bench.path("receipt");
    let wanted = format!("--receipt={}", receipt.display());
    let output = bench.sync(&["--json", "--checksum", &wanted]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = events(&output);
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["ok"], true);
    assert!(summary["bytes_data"].as_u64().unwrap() > 4_000_000);
    assert_eq!(summary["verified"]["repaired"], 0);
    assert!(lines.iter().any(|line| line["event"] == "connected"));
    bench.assert_equal();
    for receipt in [receipt, bench.path("state/receipt-sync.json")] {
        let verify = Command::new(env!("CARGO_BIN_EXE_go2cloud"))
            .arg("verify")
            .arg(&receipt)
            .output()
            .unwrap();
        assert_eq!(verify.status.code(), Some(0), "{verify:?}");
        let said = String::from_utf8_lossy(&verify.stdout).into_owned();
        let root = summary["verified"]["root"].as_str().unwrap();
        assert!(
            said.contains("Signed by the target") && said.contains(root),
            "{said}"
        );
    }
    let output = bench.sync(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(events(&output).last().unwrap()["bytes_data"], 0);
    fs::write(bench.path("source/new"), "new").unwrap();
    fs::remove_file(bench.path("source/deep/file 5")).unwrap();
    let output = bench.sync(&["--until-clean"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    bench.assert_equal();
}

#[test]
fn people_get_sentences_and_a_quiet_run_says_nothing() {
    let bench = Bench::new();
    let output = bench.sync(&["--quiet"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let output = bench.sync(&[]);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("entries with"),
        "{output:?}"
    );
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("round 1"),
        "{output:?}"
    );
}

#[test]
fn a_wrong_secret_and_a_missing_directory_are_refused() {
    let bench = Bench::new();
    let output = bench.command(&["/nonexistent/source"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("/nonexistent/source"),
        "{output:?}"
    );
    fs::write(bench.path("key"), "ffffffffffffffffffffffffffffffff").unwrap();
    let output = bench.sync(&["--json", "--no-retry"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let summary = events(&output).pop().unwrap();
    assert_eq!(
        (&summary["event"], &summary["ok"]),
        (&"summary".into(), &false.into())
    );
    assert!(summary["error"].as_str().unwrap().contains("secret"), "{summary}");
    assert_eq!(list(&bench.path("target")), []);
}

#[test]
fn an_unreachable_target_is_a_failure_with_a_remedy() {
    let mut bench = Bench::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.address = closed.to_string();
    let output = bench.sync(&["--no-retry"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        shown.contains("To go on: ") && shown.contains(" sync -to "),
        "{shown}"
    );
}

#[test]
fn an_interrupted_run_says_how_to_resume_and_resumes() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["--bandwidth-limit=400", "--json"])
        .arg(bench.path("source"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while list(&bench.path("target")).len() < 10 {
        assert!(Instant::now() < end, "nothing arrived");
        std::thread::sleep(Duration::from_millis(50));
    }
    let process = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(child.try_wait().unwrap().is_none() || Instant::now() < end);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("To resume: "),
        "{output:?}"
    );
    let output = bench.sync(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    bench.assert_equal();
    let summary = events(&output).pop().unwrap();
    let total = 4_000_000 + 200 * 3000;
    assert!(
        summary["bytes_data"].as_u64().unwrap() < total,
        "what was durable is not sent again: {summary}"
    );
}

/// A relay to `target` that counts what goes there.
fn counted(target: &str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, count): (SocketAddr, _) = (target.parse().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for source in listener.incoming().flatten() {
            let there = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
            let ways = [
                (source.try_clone().unwrap(), there.try_clone().unwrap(), true),
                (there, source, false),
            ];
            for (mut from, mut to, counts) in ways {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 16 * 1024];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                        if counts {
                            counter.fetch_add(count as u64, Ordering::Relaxed);
                        }
                    }
                    // The other side may have closed it first.
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, count)
}

/// KB/s through the relay for some time.
fn rate(count: &AtomicU64) -> u64 {
    let before = count.load(Ordering::Relaxed);
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let bytes = count.load(Ordering::Relaxed) - before;
    (bytes as f64 / 1024.0 / began.elapsed().as_secs_f64()) as u64
}

#[test]
fn the_bandwidth_changes_while_it_runs_within_a_second() {
    let mut bench = Bench::new();
    fs::write(bench.path("source/large"), noise(9, 60_000_000)).unwrap();
    let (address, count) = counted(&bench.address);
    bench.address = address;
    let child = bench
        .command(&["--bandwidth-limit=500", "--quiet"])
        .arg(bench.path("source"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while count.load(Ordering::Relaxed) < 500_000 {
        assert!(Instant::now() < end, "nothing goes");
        std::thread::sleep(Duration::from_millis(50));
    }
    let slow = rate(&count);
    let set = |limit: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_go2cloud"))
            .args(["bandwidth", limit, "--state"])
            .arg(bench.path("state"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&format!("{limit} KB/s")), "{said}");
        // What the kernel holds already goes first.
        std::thread::sleep(Duration::from_secs(1));
        rate(&count)
    };
    let (fast, slow_again) = (set("3000"), set("250"));
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    child.wait_with_output().unwrap();
    assert!((300..700).contains(&slow), "{slow} KB/s at 500");
    assert!((1500..3600).contains(&fast), "{fast} KB/s at 3000");
    assert!((100..500).contains(&slow_again), "{slow_again} KB/s at 250");
}
