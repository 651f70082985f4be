use std::ffi::OsString;

use super::*;
use crate::cli::{self, Command, Parsed};

fn check(args: &SyncArgs) -> Result<Plan, Refusals> {
    Plan::check(args, Refusals::default())
}

fn args(line: &[&str]) -> SyncArgs {
    let words = ["go2cloud", "sync"].iter().chain(line).map(OsString::from);
    match cli::parse(words) {
        Parsed::Run(command, _) => match *command {
            Command::Sync(args) => *args,
            other => panic!("{line:?} gave {other:?}"),
        },
        other => panic!("{line:?} gave {other:?}"),
    }
}

fn secret(folder: &Path) -> String {
    let path = folder.join("s.key");
    std::fs::write(&path, "0123456789abcdef0123456789abcdef\nsecond line\n").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_full_command_line_becomes_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let key = secret(folder.path());
    let data = folder.path().join("data");
    let state = folder.path().join("state");
    let rules = folder.path().join("rules");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&rules, b"*.tmp\n/caf\xe9/*\n").unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let plan = check(&args(&[
        "-to",
        "127.0.0.1:8443",
        "--to=[::1]:8444",
        "-secret-file",
        &key,
        "--exclude-from",
        &text(&rules),
        "--exclude=-minus",
        "--bandwidth-limit",
        "2048",
        "--checksum",
        "--compress=7",
        "--connections",
        "3",
        "--state",
        &text(&state),
        "--rounds=2",
        "--retry=0",
        "--json",
        &text(&data),
    ]))
    .unwrap();
    assert_eq!(plan.sync.target.len(), 2);
    assert_eq!(plan.sync.throttle.limit(), 2048 * 1024);
    assert_eq!(plan.sync.compression, Compression::Level(7));
    assert_eq!(plan.sync.connections, 3);
    assert_eq!(plan.sync.rounds, Rounds::Count(2));
    assert_eq!(plan.sync.retry, Retry::Never);
    assert!(plan.sync.verify);
    assert_eq!(plan.style, Style::Json);
    let SourceVolume::Tree(tree) = plan.sync.volume else {
        panic!("a tree was asked for")
    };
    assert_eq!(tree.root, data.canonicalize().unwrap());
    assert_eq!(tree.excludes, [&b"*.tmp"[..], b"/caf\xe9/*", b"-minus"]);
    assert_eq!(tree.never, [state]);
}

#[test]
fn everything_wrong_is_refused_at_once() {
    let refusals = check(&args(&[
        "--to=host:0",
        "--bandwidth-limit=-1",
        "--compress=20",
        "--connections=17",
        "--rounds=0",
        "--until-clean",
        "--retry=x",
        "--no-retry",
        "--json",
        "--quiet",
        "--exclude-from=/nonexistent/rules",
        "/nonexistent/data",
    ]))
    .err()
    .unwrap();
    let refusals = refusals.as_slice();
    for part in [
        "port must be",
        "--secret-file` is missing",
        "/nonexistent/data",
        "--bandwidth-limit -1",
        "--compress 20",
        "--connections 17",
        "--rounds 0",
        "--rounds` and `--until-clean",
        "--retry x",
        "--retry` and `--no-retry",
        "--json` and `--quiet",
        "/nonexistent/rules",
    ] {
        assert!(
            refusals.iter().any(|refusal| refusal.contains(part)),
            "{part} in {refusals:#?}"
        );
    }
    assert_eq!(refusals.len(), 12);
}

#[test]
fn the_state_may_not_hold_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let key = secret(folder.path());
    let root = folder.path().to_str().unwrap();
    let refusals = check(&args(&["--to=::1", "--secret-file", &key, "--state", root, root]));
    assert!(refusals.err().unwrap().as_slice()[0].contains("lies in it"));
}

#[test]
fn each_volume_has_its_own_state() {
    let key = |to: &str, root: &str| volume_key(&[to.to_owned()], &[Path::new(root)]);
    assert_eq!(key("a:443", "/srv"), key("a:443", "/srv"));
    assert_ne!(key("a:443", "/srv"), key("b:443", "/srv"));
    assert_ne!(key("a:443", "/srv"), key("a:443", "/src"));
}

#[test]
fn commands_are_quoted_for_the_shell() {
    assert_eq!(quoted(OsStr::new("/srv/data")), "/srv/data");
    assert_eq!(quoted(OsStr::new("it's *")), r"'it'\''s *'");
    assert_eq!(quoted(OsStr::new("")), "''");
}
