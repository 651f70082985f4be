//! The program itself: ready line, refusals with their exit codes, orderly end.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("tree")).unwrap();
    fs::write(place.path().join("key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    place
}

fn program(place: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_go2cloud-receiver"));
    command
        .args(["--listen", listen, "--secret-file"])
        .arg(place.join("key"));
    command
        .arg("--into")
        .arg(place.join("tree"))
        .arg("--journal")
        .arg(place.join("journal"));
    command.stdout(Stdio::piped());
    command
}

fn start(mut command: Command) -> (Running, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (Running(child), line.trim_end().to_owned())
}

#[test]
fn it_says_where_it_listens_and_ends_on_a_signal() {
    let place = place();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut running, line) = start(program(place.path(), "127.0.0.1:0"));
        let port: u16 = line
            .strip_prefix("listening on 127.0.0.1:")
            .unwrap()
            .parse()
            .unwrap();
        assert_ne!(port, 0);
        kill(Pid::from_raw(running.0.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn json_lines_are_for_programs() {
    let place = place();
    let mut command = program(place.path(), "127.0.0.1:0");
    command.arg("--json");
    let (_running, line) = start(command);
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["event"], "listening");
    assert!(event["address"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn a_port_in_use_is_refused_with_a_remedy() {
    let place = place();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = program(place.path(), &busy.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("port"));
}

#[test]
fn a_missing_directory_is_wrong_usage() {
    let place = place();
    fs::remove_dir(place.path().join("tree")).unwrap();
    let output = program(place.path(), "127.0.0.1:0").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("create it first"));
}
