//! `go2cloud sync` with `go2cloud-receiver --into`: copies, interruptions, refusals. Every failure ends with a retry and a
//! comparison of every byte.
#![cfg(test)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use go2cloud_tests::bed::{self, Bed};
use go2cloud_tests::compare::{self, Options};
use go2cloud_tests::dice::Dice;
use go2cloud_tests::maketree;
use go2cloud_tests::medium::{Format, Medium};
use go2cloud_tests::process::processor_hogs;

fn assert_equal(bed: &Bed) {
    compare::compare(&bed.source, &bed.target, Options::default()).assert_equal();
}

/// Bytes that do not compress.
fn noise(path: &Path, seed: u64, len: usize) {
    let mut bytes = vec![0; len];
    Dice::new(seed).fill(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Lets the clock go past the margin within which a time proves nothing.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}

#[test]
fn the_second_run_on_an_unchanged_tree_sends_nothing() {
    // File systems of their own: they go with their sealed files, whatever those refuse.
    let media = [(); 2].map(|()| Medium::new(Format::Ext4, 500).unwrap());
    let mut bed = Bed::new();
    bed.source = media[0].path().join("source");
    bed.target = media[1].path().join("target");
    for path in [
        &bed.source,
        &bed.target,
        &bed.source.join("code"),
        &bed.source.join("mixed"),
    ] {
        std::fs::create_dir(path).unwrap();
    }
    maketree::source_code(&bed.source.join("code"), 1, 5_000).unwrap();
    maketree::everything(&bed.source.join("mixed"), 2, 1_000).unwrap();
    noise(&bed.source.join("long"), 3, 20 << 20);
    settle();
    let receiver = bed.receiver();
    bed.sync(&receiver.address, &["--checksum"]).assert_done();
    assert_equal(&bed);
    let again = bed.sync(&receiver.address, &[]);
    again.assert_done();
    assert_eq!(
        (
            again.number("bytes_data"),
            again.number("sent"),
            again.number("deleted")
        ),
        (0, 0, 0),
        "{again:?}"
    );
    assert_equal(&bed);
}

/// 96 MiB that do not compress, in small and long files.
fn interruptible(bed: &Bed) {
    for index in 0..64 {
        noise(&bed.source.join(format!("small{index}")), index, 512 << 10);
    }
    for index in 0..4 {
        noise(&bed.source.join(format!("long{index}")), 100 + index, 16 << 20);
    }
    settle();
}

/// A third of the data is durable.
fn durable_third(event: &serde_json::Value) -> bool {
    event["bytes_durable"]
        .as_u64()
        .is_some_and(|bytes| bytes > 32 << 20)
}

#[test]
fn a_killed_agent_goes_on_and_sends_nothing_twice() {
    let bed = Bed::new();
    interruptible(&bed);
    let receiver = bed.receiver();
    let event = bed.sync_and_kill(&receiver.address, &["--bandwidth-limit", "12000"], durable_third);
    let durable = event["bytes_durable"].as_u64().unwrap();
    let run = bed.sync(&receiver.address, &["--checksum"]);
    run.assert_done();
    assert_equal(&bed);
    let total = bed::content_len(&bed.source);
    let wire = run.number("bytes_wire");
    assert!(
        wire < total - durable + (4 << 20),
        "{wire} bytes sent again, {durable} of {total} were durable"
    );
}

#[test]
fn a_killed_receiver_goes_on_and_is_sent_nothing_twice() {
    let bed = Bed::new();
    interruptible(&bed);
    let receiver = bed.receiver();
    let address = receiver.address.clone();
    let mut receiver = Some(receiver);
    let mut durable = 0;
    let run = {
        use std::io::{BufRead, BufReader};
        let mut command = bed.command(&address);
        command.args(["--bandwidth-limit", "12000", "--no-retry"]);
        let mut process = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if durable_third(&event) && receiver.is_some() {
                durable = event["bytes_durable"].as_u64().unwrap();
                receiver.take().unwrap().kill();
            }
        }
        bed::finished(process.wait_with_output().unwrap())
    };
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("To go on"), "{}", run.stderr);
    assert!(durable > 0);
    let receiver = bed.receiver();
    let run = bed.sync(&receiver.address, &["--checksum"]);
    run.assert_done();
    assert_equal(&bed);
    let total = bed::content_len(&bed.source);
    let wire = run.number("bytes_wire");
    assert!(
        wire < total - durable + (4 << 20),
        "{wire} bytes sent again, {durable} of {total} were durable"
    );
}

