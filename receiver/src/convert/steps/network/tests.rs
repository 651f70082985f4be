use super::*;

fn pin(name: &str, source: &str, target: &str) -> Pin {
    Pin {
        name: name.to_owned(),
        source_mac: source.to_owned(),
        target_mac: target.to_owned(),
    }
}

#[test]
fn addresses_are_replaced_at_once_and_keep_their_case() {
    let one = pin("eth0", "00:50:56:aa:bb:01", "00:50:56:aa:bb:02");
    let two = pin("eth1", "00:50:56:aa:bb:02", "52:54:00:00:00:01");
    let text = "HWADDR=00:50:56:AA:BB:01\nmac-address=00:50:56:aa:bb:02 é\n";
    let changed = replace_in(text, &[&one, &two]);
    assert_eq!(
        changed,
        "HWADDR=00:50:56:AA:BB:02\nmac-address=52:54:00:00:00:01 é\n"
    );
}

/// One file of every kind that names hardware addresses, each with both interfaces in it.
#[test]
fn every_kind_of_configuration_gets_the_new_addresses() {
    let files = [
        "etc/udev/rules.d/70-persistent-net.rules",
        "etc/sysconfig/network-scripts/ifcfg-eth0",
        "etc/sysconfig/network/ifcfg-eth0",
        "etc/NetworkManager/system-connections/wired.nmconnection",
        "etc/netplan/50-cloud-init.yaml",
        "etc/systemd/network/10-lan.network",
        "etc/systemd/network/20-bond.netdev",
        "etc/network/interfaces",
        "etc/network/interfaces.d/lan",
        "etc/cloud/cloud.cfg.d/50-network.cfg",
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("etc/systemd/system")).unwrap();
    for file in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "a 00:50:56:AA:BB:01 b 00:50:56:aa:bb:02\n").unwrap();
    }
    let guest = crate::convert::guest::Guest::open(folder.path()).unwrap();
    let mut draft = Draft::new(&guest, Default::default());
    // They have swapped their addresses: one after the other would make them equal.
    let pins = [
        pin("eth0", "00:50:56:aa:bb:01", "00:50:56:aa:bb:02"),
        pin("eth1", "00:50:56:aa:bb:02", "00:50:56:aa:bb:01"),
    ];
    replace_addresses(&mut draft, &pins).unwrap();
    for file in files {
        let text = draft.text(format!("/{file}")).unwrap().unwrap();
        assert_eq!(text, "a 00:50:56:AA:BB:02 b 00:50:56:aa:bb:01\n", "{file}");
    }
    assert_eq!(draft.take_changes().len(), files.len());
}

#[test]
fn a_network_before_the_disks_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("etc/default")).unwrap();
    let guest = crate::convert::guest::Guest::open(folder.path()).unwrap();
    let draft = Draft::new(&guest, Default::default());
    let with = |line: &str| {
        std::fs::write(folder.path().join("etc/default/grub"), line).unwrap();
        has_early_network(&draft).unwrap()
    };
    assert!(with("GRUB_CMDLINE_LINUX=\"quiet ip=dhcp\"\n"));
    assert!(!with("GRUB_CMDLINE_LINUX=\"quiet zip=1\"\n# ip=dhcp\n"));
    std::fs::create_dir_all(folder.path().join("etc/dropbear/initramfs")).unwrap();
    assert!(with(""));
}
