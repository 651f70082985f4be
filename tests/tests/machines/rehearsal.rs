//! A mounted disk with a system, whose copy is started for a check while the rounds go on: agent and receiver alone.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use go2cloud_tests::bed::{Bed, finished};

use super::image::{Image, file_system_uuid, run};
use super::system::System;

/// Appends durable lines until told to stop. Returns how many.
fn write_lines(ledger: &Path, stop: &AtomicBool) -> usize {
    let mut file = fs::File::create(ledger).unwrap();
    let mut lines = 0;
    while !stop.load(Ordering::Acquire) {
        writeln!(file, "line {lines}").unwrap();
        file.sync_data().unwrap();
        lines += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    lines
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap().lines().count()
}

#[test]
fn a_copy_is_started_for_a_check_while_rounds_go_on() {
    let image = Image::new(1500, "label: dos\nstart=2048,type=83,bootable\n");
    let attached = image.attach();
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    run("mkfs.ext4", &["-q", "-E", options, &attached.partition(1)]);
    let uuid = file_system_uuid(&attached.partition(1));
    drop(attached);
    let bed = Bed::new();
    let (target, mark) = (bed.path("target.img"), bed.path("mark"));
    let (summary, written) = image.mounted(&[(1, "/", "rw")], |root| {
        let tree = format!("{}/.", System::Debian.unpacked().display());
        run("cp", &["-a", &tree, root.to_str().unwrap()]);
        fs::write(
            root.join("etc/fstab"),
            format!("UUID={uuid} / ext4 defaults 0 1\n"),
        )
        .unwrap();
        fs::create_dir_all(root.join("boot/grub")).unwrap();
        run("sync", &["-f", root.to_str().unwrap()]);
        let (ledger, stop) = (root.join("ledger"), AtomicBool::new(false));
        let arguments = ["--into-disk".as_ref(), target.as_os_str()];
        let receiver = bed.receiver_at("127.0.0.1:0", &arguments);
        let disk = image.loops();
        let device = disk.split(':').next().unwrap();
        let at_hand_over = format!("cp '{}' '{}'", ledger.display(), mark.display());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_lines(&ledger, &stop));
            let mut command = bed.command_without_source(&receiver.address);
            command.args(["--disk", device, "--freeze", "--checksum", "--boot-check", "stop"]);
            let output = command.arg("--pre-freeze").arg(at_hand_over).output();
            stop.store(true, Ordering::Release);
            let written = writer.join().unwrap();
            let ended = finished(output.unwrap());
            ended.assert_done();
            (ended.summary().clone(), written)
        })
    });
    let check = &summary["boot_check"];
    assert!(check["ok"] == true && check["converted"] == true, "{summary:#}");
    // One round each ten seconds beside those that any cutover takes.
    let seconds = check["seconds"].as_u64().unwrap();
    let rounds = summary["rounds"].as_u64().unwrap();
    assert!(seconds >= 10 && rounds >= 6 + seconds / 20, "{summary:#}");
    let copy = Image {
        folder: tempfile::tempdir().unwrap(),
        path: target.clone(),
    };
    let arrived = copy.mounted(&[(1, "/", "ro")], |root| lines(&root.join("ledger")));
    assert!(
        (lines(&mark)..=written).contains(&arrived),
        "{arrived} lines arrived of {written}, {} of them durable before the freeze",
        lines(&mark)
    );
}
