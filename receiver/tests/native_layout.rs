//! Inventory and layout on loop devices: the new disk has the identity and the features of the old one, and nothing
//! that is in use or carries something is touched. Takes root and loop devices.

#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

#[path = "native_conversion/image.rs"]
#[expect(dead_code, reason = "this test needs no guest")]
mod image;

use std::fs;
use std::process::{Command, Output};

use image::{Attached, Image, run};

const TABLE: &str = "label: gpt\nlabel-id: 11111111-2222-4333-8444-555555555555\n\
    size=1M,type=21686148-6449-6E6F-744E-656564454649\n\
    size=64M,type=U,name=\"EFI system\"\n\
    size=200M,type=L,uuid=99999999-2222-4333-8444-555555555555,attrs=\"LegacyBIOSBootable\"\n\
    size=400M,type=L\nsize=64M,type=S\nsize=256M,type=L\n";

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_go2cloud-receiver"))
        .args(arguments)
        .output()
        .unwrap()
}

fn source() -> Image {
    let image = Image::new(1200, TABLE);
    let disk = image.attach();
    run(
        "mkfs.vfat",
        &["-F", "32", "-s", "1", "-n", "ESP", &disk.partition(2)],
    );
    run(
        "mkfs.ext4",
        &[
            "-q",
            "-L",
            "boot",
            "-I",
            "128",
            "-O",
            "^metadata_csum,^64bit",
            &disk.partition(3),
        ],
    );
    run(
        "mkfs.xfs",
        &[
            "-q",
            "-L",
            "root",
            "-m",
            "reflink=0,bigtime=0",
            &disk.partition(4),
        ],
    );
    run("mkswap", &["-L", "swap", &disk.partition(5)]);
    run("mkfs.btrfs", &["-q", "-L", "data", &disk.partition(6)]);
    image
}

/// What identifies the volumes of a disk.
fn identity(disk: &Attached) -> Vec<String> {
    let probe = |number: u32| {
        let text = run("blkid", &["-p", "-o", "export", &disk.partition(number)]);
        let wanted = [
            "TYPE=",
            "UUID=",
            "LABEL=",
            "PART_ENTRY_UUID=",
            "PART_ENTRY_TYPE=",
            "PART_ENTRY_NAME=",
            "PART_ENTRY_OFFSET=",
            "PART_ENTRY_FLAGS=",
        ];
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| wanted.iter().any(|key| line.starts_with(key)))
            .collect();
        lines.join(" ")
    };
    let mut found: Vec<String> = (1..=6).map(probe).collect();
    found.push(run("sh", &["-c", &format!("sfdisk --disk-id {}", disk.device)]));
    let ext = run(
        "sh",
        &[
            "-c",
            &format!(
                "dumpe2fs -h {} 2>/dev/null | grep -E 'features|Inode size|Block size'",
                disk.partition(3)
            ),
        ],
    );
    let xfs = run(
        "sh",
        &[
            "-c",
            &format!(
                "xfs_info {} | grep -oE '(crc|reflink|bigtime|finobt|sparse|rmapbt|ftype|isize)=[0-9]+'",
                disk.partition(4)
            ),
        ],
    );
    found.extend([ext, xfs]);
    found
}

