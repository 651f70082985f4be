use proptest::prelude::*;

use super::*;
use crate::convert::machine::Firmware;

fn machine() -> Machine {
    let volume = |device: &str, kind: &str, uuid: &str, position, at: Option<&str>| Volume {
        device: device.into(),
        kind: kind.to_owned(),
        uuid: Some(uuid.to_owned()),
        label: Some(format!("label-of-{uuid}")),
        partition_uuid: Some(format!("part-{uuid}")),
        position,
        mounted_at: at.map(str::to_owned),
        ..Volume::default()
    };
    Machine {
        volumes: Some(vec![
            volume("/dev/vda1", "ext4", "boot", Some((0, 1)), Some("/boot")),
            volume("/dev/vda2", "ext4", "root", Some((0, 2)), Some("/")),
            volume("/dev/vda3", "swap", "swap", Some((0, 3)), None),
            volume("/dev/vdb1", "xfs", "data", Some((1, 1)), None),
            volume("/dev/mapper/vg0-home", "ext4", "home", None, None),
        ]),
        boot_disk: None,
        firmware: Firmware::Bios,
        pins: Vec::new(),
    }
}

fn fstab(line: &str) -> (String, usize) {
    let machine = machine();
    let mut findings = Findings::default();
    let table = Table {
        machine: &machine,
        systemd: true,
    };
    let changed = table
        .fstab_line(line, &mut findings)
        .unwrap_or_else(|| line.to_owned());
    (changed, findings.list().len())
}

#[test]
fn lines_that_are_right_stay_as_they_are() {
    for line in [
        "",
        "   ",
        "# comment /dev/sda1 / ext4",
        "\t # /dev/sda1 /x ext4",
        "UUID=root / ext4 errors=remount-ro 0 1",
        "UUID=\"root\"\t/   ext4   defaults",
        "LABEL=label-of-root / ext4 defaults 1 1",
        "PARTUUID=part-root / ext4 defaults 1 1",
        "/dev/disk/by-uuid/root / ext4 defaults 1 1",
        "/dev/mapper/vg0-home /home ext4 defaults 0 0",
        "/dev/vg0/home /home ext4 defaults 0 0",
        "tmpfs /tmp tmpfs size=1g 0 0",
        "proc /proc proc defaults 0 0",
        "/swapfile none swap sw 0 0",
        "/srv/a /srv/b none bind 0 0",
        "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0",
        "nas:/export /mnt nfs nofail,_netdev 0 0",
        "UUID=data /data xfs defaults,nofail 0 2",
    ] {
        assert_eq!(fstab(line), (line.to_owned(), 0), "{line}");
    }
}

#[test]
fn names_of_the_source_become_names_of_the_target() {
    for (before, after, findings) in [
        (
            "/dev/sda2\t/\text4  errors=remount-ro 0 1",
            "UUID=root\t/\text4  errors=remount-ro 0 1",
            0,
        ),
        (
            "/dev/nvme0n1p1 /boot ext4 defaults 0 2",
            "UUID=boot /boot ext4 defaults 0 2",
            0,
        ),
        ("/dev/xvda3 none swap sw 0 0", "UUID=swap none swap sw 0 0", 0),
        (
            "/dev/cciss/c0d1p1 /data xfs defaults 0 0 # x",
            "UUID=data /data xfs defaults 0 0 # x",
            0,
        ),
        (
            "/dev/sdb1 /data auto defaults 0 0",
            "UUID=data /data auto defaults 0 0",
            0,
        ),
        // The third partition is swap, not ext4: a disk of another order must not be mounted by mistake.
        (
            "/dev/sda3 /data ext4 defaults 0 0",
            "/dev/sda3 /data ext4 defaults,nofail,x-systemd.device-timeout=10s 0 0",
            1,
        ),
        (
            "/dev/disk/by-id/ata-X-part2 / ext4 defaults 0 1",
            "UUID=root / ext4 defaults 0 1",
            1,
        ),
        (
            "/dev/disk/by-path/pci-1 none swap sw 0 0",
            "UUID=swap none swap sw 0 0",
            0,
        ),
        (
            "UUID=gone / ext4 defaults 0 1",
            "UUID=root / ext4 defaults 0 1",
            1,
        ),
    ] {
        assert_eq!(fstab(before), (after.to_owned(), findings), "{before}");
    }
}

