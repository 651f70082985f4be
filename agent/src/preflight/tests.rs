use std::fs;
use std::path::Path;

use sys::loop_device::{LoopDevice, run};

use super::*;
use crate::inventory::Disk;

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

fn status(findings: &[Finding], id: &str) -> Status {
    findings.iter().find(|finding| finding.id == id).unwrap().status
}

const DEP: &str = "/lib/modules/6.1.0/modules.dep";

#[test]
fn a_kernel_without_virtio_fails() {
    let (_folder, good) = machine(&[
        (
            DEP,
            "kernel/drivers/block/virtio_blk.ko: \nkernel/drivers/net/virtio_net.ko:\n",
        ),
        (
            "/lib/modules/6.1.0/modules.builtin",
            "kernel/drivers/virtio/virtio_pci.ko\n",
        ),
        ("/boot/vmlinuz-6.1.0", "k"),
        ("/boot/initrd.img-6.1.0", "not an archive"),
        ("/usr/sbin/update-initramfs", ""),
    ]);
    let findings = kernel::check(&good, "6.1.0");
    for id in ["P10", "P13", "P14", "P15"] {
        assert_eq!(status(&findings, id), Status::Pass, "{id}");
    }
    let (_folder, bad) = machine(&[(DEP, "kernel/drivers/net/virtio_net.ko:\n")]);
    let findings = kernel::check(&bad, "6.1.0");
    assert_eq!(status(&findings, "P10"), Status::Fail);
    assert_eq!(status(&findings, "P13"), Status::Fail);
    assert_eq!(status(&findings, "P14"), Status::Fail);
    let config = "CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\n";
    let (_folder, built_in) = machine(&[("/boot/config-6.1.0", config), ("/boot/vmlinuz-6.1.0", "k")]);
    let findings = kernel::check(&built_in, "6.1.0");
    assert_eq!(status(&findings, "P10"), Status::Pass);
    assert_eq!(status(&findings, "P11"), Status::Pass);
    assert_eq!(status(&findings, "P14"), Status::Pass);
}

#[test]
fn modules_from_outside_are_named_under_secure_boot() {
    let modules = "ext4 1000 1 - Live 0x0\nnvidia 5000 2 drm, Live 0x0 (POE)\n";
    let (_folder, machine) = machine(&[("/proc/modules", modules)]);
    let variable = machine.path("/sys/firmware/efi/efivars/SecureBoot-8be4df61");
    fs::create_dir_all(variable.parent().unwrap()).unwrap();
    fs::write(&variable, [6, 0, 0, 0, 1]).unwrap();
    let finding = boot::secure_boot(&machine);
    assert_eq!(finding.status, Status::Warn);
    assert!(
        finding.observed.contains("nvidia") && !finding.observed.contains("ext4"),
        "{finding:?}"
    );
    fs::write(&variable, [6, 0, 0, 0, 0]).unwrap();
    assert_eq!(boot::secure_boot(&machine).status, Status::Pass);
}

#[test]
fn fstab_is_judged_by_what_the_target_would_wait_for() {
    let check = |text: &str| {
        let (_folder, machine) = machine(&[("/etc/fstab", text), ("/dev/disk/by-uuid/1-2", "")]);
        status(&configuration::check(&machine), "P50")
    };
    assert_eq!(check("UUID=1-2 / ext4 defaults 0 1\n# a comment\n"), Status::Pass);
    assert_eq!(check("/dev/sda1 / ext4 defaults 0 1\n"), Status::Warn);
    assert_eq!(check("UUID=9-9 /data ext4 defaults 0 1\n"), Status::Warn);
    assert_eq!(check("UUID=9-9 /data ext4 nofail 0 1\n"), Status::Pass);
    assert_eq!(check("UUID=1-2 / ext4\nUUID=1-2 / ext4\n"), Status::Fail);
    assert_eq!(check("UUID=1-2\n"), Status::Fail);
    assert_eq!(
        check("UUID=1-2 none swap sw\nUUID=1-2 none swap sw\n"),
        Status::Pass
    );
}

