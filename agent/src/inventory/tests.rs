use std::path::Path;

use super::*;

/// A machine in a folder: files by path.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::at(folder.path());
    for (path, text) in files {
        let path = machine.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    (folder, machine)
}

const CENTOS: &str = "NAME=\"CentOS Linux\"\nVERSION=\"7 (Core)\"\nID=\"centos\"\nPRETTY_NAME=\"CentOS Linux 7 (Core)\"\nVERSION_ID=\"7\"\n";

#[test]
fn systems_are_named_as_the_api_names_them() {
    for (path, text, kind, name, version) in [
        ("/etc/os-release", CENTOS, "CentOS", "CentOS Linux 7 (Core)", "7"),
        (
            "/usr/lib/os-release",
            "ID=opensuse-leap\nNAME='openSUSE Leap'\nVERSION_ID=15.5",
            "openSUSE",
            "openSUSE Leap",
            "15.5",
        ),
        (
            "/etc/redhat-release",
            "Red Hat Enterprise Linux Server release 5.11 (Tikanga)\n",
            "Red Hat",
            "Red Hat Enterprise Linux Server release 5.11 (Tikanga)",
            "5.11",
        ),
        (
            "/etc/debian_version",
            "7.11\n",
            "Debian",
            "Debian GNU/Linux 7.11",
            "7.11",
        ),
    ] {
        let (_folder, machine) = machine(&[(path, text)]);
        let os = os::os(&machine);
        assert_eq!(
            (os.kind.as_str(), os.name.as_str(), os.version.as_str()),
            (kind, name, version)
        );
    }
}

#[test]
fn the_identifier_survives_names_and_network_cards_but_not_cloning() {
    let uuid = "/sys/class/dmi/id/product_uuid";
    let id = ("/etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n");
    let take = |files: &[(&str, &str)]| {
        let (_folder, machine) = machine(files);
        identifier::identifier(&machine).unwrap()
    };
    let first = take(&[
        id,
        (uuid, "4C4C4544-0042-3010\n"),
        ("/proc/sys/kernel/hostname", "a"),
    ]);
    assert_eq!(first.len(), 64);
    assert_eq!(
        first,
        take(&[
            id,
            (uuid, "4c4c4544-0042-3010"),
            ("/proc/sys/kernel/hostname", "b")
        ])
    );
    assert_ne!(first, take(&[id, (uuid, "4c4c4544-0042-3011")]));
    let nowhere = "00000000-0000-0000-0000-000000000000";
    assert_eq!(take(&[id]), take(&[id, (uuid, nowhere)]));
}

#[test]
fn a_machine_without_identity_keeps_a_random_one() {
    let (_folder, machine) = machine(&[("/etc/machine-id", "uninitialized\n")]);
    let first = identifier::identifier(&machine).unwrap();
    assert_eq!(first.len(), 64);
    assert_eq!(identifier::identifier(&machine).unwrap(), first);
}

#[test]
fn disks_partitions_and_what_is_stacked_on_them_are_found() {
    let (_folder, machine) = machine(&[
        ("/sys/block/sdb/size", "4194304"),
        ("/sys/block/sdb/queue/logical_block_size", "4096"),
        ("/sys/class/block/sdb/dev", "8:16"),
        ("/sys/class/block/sdb/holders/dm-0/x", ""),
        ("/sys/class/block/dm-0/dev", "253:0"),
        ("/sys/class/block/dm-0/dm/name", "vg-root"),
        ("/sys/block/sda/size", "2097152"),
        ("/sys/block/sda/sda1/partition", "1"),
        ("/sys/block/sda/sda1/start", "2048"),
        ("/sys/block/sda/sda1/size", "1024"),
        ("/sys/class/block/sda1/dev", "8:1"),
        ("/sys/block/sr0/size", "100"),
        ("/sys/block/loop0/size", "100"),
        ("/sys/block/sdc/size", "0"),
        (
            "/proc/self/mountinfo",
            "1 0 253:0 / / rw - xfs /dev/mapper/vg-root rw\n2 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n\
             3 1 8:1 /sub /bind rw - ext4 /dev/sda1 rw\n",
        ),
        ("/dev/sdb", ""),
    ]);
    let disks = disks::disks(&machine);
    let names: Vec<&str> = disks.iter().map(|disk| disk.device.as_str()).collect();
    assert_eq!(names, ["/dev/sdb", "/dev/sda"]);
    assert!(disks[0].system && !disks[1].system);
    assert_eq!((disks[0].bytes, disks[0].sector_bytes), (2 << 30, 4096));
    assert_eq!(disks[0].mount_points, [Path::new("/")]);
    let boot = &disks[1].partitions[0];
    assert_eq!((boot.start, boot.bytes, boot.number), (1 << 20, 1 << 19, 1));
    assert_eq!(boot.mount_points, [Path::new("/boot")]);
    assert_eq!(boot.file_system.as_deref(), Some("ext4"));
}

#[test]
fn this_machine_has_an_inventory() {
    let inventory = Inventory::take(&Machine::here()).unwrap();
    assert_eq!(inventory.identifier.len(), 64);
    assert!(inventory.hardware.memory_bytes > 1 << 20);
    assert!(!inventory.os.kernel.is_empty());
    let system = inventory.system_disk();
    assert!(system.size > 0);
    assert_eq!(
        inventory.data_disks().len(),
        inventory.disks.len().saturating_sub(1)
    );
}

#[test]
fn a_directory_is_a_source_of_its_own() {
    let machine = Machine::here();
    let whole = Inventory::take(&machine).unwrap();
    let part = Inventory::of(&machine, Scope::Directory(Path::new("/etc"))).unwrap();
    assert_ne!(whole.identifier, part.identifier);
    assert_eq!(
        part.identifier,
        Inventory::of(&machine, Scope::Directory(Path::new("/etc")))
            .unwrap()
            .identifier
    );
    assert_eq!(part.disks.len(), 1);
    assert_eq!(part.system_disk().device, "/etc");
}