/// A run that is killed when the test is done with it.
struct Agent(std::process::Child);

impl Agent {
    /// Starts one, and kills it when it has sent `len` bytes, of which the target gets no more. Whether it lived so long.
    fn killed_after(bed: &Bed, address: &str, len: u64) -> bool {
        let [is_there, is_dead] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let sent = AtomicU64::new(0);
        let (reached, dead) = (Arc::clone(&is_there), Arc::clone(&is_dead));
        let holding = bed::relay(address, move |_, _, piece| {
            let piece_len = piece.len() as u64;
            if sent.fetch_add(piece_len, Ordering::AcqRel) + piece_len < len {
                return true;
            }
            reached.store(true, Ordering::Release);
            while !dead.load(Ordering::Acquire) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            false
        });
        let mut command = bed.command(&holding);
        let null = std::process::Stdio::null;
        let mut agent = Self(command.stdout(null()).stderr(null()).spawn().unwrap());
        let mut is_over = false;
        while !is_over && !is_there.load(Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_millis(1));
            is_over = agent.0.try_wait().unwrap().is_some();
        }
        drop(agent);
        is_dead.store(true, Ordering::Release);
        !is_over
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn agents_killed_in_the_midst_of_renames_lose_nothing() {
    let bed = Bed::new();
    maketree::source_code(&bed.source, 11, 400).unwrap();
    noise(&bed.source.join("long"), 12, 8 << 20);
    settle();
    let receiver = bed.receiver();
    bed.sync(&receiver.address, &[]).assert_done();
    maketree::shuffle(&bed.source, 1, 40).unwrap();
    settle();
    // How much a round of such renames sends.
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let counting = bed::relay(&receiver.address, move |_, _, piece| {
        count.fetch_add(piece.len() as u64, Ordering::AcqRel);
        true
    });
    let run = bed.sync(&counting, &[]);
    run.assert_done();
    assert!(run.number("renamed") > 5, "{run:?}");
    let sent = sent.load(Ordering::Acquire);
    let mut killed = 0;
    // Such rounds differ in what they send: up to half of that each of them reaches.
    for part in 1..=8 {
        maketree::shuffle(&bed.source, 1 + part, 40).unwrap();
        settle();
        killed += u32::from(Agent::killed_after(&bed, &receiver.address, sent * part / 16));
    }
    assert_eq!(killed, 8, "agents were killed on their way");
    let run = bed.sync(&receiver.address, &["--checksum"]);
    run.assert_done();
    assert_equal(&bed);
    let content = bed::content_len(&bed.source);
    assert!(
        run.number("bytes_data") < content / 4,
        "renames that had begun are no new contents: {run:?}"
    );
}

/// A run that is under way, with 96 MiB to send at 1 MB/s.
fn under_way(bed: &Bed, address: &str) -> Agent {
    use std::io::{BufRead, BufReader};
    interruptible(bed);
    let mut command = bed.command(address);
    command.args(["--bandwidth-limit", "1000"]);
    let piped = std::process::Stdio::piped;
    let mut agent = Agent(command.stdout(piped()).spawn().unwrap());
    let mut stdout = BufReader::new(agent.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"round_started\"") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it ended");
    }
    // What it says later must not block it.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    agent
}