#[test]
fn systems_that_cannot_move_are_named() {
    let (_folder, container) = machine(&[("/.dockerenv", "")]);
    let inventory = Inventory::take(&Machine::here()).unwrap();
    let findings = system::whole(&container, &inventory);
    assert_eq!(status(&findings, "P03"), Status::Fail);
    assert_eq!(status(&findings, "P77"), Status::Fail);
    let (_folder, xen) = machine(&[
        ("/sys/hypervisor/type", "xen"),
        ("/sys/hypervisor/guest_type", "PV"),
    ]);
    assert_eq!(status(&system::whole(&xen, &inventory), "P04"), Status::Fail);
}

#[test]
fn a_degraded_array_is_seen() {
    let mdstat = |state: &str| {
        format!("Personalities : [raid1]\nmd0 : active raid1 sdb1[1] sda1[0]\n  100 blocks [2/2] [{state}]\n")
    };
    let inventory = Inventory::take(&Machine::here()).unwrap();
    for (state, expected) in [("UU", Status::Pass), ("U_", Status::Warn)] {
        let (_folder, machine) = machine(&[("/proc/mdstat", &mdstat(state))]);
        assert_eq!(
            status(&storage::check(&machine, &inventory), "P34"),
            expected,
            "{state}"
        );
    }
}

#[test]
fn leftovers_of_other_platforms_are_listed() {
    let (_folder, machine) = machine(&[
        ("/usr/bin/vmtoolsd", ""),
        ("/usr/bin/cloud-init", ""),
        ("/etc/cloud/cloud.cfg.d/90.cfg", "datasource_list: [ Ec2 ]\n"),
        ("/etc/resolv.conf", "nameserver 100.100.2.136\n"),
        ("/etc/ssh/sshd_config", "ListenAddress 10.0.0.5\n"),
        ("/etc/adjtime", "0.0 0 0.0\n0\nLOCAL\n"),
    ]);
    let findings = guest::check(&machine);
    assert_eq!(status(&findings, "P70"), Status::Warn);
    assert_eq!(status(&findings, "P71"), Status::Warn);
    let findings = network::check(&machine);
    assert_eq!(status(&findings, "P61"), Status::Warn);
    assert_eq!(status(&findings, "P62"), Status::Warn);
}

#[test]
fn the_worst_finding_decides_the_exit_code() {
    use crate::exit;
    let pass = Finding::pass("P01", "n", "o");
    let warn = Finding::warn("P02", "n", "o", "r");
    let fail = Finding::fail("P03", "n", "o", "r");
    assert_eq!(finding::exit(&[]), exit::DONE);
    assert_eq!(finding::exit(std::slice::from_ref(&pass)), exit::DONE);
    assert_eq!(finding::exit(&[pass.clone(), warn.clone()]), exit::CHECK_WARNED);
    assert_eq!(finding::exit(&[warn, fail, pass]), exit::CHECK_FAILED);
}

#[test]
fn devices_that_are_gone_and_choices_of_disks_are_named() {
    let swap = |files: &[(&str, &str)]| {
        let (_folder, machine) = machine(files);
        let finding = swap::check(&machine);
        (finding.status, finding.observed)
    };
    let there = ("/dev/disk/by-uuid/1-2", "");
    assert_eq!(
        swap(&[("/proc/cmdline", "quiet noresume=x root=UUID=9")]).0,
        Status::Pass
    );
    assert_eq!(
        swap(&[("/proc/cmdline", "resume=UUID=1-2"), there]).0,
        Status::Pass
    );
    let (status, seen) = swap(&[
        ("/etc/initramfs-tools/conf.d/resume", "# x\nRESUME=UUID=3-4\n"),
        there,
    ]);
    assert_eq!(status, Status::Warn);
    assert!(seen.contains("UUID=3-4"), "{seen}");
    assert_eq!(
        swap(&[("/etc/initramfs-tools/conf.d/resume", "RESUME=none\n")]).0,
        Status::Pass
    );
    assert_eq!(
        swap(&[(
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"resume=/dev/mapper/old-swap\"\n"
        )])
        .0,
        Status::Warn
    );

    let lvm = |files: &[(&str, &str)]| {
        let (_folder, machine) = machine(files);
        volume_groups::check(&machine).status
    };
    let conf = "/etc/lvm/lvm.conf";
    assert_eq!(
        lvm(&[(
            conf,
            "devices {\n # filter = [ \"r|/dev/sdb|\" ]\n filter = [ \"a|.*|\" ]\n}"
        )]),
        Status::Pass
    );
    assert_eq!(
        lvm(&[(conf, "global_filter = [ \"a|/dev/sda|\", \"r|.*|\" ]")]),
        Status::Warn
    );
    assert_eq!(
        lvm(&[("/etc/lvm/devices/system.devices", "IDTYPE=sys_wwid")]),
        Status::Info
    );
}

