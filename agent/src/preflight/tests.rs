use std::fs;

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