#[test]
fn the_new_disk_is_what_the_old_one_was() {
    let old = source();
    let disk = old.attach();
    let inventory = program(&["inventory", "--disk", &disk.device]);
    assert!(
        inventory.status.success(),
        "{}",
        String::from_utf8_lossy(&inventory.stderr)
    );
    let wanted = identity(&disk);
    // Two file systems of one UUID cannot be on one machine: the old disk is not there any more.
    drop(disk);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inventory.json");
    fs::write(&file, &inventory.stdout).unwrap();
    let file = file.to_str().unwrap();

    let new = Image::new(1500, "label: dos\nsize=10M,type=83\n");
    let target = new.attach();
    let refused = program(&["layout", "--inventory", file, "--disk", &target.device]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("--overwrite"),
        "a disk that carries something"
    );

    let done = program(&[
        "layout",
        "--inventory",
        file,
        "--disk",
        &target.device,
        "--overwrite",
    ]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(identity(&target), wanted);

    let place = folder.path().join("mounted");
    fs::create_dir(&place).unwrap();
    run("mount", &[&target.partition(4), place.to_str().unwrap()]);
    let refused = program(&[
        "layout",
        "--inventory",
        file,
        "--disk",
        &target.device,
        "--overwrite",
    ]);
    run("umount", &[place.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("mounted at"));
    assert_eq!(identity(&target), wanted, "a refused layout changes nothing");
}

#[test]
fn a_smaller_disk_is_taken_when_the_data_fit() {
    let old = source();
    let disk = old.attach();
    let inventory = program(&["inventory", "--disk", &disk.device]);
    drop(disk);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inventory.json");
    // The volumes of this test are smaller than the margin that is kept: as if they were ten times as large.
    let mut value: serde_json::Value = serde_json::from_slice(&inventory.stdout).unwrap();
    for volume in value["volumes"].as_array_mut().unwrap() {
        if volume["kind"] == "xfs" {
            volume["len"] = (10u64 << 30).into();
            volume["used"] = (1u64 << 20).into();
        }
    }
    let partition = &mut value["disks"][0]["table"]["partitions"][3];
    partition["size"] = ((10u64 << 30) / 512).into();
    value["disks"][0]["len"] = (11u64 << 30).into();
    for number in [4, 5] {
        let start = value["disks"][0]["table"]["partitions"][number]["start"]
            .as_u64()
            .unwrap();
        value["disks"][0]["table"]["partitions"][number]["start"] = (start + (9600u64 << 11)).into();
    }
    fs::write(&file, serde_json::to_vec(&value).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let new = Image::new(2000, "label: gpt\n");
    let target = new.attach();
    let refused = program(&[
        "layout",
        "--inventory",
        file,
        "--disk",
        &target.device,
        "--overwrite",
    ]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--minify"));
    let done = program(&[
        "layout",
        "--inventory",
        file,
        "--disk",
        &target.device,
        "--overwrite",
        "--minify",
    ]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let names: Vec<String> = (2..=6)
        .map(|number| {
            run(
                "blkid",
                &["-p", "-s", "LABEL", "-o", "value", &target.partition(number)],
            )
        })
        .collect();
    assert_eq!(names, ["ESP", "boot", "root", "swap", "data"]);
    let len: u64 = run("blockdev", &["--getsize64", &target.partition(4)])
        .parse()
        .unwrap();
    assert!(len > 1 << 30 && len < 2000 << 20, "{len}");
}

#[test]
fn a_copied_disk_grows_into_a_larger_one() {
    for (label, kind) in [("gpt", "ext4"), ("dos", "xfs")] {
        let image = Image::new(
            400,
            &format!(
                "label: {label}\nsize=50M\ntype={}\n",
                if label == "gpt" { "L" } else { "83" }
            ),
        );
        let disk = image.attach();
        run(&format!("mkfs.{kind}"), &["-q", &disk.partition(2)]);
        drop(disk);
        image.mounted(&[(2, "/", "rw")], |root| {
            fs::write(root.join("file"), "content").unwrap();
        });
        // As a disk that was copied to a larger one: its table knows nothing of the rest.
        fs::File::options()
            .write(true)
            .open(&image.path)
            .unwrap()
            .set_len(900 << 20)
            .unwrap();
        let disk = image.attach();
        let size = |disk: &Attached| -> u64 {
            run("blockdev", &["--getsize64", &disk.partition(2)])
                .parse()
                .unwrap()
        };
        let before = size(&disk);
        receiver::layout::grow::grow_last_partition(disk.device.as_ref()).unwrap();
        let after = size(&disk);
        assert!(
            before < 360 << 20 && after > 840 << 20,
            "{label}: {before} {after}"
        );
        receiver::layout::grow::grow_last_partition(disk.device.as_ref()).unwrap();
        assert_eq!(size(&disk), after, "nothing is left to grow into");
        run("sfdisk", &["--verify", &disk.device]);
        drop(disk);
        image.mounted(&[(2, "/", "rw")], |root| {
            if kind == "xfs" {
                let volume = receiver::convert::machine::Volume {
                    kind: kind.to_owned(),
                    mounted_at: Some("/".to_owned()),
                    ..Default::default()
                };
                receiver::layout::grow::grow_mounted(root, &[volume], &[]).unwrap();
            }
            let len: u64 = run("findmnt", &["-b", "-n", "-o", "SIZE", root.to_str().unwrap()])
                .trim()
                .parse()
                .unwrap();
            assert!(len > 700 << 20, "{kind}: {len}");
            assert_eq!(fs::read(root.join("file")).unwrap(), b"content");
        });
    }
}