#[test]
fn what_minds_being_moved_is_named_with_its_units() {
    let (_folder, machine) = machine(&[
        ("/proc/1/comm", "systemd\n"),
        ("/proc/77/comm", "postgres\n"),
        ("/proc/78/comm", "corosync\n"),
        ("/proc/self/comm", "mysqld\n"),
        ("/etc/yum.repos.d/rhui-load.repo", ""),
    ]);
    let findings = workload::check(&machine);
    assert_eq!(status(&findings, "P74"), Status::Warn);
    let busy = findings.iter().find(|finding| finding.id == "P75").unwrap();
    assert_eq!(busy.status, Status::Warn);
    assert_eq!(busy.observed, "PostgreSQL, Corosync cluster");
    assert!(
        busy.remedy.contains("systemctl stop postgresql corosync"),
        "{}",
        busy.remedy
    );
    let (_folder, idle) = self::machine(&[("/proc/1/comm", "systemd\n")]);
    assert!(
        workload::check(&idle)
            .iter()
            .all(|finding| finding.status == Status::Pass)
    );
}

#[test]
fn errors_that_a_file_system_has_noted_are_seen() {
    let check = |files: &[(&str, &str)]| {
        let (_folder, machine) = machine(files);
        status(&health::check(&machine), "P39")
    };
    let sick = ("/sys/fs/ext4/vda1/errors_count", "3\n");
    assert_eq!(check(&[("/sys/fs/ext4/vda1/errors_count", "0\n")]), Status::Pass);
    assert_eq!(check(&[sick]), Status::Warn);
    let stats = "/sys/fs/btrfs/u/devinfo/1/error_stats";
    assert_eq!(check(&[(stats, "write_errs 0\nread_errs 0\n")]), Status::Pass);
    assert_eq!(check(&[(stats, "write_errs 0\nread_errs 10\n")]), Status::Warn);
    let mounted = "1 0 8:1 / / rw - ext4 /dev/vda1 rw,emergency_ro\n";
    assert_eq!(check(&[("/proc/self/mountinfo", mounted)]), Status::Warn);
}

#[test]
fn an_immutable_file_that_must_be_edited_is_named() {
    use std::os::fd::AsFd as _;
    let (folder, machine) = machine(&[("/etc/fstab", "x")]);
    assert_eq!(attributes::check(&machine).status, Status::Info);
    let file = fs::File::open(folder.path().join("etc/fstab")).unwrap();
    let set = |flags| sys::inode_flags::set(file.as_fd(), flags);
    // A file system without such flags, such as tmpfs of old, cannot show this.
    if set(sys::inode_flags::IMMUTABLE).is_ok() {
        let finding = attributes::check(&machine);
        set(0).unwrap();
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(finding.remedy, "chattr -i -a /etc/fstab");
    }
}

