//! The demo as a user starts it: all three programs, one command, real data.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use go2cloud_tests::bed::Bed;
use go2cloud_tests::compare::{self, Options};
use go2cloud_tests::control::program;
use go2cloud_tests::dice::Dice;
use go2cloud_tests::maketree;
use go2cloud_tests::medium::{Format, Medium};

/// The folder that the demo names as its result.
fn result_of(stderr: &str) -> PathBuf {
    let line = stderr.lines().find_map(|line| line.strip_prefix("result "));
    PathBuf::from(
        line.unwrap_or_else(|| panic!("no result is named:\n{stderr}"))
            .trim(),
    )
}

fn noise(path: &Path, seed: u64, len: usize) {
    let mut bytes = vec![0; len];
    Dice::new(seed).fill(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_demo_copies_a_large_tree_and_every_entry_is_equal() {
    // File systems of their own: they go with their sealed files, whatever those refuse.
    let media = [(); 2].map(|()| Medium::new(Format::Ext4, 3000).unwrap());
    let source = media[0].path().join("source");
    for name in ["", "code", "mixed", "long"] {
        std::fs::create_dir(source.join(name)).unwrap();
    }
    maketree::source_code(&source.join("code"), 1, 48_000).unwrap();
    maketree::everything(&source.join("mixed"), 2, 3_000).unwrap();
    for index in 0..8 {
        noise(&source.join(format!("long/{index}")), index, 100 << 20);
    }
    let output = Command::new(program("demo"))
        .arg(&source)
        .arg("--work")
        .arg(media[1].path().join("work"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("Import source server successfully")
            || String::from_utf8_lossy(&output.stdout).contains("Import source server successfully"),
        "{stderr}"
    );
    assert!(stderr.contains("SUCCESS"), "{stderr}");
    let report = compare::compare(&source, &result_of(&stderr), Options::default());
    report.assert_equal();
    assert!(report.entries >= 50_000, "{} entries", report.entries);
    assert!(report.bytes >= 1 << 30, "{} bytes", report.bytes);
}

/// Processes whose command line names `folder`.
fn processes_of(folder: &Path) -> usize {
    let name = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(&name))
        .count()
}

#[test]
fn an_interrupted_demo_cleans_up_and_goes_on() {
    let bed = Bed::new();
    for index in 0..200 {
        noise(&bed.source.join(format!("f{index}")), index, 256 << 10);
    }
    let work = bed.path("work");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(program("demo"));
        command
            .arg(&bed.source)
            .arg("--work")
            .arg(&work)
            .args(arguments)
            .stdout(Stdio::null());
        command
    };
    let mut demo = command(&["--bandwidth-limit", "4000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(demo.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("round 1") {
        assert!(stderr.read_line(&mut text).unwrap() > 0, "{text}");
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let id = nix::unistd::Pid::from_raw(demo.id() as i32);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("To go on: demo"), "{text}");
    assert_eq!(processes_of(&work), 0, "programs are left:\n{text}");

    let output = command(&[]).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("taking up the interrupted migration"), "{stderr}");
    compare::compare(&bed.source, &result_of(&stderr), Options::default()).assert_equal();
}