/// A run of its own state folder.
fn another_agent(bed: &Bed, address: &str, source: &Path) -> Command {
    let mut command = Command::new(go2cloud_tests::control::program("go2cloud"));
    command.args(["sync", "--json", "--to", address, "--secret-file"]);
    command.arg(bed.path("key")).arg("--state");
    command.arg(bed.path("another state")).arg(source);
    command
}

#[test]
fn a_second_source_at_a_busy_receiver_is_refused_with_a_remedy() {
    let bed = Bed::new();
    let receiver = bed.receiver();
    let mut first = under_way(&bed, &receiver.address);
    let other = bed.path("another source");
    std::fs::create_dir(&other).unwrap();
    noise(&other.join("file"), 1, 1000);
    let mut command = another_agent(&bed, &receiver.address, &other);
    let run = bed::finished(command.args(["--retry", "1"]).output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("another source") && run.stderr.contains("receiver of its own"),
        "{}",
        run.stderr
    );
    let waited = run.events.iter().any(|event| event["event"] == "retrying");
    assert!(!waited, "{run:?}");
    assert!(first.0.try_wait().unwrap().is_none(), "the first one goes on");
    assert!(!bed.target.join("file").exists());
    drop(first);
    bed.sync(&receiver.address, &["--checksum"]).assert_done();
    assert_equal(&bed);
}

#[test]
fn a_target_directory_that_was_replaced_under_a_running_receiver_is_refused_with_a_remedy() {
    let bed = Bed::new();
    noise(&bed.source.join("file"), 1, 1000);
    let receiver = bed.receiver();
    // As when the disk that belongs there is mounted too late.
    std::fs::rename(&bed.target, bed.path("covered")).unwrap();
    std::fs::create_dir(&bed.target).unwrap();
    let run = bed.sync(&receiver.address, &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("start the receiver again"), "{}", run.stderr);
    for folder in ["covered", "target"] {
        assert_eq!(
            std::fs::read_dir(bed.path(folder)).unwrap().count(),
            0,
            "{folder}"
        );
    }
    drop(receiver);
    bed.sync(&bed.receiver().address, &[]).assert_done();
    assert_equal(&bed);
}