#[test]
fn nothing_that_is_missing_stops_the_boot() {
    for (before, after, findings) in [
        (
            "/dev/sdz1 /old ext4 defaults 0 2",
            "/dev/sdz1 /old ext4 defaults,nofail,x-systemd.device-timeout=10s 0 2",
            1,
        ),
        (
            "UUID=gone /old xfs rw,noatime 0 0",
            "UUID=gone /old xfs rw,noatime,nofail,x-systemd.device-timeout=10s 0 0",
            1,
        ),
        (
            "/dev/mapper/vg9-x /x ext4 nofail 0 0",
            "/dev/mapper/vg9-x /x ext4 nofail,x-systemd.device-timeout=10s 0 0",
            1,
        ),
        (
            "LABEL=gone /x ext4",
            "LABEL=gone /x ext4 defaults,nofail,x-systemd.device-timeout=10s",
            1,
        ),
        (
            "nas:/export /mnt nfs rw,soft 0 0",
            "nas:/export /mnt nfs rw,soft,nofail,_netdev 0 0",
            0,
        ),
        (
            "//nas/share /mnt cifs credentials=/root/c 0 0",
            "//nas/share /mnt cifs credentials=/root/c,nofail,_netdev 0 0",
            0,
        ),
        (
            "/dev/sr0 /media/cdrom udf ro 0 0",
            "/dev/sr0 /media/cdrom udf ro,nofail 0 0",
            0,
        ),
        (
            "/dev/fd0 /media/floppy auto rw 0 0",
            "/dev/fd0 /media/floppy auto rw,nofail 0 0",
            0,
        ),
        (
            "share /mnt vboxsf defaults 0 0",
            "# switched off by go2cloud: share /mnt vboxsf defaults 0 0",
            1,
        ),
        (
            ".host:/ /mnt fuse.vmhgfs-fuse defaults 0 0",
            "# switched off by go2cloud: .host:/ /mnt fuse.vmhgfs-fuse defaults 0 0",
            1,
        ),
        ("lonely", "lonely", 1),
    ] {
        assert_eq!(fstab(before), (after.to_owned(), findings), "{before}");
    }
}

#[test]
fn subvolumes_are_known_by_path() {
    let line = "UUID=root / btrfs rw,subvolid=256,subvol=/@ 0 0";
    assert_eq!(fstab(line).0, "UUID=root / btrfs rw,subvol=/@ 0 0");
    let line = "UUID=root / btrfs subvolid=256 0 0";
    assert_eq!(fstab(line).0, line);
}

#[test]
fn older_systems_do_not_know_options_of_systemd() {
    let machine = machine();
    let table = Table {
        machine: &machine,
        systemd: false,
    };
    let changed = table.fstab_line("/dev/sdz1 /old ext4 defaults 0 2", &mut Findings::default());
    assert_eq!(
        changed.as_deref(),
        Some("/dev/sdz1 /old ext4 defaults,nofail 0 2")
    );
}

#[test]
fn without_knowledge_of_the_volumes_devices_are_left_alone() {
    let machine = Machine {
        volumes: None,
        ..machine()
    };
    let table = Table {
        machine: &machine,
        systemd: true,
    };
    assert_eq!(
        table.fstab_line("/dev/sda2 / ext4 defaults 0 1", &mut Findings::default()),
        None
    );
}

#[test]
fn crypttab_names_its_device_second() {
    let machine = machine();
    let table = Table {
        machine: &machine,
        systemd: true,
    };
    let line = |line: &str| {
        table
            .crypttab_line(line, &mut Findings::default())
            .unwrap_or_else(|| line.to_owned())
    };
    assert_eq!(line("data /dev/sdb1 none luks"), "data UUID=data none luks");
    assert_eq!(line("data /dev/sdb1"), "data UUID=data");
    assert_eq!(line("data UUID=data none luks"), "data UUID=data none luks");
    assert_eq!(
        line("data UUID=gone none luks"),
        "data UUID=gone none luks,nofail"
    );
    assert_eq!(line("# data /dev/sdb1 none luks"), "# data /dev/sdb1 none luks");
    assert_eq!(
        line("swap /dev/sda3 /dev/urandom swap"),
        "swap UUID=swap /dev/urandom swap"
    );
}

#[test]
fn arrays_are_known_by_uuid() {
    let before = "ARRAY /dev/md0 metadata=1.2 UUID=1:2:3:4 devices=/dev/sda1,/dev/sdb1";
    assert_eq!(
        array_line(before).as_deref(),
        Some("ARRAY /dev/md0 metadata=1.2 UUID=1:2:3:4")
    );
    assert_eq!(array_line("ARRAY /dev/md0 devices=/dev/sda1"), None);
    assert_eq!(array_line("DEVICE partitions"), None);
}

proptest! {
    #[test]
    fn a_second_run_changes_nothing(words in proptest::collection::vec("(/dev/sd[ab][0-9]|UUID=(root|gone)|/|/data|none|ext4|swap|nfs|xfs|defaults|nofail|ro|0|#)", 0..7)) {
        let line = words.join(" ");
        let once = fstab(&line).0;
        prop_assert_eq!(fstab(&once).0, once.clone());
    }

    #[test]
    fn foreign_text_never_panics_and_keeps_its_lines(text in "[ -~\t\n]{0,200}") {
        let machine = machine();
        let table = Table { machine: &machine, systemd: true };
        let changed = each_line(&text, |line| table.fstab_line(line, &mut Findings::default()));
        prop_assert_eq!(changed.lines().count(), text.lines().count());
        let _ = each_line(&text, |line| table.crypttab_line(line, &mut Findings::default()));
    }
}
