use super::*;
use crate::convert::machine::{Firmware, Machine};

fn machine() -> Machine {
    Machine {
        volumes: Some(Vec::new()),
        boot_disk: None,
        firmware: Firmware::Bios,
        pins: Vec::new(),
    }
}

#[test]
fn assignments_keep_their_quotes() {
    let upper = |value: &str| value.to_uppercase();
    for (before, after) in [
        (
            "GRUB_CMDLINE_LINUX=\"quiet\"",
            Some("GRUB_CMDLINE_LINUX=\"QUIET\""),
        ),
        (
            "GRUB_CMDLINE_LINUX_DEFAULT='a b'  # note",
            Some("GRUB_CMDLINE_LINUX_DEFAULT='A B'  # note"),
        ),
        ("GRUB_CMDLINE_LINUX=quiet", Some("GRUB_CMDLINE_LINUX=QUIET")),
        ("GRUB_CMDLINE_LINUX=", Some("GRUB_CMDLINE_LINUX=")),
        ("GRUB_DEFAULT=0", None),
        ("# GRUB_CMDLINE_LINUX=\"quiet\"", None),
        ("GRUB_CMDLINE_LINUX=\"broken", None),
    ] {
        assert_eq!(default_line(before, &upper).as_deref(), after, "{before}");
    }
}

#[test]
fn the_console_is_added_where_it_is_missing() {
    let machine = machine();
    let policy = Policy {
        machine: &machine,
        console: Some("ttyS0"),
    };
    assert_eq!(
        with_console("A=1\nGRUB_CMDLINE_LINUX=\"\"\n", &policy),
        "A=1\nGRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200n8\"\n"
    );
    assert_eq!(
        with_console("A=1", &policy),
        "A=1\nGRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200n8\"\n"
    );
    assert!(with_terminal("A=1\n", "ttyS1").ends_with("serial --unit=1 --speed=115200\"\n"));
}

#[test]
fn entries_keep_their_variables() {
    let machine = machine();
    let policy = Policy {
        machine: &machine,
        console: Some("ttyS0"),
    };
    assert_eq!(
        entry_line("options $kernelopts $tuned_params", &policy).as_deref(),
        Some("options $kernelopts $tuned_params")
    );
    assert_eq!(
        entry_line("options  ro quiet", &policy).as_deref(),
        Some("options  ro quiet console=tty0 console=ttyS0,115200n8")
    );
    assert_eq!(entry_line("title options", &policy), None);
}

#[test]
fn the_environment_block_keeps_its_size() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("boot/grub2")).unwrap();
    let text = "# GRUB Environment Block\nsaved_entry=x\nkernelopts=root=/dev/mapper/rhel-root ro\n";
    std::fs::write(folder.path().join("boot/grub2/grubenv"), format!("{text:#<1024}")).unwrap();
    let guest = crate::convert::guest::Guest::open(folder.path()).unwrap();
    let mut draft = Draft::new(&guest, Default::default());
    let machine = Machine {
        volumes: None,
        ..machine()
    };
    let policy = Policy {
        machine: &machine,
        console: Some("ttyS0"),
    };
    let mut findings = Findings::default();
    plan_environment(&mut draft, "/boot/grub2/grubenv", &policy, &mut findings).unwrap();
    let changed = draft.text("/boot/grub2/grubenv").unwrap().unwrap();
    assert_eq!(changed.len(), 1024);
    assert!(
        changed.contains("kernelopts=root=/dev/mapper/rhel-root ro console=tty0 console=ttyS0,115200n8\n###")
    );
    let long = format!("kernelopts={}\n", "x".repeat(1000));
    std::fs::write(folder.path().join("boot/grub2/grubenv"), format!("{long:#<1024}")).unwrap();
    let mut draft = Draft::new(&guest, Default::default());
    plan_environment(&mut draft, "/boot/grub2/grubenv", &policy, &mut findings).unwrap();
    assert!(draft.take_changes().is_empty());
    assert_eq!(findings.list().len(), 1);
}