#[test]
fn a_source_waits_for_the_end_of_its_own_dead_session() {
    use std::io::{BufRead, BufReader};
    let bed = Bed::new();
    let receiver = bed.receiver();
    // It says nothing any more, and its connections are not cut.
    let first = under_way(&bed, &receiver.address);
    let pid = rustix::process::Pid::from_child(&first.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut command = another_agent(&bed, &receiver.address, &bed.source);
    let mut second = Agent(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
    let stdout = BufReader::new(second.0.stdout.take().unwrap());
    let mut first = Some(first);
    let mut events = Vec::new();
    for line in stdout.lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "retrying" {
            assert!(
                event["error"].to_string().contains("earlier one of this source"),
                "{event}"
            );
            drop(first.take());
        }
        events.push(event);
    }
    assert!(second.0.wait().unwrap().success(), "{events:?}");
    assert!(first.is_none(), "it waited: {events:?}");
    assert_equal(&bed);
}

#[test]
fn a_wrong_secret_is_refused_with_a_remedy() {
    let bed = Bed::new();
    noise(&bed.source.join("file"), 1, 1000);
    let receiver = bed.receiver();
    let right = std::fs::read(bed.path("key")).unwrap();
    bed.write_secret("key");
    let run = bed.sync(&receiver.address, &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("same secret file"), "{}", run.stderr);
    assert_eq!(std::fs::read_dir(&bed.target).unwrap().count(), 0);
    std::fs::write(bed.path("key"), right).unwrap();
    bed.sync(&receiver.address, &[]).assert_done();
    assert_equal(&bed);
}

#[test]
fn a_cut_connection_is_an_error_without_retry_and_healed_with_it() {
    let bed = Bed::new();
    interruptible(&bed);
    let receiver = bed.receiver();
    // Every data connection is cut after 4 MiB, the first time around.
    let cutting = bed::relay(&receiver.address, |number, carried, _| {
        number >= 6 || carried < 4 << 20
    });
    let run = bed.sync(&cutting, &["--no-retry", "--connections", "4"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("To go on"), "{}", run.stderr);
    let cutting = bed::relay(&receiver.address, |number, carried, _| {
        number >= 6 || carried < 4 << 20
    });
    let run = bed.sync(&cutting, &["--connections", "4"]);
    run.assert_done();
    assert!(run.number("resumes") >= 1, "{run:?}");
    assert_equal(&bed);
}

#[test]
fn a_flipped_byte_on_the_wire_is_noticed_and_nothing_of_it_written() {
    let bed = Bed::new();
    interruptible(&bed);
    let receiver = bed.receiver();
    let flipped = AtomicBool::new(false);
    let flipping = bed::relay(&receiver.address, move |_, carried, piece| {
        if carried > 1 << 20 && !flipped.swap(true, Ordering::AcqRel) {
            piece[piece.len() / 2] ^= 0x10;
        }
        true
    });
    let run = bed.sync(&flipping, &["--no-retry"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(!run.stderr.is_empty());
    let run = bed.sync(&flipping, &["--checksum"]);
    run.assert_done();
    assert_equal(&bed);
}

#[test]
fn a_full_target_disk_is_an_error_with_a_remedy_and_goes_on_when_there_is_room() {
    let medium = Medium::new(Format::Ext4, 64).unwrap();
    let mut bed = Bed::new();
    bed.target = medium.path().join("into");
    std::fs::create_dir(&bed.target).unwrap();
    noise(&medium.path().join("ballast"), 9, 24 << 20);
    for index in 0..40 {
        noise(&bed.source.join(format!("f{index}")), index, 1 << 20);
    }
    settle();
    let receiver = bed.receiver();
    let run = bed.sync(&receiver.address, &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("free space"), "{}", run.stderr);
    std::fs::remove_file(medium.path().join("ballast")).unwrap();
    let run = bed.sync(&receiver.address, &["--checksum"]);
    run.assert_done();
    assert_equal(&bed);
    drop(receiver);
}

#[test]
fn a_receipt_tells_what_was_copied_and_verifies() {
    let bed = Bed::new();
    noise(&bed.source.join("file"), 1, 100_000);
    let receiver = bed.receiver();
    let receipt = bed.path("receipt.json");
    let run = bed.sync(
        &receiver.address,
        &["--checksum", "--receipt", receipt.to_str().unwrap()],
    );
    run.assert_done();
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
    let body = &document["receipt"];
    assert_eq!(body["summary"]["verified"], run.summary()["verified"]);
    assert_eq!(body["volumes"][0], bed.source.to_str().unwrap());
    assert_eq!(body["result"], "complete");
    assert_eq!(
        std::fs::read(bed.path("state/receipt-sync.json")).unwrap(),
        std::fs::read(&receipt).unwrap()
    );
    let verify = |path: &Path| {
        let output = Command::new(go2cloud_tests::control::program("go2cloud"))
            .arg("verify")
            .arg(path)
            .output()
            .unwrap();
        output.status.code()
    };
    assert_eq!(verify(&receipt), Some(0));
    let changed = std::fs::read_to_string(&receipt)
        .unwrap()
        .replacen("complete", "c0mplete", 1);
    std::fs::write(&receipt, changed).unwrap();
    assert_eq!(verify(&receipt), Some(1));
    // A failure leaves one, too.
    drop(receiver);
    let run = bed.sync("127.0.0.1:1", &["--no-retry"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let document = std::fs::read(bed.path("state/receipt-sync.json")).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["receipt"]["result"], "failed");
    assert_equal(&bed);
}

#[test]
fn a_receiver_that_is_away_is_waited_for() {
    let bed = Bed::new();
    noise(&bed.source.join("file"), 1, 100_000);
    let address = std::net::TcpListener::bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let run = bed.sync(&address.to_string(), &["--retry", "2"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let attempts: Vec<_> = run
        .events
        .iter()
        .filter(|event| event["event"] == "retrying")
        .map(|event| event["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 2]);
    let mut command = bed.command(&address.to_string());
    let waiting = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let into = ["--into".as_ref(), bed.target.as_os_str()];
    let _receiver = bed.receiver_at(&address.to_string(), &into);
    let run = bed::finished(waiting.wait_with_output().unwrap());
    run.assert_done();
    assert!(run.number("resumes") >= 2, "{run:?}");
    assert_equal(&bed);
}

#[test]
fn reading_gives_way_to_others_that_wait_for_processors() {
    let bed = Bed::new();
    for index in 0..100 {
        noise(&bed.source.join(format!("f{index}")), index, 256 << 10);
    }
    let receiver = bed.receiver();
    let _hogs = processor_hogs();
    // PSI needs some seconds of reading to be looked at.
    let run = bed.sync(&receiver.address, &["--bandwidth-limit", "5000"]);
    run.assert_done();
    let paused = |run: &bed::Run| run.summary()["backed_off"]["cpu_seconds"].as_f64().unwrap();
    assert!(paused(&run) > 0.3, "{run:?}");
    std::fs::remove_dir_all(bed.path("journal")).unwrap();
    drop(receiver);
    let receiver = bed.receiver();
    let run = bed.sync(
        &receiver.address,
        &["--bandwidth-limit", "10000", "--no-back-off"],
    );
    run.assert_done();
    assert_eq!(paused(&run), 0.0, "{run:?}");
    assert_equal(&bed);
}

#[test]
fn missing_directories_are_usage_errors_on_both_sides() {
    let mut bed = Bed::new();
    let receiver = bed.receiver();
    bed.source = bed.path("not there");
    let run = bed.sync(&receiver.address, &[]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("not there"), "{}", run.stderr);
    let output = Command::new(go2cloud_tests::control::program("go2cloud-receiver"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--into",
            "/no/such/directory",
            "--secret-file",
        ])
        .arg(bed.path("key"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/directory"));
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_copied() {
    let bed = Bed::new();
    noise(&bed.source.join("readable"), 1, 5000);
    noise(&bed.source.join("secret"), 2, 5000);
    std::fs::set_permissions(bed.source.join("secret"), std::fs::Permissions::from_mode(0o000)).unwrap();
    settle();
    let receiver = bed.receiver();
    // Root reads everything; another user does not.
    std::fs::create_dir(bed.path("state")).unwrap();
    for path in ["", "source", "state", "key"] {
        std::os::unix::fs::chown(bed.path(path), Some(65534), Some(65534)).unwrap();
    }
    let program = go2cloud_tests::control::program("go2cloud");
    let copy = bed.path("go2cloud");
    std::fs::copy(program, &copy).unwrap();
    let plain = bed.command(&receiver.address);
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(plain.get_args())
        .output()
        .unwrap();
    let run = bed::finished(output);
    assert_eq!(run.code, Some(23), "{run:?}");
    assert!(
        run.summary()["skipped"].to_string().contains("\"secret\""),
        "{run:?}"
    );
    assert!(bed.target.join("readable").exists());
    assert!(
        !bed.target.join("secret").exists(),
        "nothing half-written is taken for done"
    );
    bed.sync(&receiver.address, &["--checksum"]).assert_done();
    assert_equal(&bed);
}

#[test]
fn the_programs_run_in_an_empty_root_directory() {
    let root = tempfile::tempdir().unwrap();
    for name in ["go2cloud", "go2cloud-receiver", "go2cloud-control"] {
        let inside = root.path().join(name);
        std::fs::copy(go2cloud_tests::control::program(name), &inside).unwrap();
        let output = Command::new("chroot")
            .arg(root.path())
            .arg(format!("/{name}"))
            .arg("--version")
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")),
            "{name}: {output:?}"
        );
    }
}