#[test]
fn drivers_for_nvme_and_images_with_this_machine_s_drivers_only() {
    let (_folder, bare) = machine(&[(DEP, "kernel/x.ko:\n"), ("/usr/sbin/update-initramfs", "")]);
    assert_eq!(status(&kernel::check(&bare, "6.1.0"), "P12"), Status::Warn);
    let (_folder, dep) = machine(&[
        (DEP, "kernel/drivers/nvme/host/nvme.ko.xz:\n"),
        ("/usr/sbin/update-initramfs", ""),
        ("/etc/initramfs-tools/initramfs.conf", "MODULES=dep\n"),
    ]);
    let findings = kernel::check(&dep, "6.1.0");
    assert_eq!(status(&findings, "P12"), Status::Info);
    assert_eq!(status(&findings, "P13"), Status::Warn);
}

/// A disk without partitions.
fn disk(device: &Path) -> Disk {
    Disk {
        device: device.display().to_string(),
        bytes: 8 << 20,
        sector_bytes: 512,
        style: None,
        partitions: Vec::new(),
        file_system: None,
        mount_points: Vec::new(),
        system: false,
        block_obstacles: Vec::new(),
    }
}

#[test]
fn how_each_disk_will_be_tracked_is_told() {
    let device = LoopDevice::new("g2c-block-told", 8 << 20, 512).unwrap();
    run("mkswap", [device.path.as_os_str()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let args = crate::cli::JobArgs {
        check: true,
        state: Some(folder.path().join("state")),
        ..Default::default()
    };
    let plan = Plan::check_in(&args, folder.path(), Default::default()).unwrap();
    let here = Machine::here();
    let mut inventory = Inventory::take(&here).unwrap();
    let mut told = |disks: &[&Path]| {
        inventory.disks = disks.iter().map(|path| disk(path)).collect();
        let findings = trackers::check(&Subject {
            machine: &here,
            inventory: &inventory,
            plan: &plan,
            api: None,
        });
        findings.into_iter().find(|finding| finding.id == "T02").unwrap()
    };
    let good = told(&[&device.path]);
    let line = format!("{}: BPF program on block tracepoints", device.path.display());
    assert_eq!(
        (good.status, good.observed.as_str()),
        (Status::Pass, line.as_str())
    );
    let bad = told(&[&device.path, &image]);
    assert_eq!(bad.status, Status::Warn);
    let why = format!("{line}; {}: not tracked: an image file", image.display());
    assert_eq!(bad.observed, why);
    assert!(bad.remedy.contains("tracefs"), "{bad:?}");

    let verdict = block_test::verdict(&disk(&device.path));
    assert!(verdict.possible && verdict.obstacles.is_empty(), "{verdict:?}");
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["tracker"], "BPF program on block tracepoints");
    assert_eq!(json["areas"][0]["method"], "header only");
    let shown = block_test::text(&verdict);
    assert!(
        shown.contains("is possible; BPF program on block tracepoints"),
        "{shown}"
    );
    let gone = block_test::verdict(&disk(&folder.path().join("gone")));
    assert!(!gone.possible && gone.tracker.is_none(), "{gone:?}");
    assert!(block_test::text(&gone).contains("not possible: cannot be read past the page cache"));
}

#[test]
fn ids_are_unique_and_what_is_wrong_has_a_remedy() {
    let state = tempfile::tempdir().unwrap();
    let args = crate::cli::JobArgs {
        check: true,
        state: Some(state.path().to_owned()),
        ..Default::default()
    };
    let plan = Plan::check_in(&args, state.path(), Default::default()).unwrap();
    let here = Machine::here();
    let inventory = Inventory::take(&here).unwrap();
    let findings = check(&Subject {
        machine: &here,
        inventory: &inventory,
        plan: &plan,
        api: None,
    });
    let ids: std::collections::BTreeSet<&str> = findings.iter().map(|finding| finding.id).collect();
    assert_eq!(ids.len(), findings.len());
    for id in [
        "P06", "P12", "P30", "P39", "P43", "P45", "P51", "P52", "P63", "P64", "P74", "P75", "P79", "P80",
        "F01",
    ] {
        assert!(ids.contains(id), "{id}");
    }
    for finding in findings {
        let complains = finding.status >= Status::Warn;
        assert_eq!(complains, !finding.remedy.is_empty(), "{finding:?}");
        assert_ne!(finding.threshold, "", "{finding:?}");
    }
}
