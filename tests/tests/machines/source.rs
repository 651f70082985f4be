//! The disk of a source: a system with a host name, users, a static network, a service that never stops writing, and
//! the agent as its administrator unpacked it. Made natively on a loop device; each test has its own, because it holds
//! the keys of the test's control plane.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use go2cloud_tests::control::program;

use super::image::{Image, file_system_uuid, make_system_partition, run};
use super::system::System;

/// What starts the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
}

/// Number of the root partition.
pub(crate) const ROOT: u32 = 3;
/// What the source is called, and how it is known.
pub(crate) const HOSTNAME: &str = "ledger-1";
pub(crate) const MACHINE_ID: &str = "b08dfa6083e7567a1921a715000001fb";
/// Its address, and the name of its interface as its place on the bus makes it.
pub(crate) const ADDRESS: &str = "10.77.0.5/24";
pub(crate) const INTERFACE: &str = "enp0s5";

const LEDGER: &str = include_str!("ledger.pl");
const CHECK: &str = include_str!("check.sh");

const LEDGER_UNIT: &str = "[Unit]\nDescription=Ledger\n\n[Service]\nUser=ledger\n\
    ExecStartPre=/usr/local/bin/ledger check /var/lib/ledger /run/ledger/check\n\
    ExecStart=/usr/local/bin/ledger write /var/lib/ledger /run/ledger/count\nRuntimeDirectory=ledger\n\n\
    [Install]\nWantedBy=multi-user.target\n";
const CHECK_UNIT: &str = "[Unit]\nDescription=Says what this machine is like\n\n\
    [Service]\nType=simple\nExecStart=/bin/sh /usr/local/bin/check\n\n[Install]\nWantedBy=multi-user.target\n";
const AGENT_UNIT: &str = "[Unit]\nDescription=go2cloud\nAfter=network.target ssh.service\n\
    ConditionPathExists=/dev/virtio-ports/source\n\n[Service]\nEnvironmentFile=/opt/go2cloud/keys\n\
    ExecStart=/opt/go2cloud/go2cloud FLAGS\n\
    StandardOutput=journal+console\n\n[Install]\nWantedBy=multi-user.target\n";

/// Makes the disk; `key` is the account's at the control plane, `flags` are the agent's.
pub(crate) fn disk(system: System, firmware: Firmware, key: &(String, String), flags: &str) -> Image {
    let first = match firmware {
        Firmware::Bios => "size=1M,type=21686148-6449-6E6F-744E-656564454649",
        Firmware::Uefi => "size=64M,type=U",
    };
    let image = Image::new(1100, &format!("label: gpt\n{first}\nsize=32M,type=S\ntype=L\n"));
    let disk = image.attach();
    run("mkswap", &["-q", &disk.partition(2)]);
    let root = disk.partition(ROOT);
    run(
        "mkfs.ext4",
        &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &root],
    );
    let uuid = |number| file_system_uuid(&disk.partition(number));
    let (root, swap) = (uuid(ROOT), uuid(2));
    let efi = (firmware == Firmware::Uefi).then(|| {
        make_system_partition(&disk.partition(1), &root, "ext2", system.id());
        uuid(1)
    });
    drop(disk);
    image.mounted(&[(ROOT, "/", "rw")], |place| {
        fill(place, system, key, flags);
        fs::write(place.join("opt/go2cloud/secret"), super::SECRET).unwrap();
        let mut fstab = format!("UUID={root} / ext4 errors=remount-ro 0 1\nUUID={swap} none swap sw 0 0\n");
        if let Some(efi) = &efi {
            fs::create_dir_all(place.join("boot/efi")).unwrap();
            fstab.push_str(&format!("UUID={efi} /boot/efi vfat umask=0077 0 1\n"));
        }
        fs::write(place.join("etc/fstab"), fstab).unwrap();
        install_grub(place, &root, firmware);
    });
    image
}

/// The distribution, without what only takes room.
fn unpack(root: &Path, system: System) {
    run(
        "cp",
        &[
            "-a",
            &format!("{}/.", system.unpacked().display()),
            root.to_str().unwrap(),
        ],
    );
    for folder in ["var/lib/apt/lists", "var/cache/apt", "usr/share/zoneinfo"] {
        let _ = fs::remove_dir_all(root.join(folder));
    }
}

fn fill(root: &Path, system: System, key: &(String, String), flags: &str) {
    unpack(root, system);
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let append = |path: &str, text: &str| {
        let before = fs::read_to_string(root.join(path)).unwrap();
        fs::write(root.join(path), before + text).unwrap();
    };
    write("etc/hostname", &format!("{HOSTNAME}\n"));
    write("etc/machine-id", &format!("{MACHINE_ID}\n"));
    write(
        "etc/hosts",
        &format!("127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n"),
    );
    let (path, network) = system.network();
    write(path, &network);
    // Emulated on a busy machine everything takes its time.
    write(
        "etc/systemd/system.conf.d/patient.conf",
        "[Manager]\nDefaultTimeoutStartSec=900s\nDefaultDeviceTimeoutSec=900s\n",
    );
    // The system was installed for a machine like the target: its drivers are there.
    append(
        "etc/initramfs-tools/modules",
        "virtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\n",
    );
    append(
        "etc/passwd",
        "alice:x:1005:1005::/home/alice:/bin/sh\nledger:x:990:990::/var/lib/ledger:/bin/false\n",
    );
    append("etc/group", "alice:x:1005:\nledger:x:990:\n");
    write("home/alice/notes", "what alice wrote\n");
    chown(root.join("home/alice"), Some(1005), Some(1005)).unwrap();
    chown(root.join("home/alice/notes"), Some(1005), Some(1005)).unwrap();
    fs::create_dir_all(root.join("var/lib/ledger")).unwrap();
    chown(root.join("var/lib/ledger"), Some(990), Some(990)).unwrap();
    write("usr/local/bin/ledger", LEDGER);
    fs::set_permissions(
        root.join("usr/local/bin/ledger"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    write(
        "usr/local/bin/check",
        &CHECK.replace("NETWORK", system.network_unit()),
    );
    write(
        "opt/go2cloud/keys",
        &format!("GO2CLOUD_SECRET_ID={}\nGO2CLOUD_SECRET_KEY={}\n", key.0, key.1),
    );
    install_agent(root);
    let agent = AGENT_UNIT.replace("FLAGS", flags);
    for (name, text) in [
        ("ledger", LEDGER_UNIT),
        ("check", CHECK_UNIT),
        ("go2cloud", agent.as_str()),
    ] {
        write(&format!("etc/systemd/system/{name}.service"), text);
        let wanted = root.join(format!(
            "etc/systemd/system/multi-user.target.wants/{name}.service"
        ));
        symlink(format!("/etc/systemd/system/{name}.service"), wanted).unwrap();
    }
}

/// The archive, unpacked.
fn install_agent(root: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["client.json", "user.json", "rsync_excludes_linux.txt"] {
        fs::copy(folder.join(name), root.join("opt/go2cloud").join(name)).unwrap();
    }
    fs::copy(program("go2cloud"), root.join("opt/go2cloud/go2cloud")).unwrap();
}

/// GRUB as its packages install it, with a menu of one entry.
fn install_grub(root: &Path, uuid: &str, firmware: Firmware) {
    let entries = fs::read_dir(root.join("boot")).unwrap().flatten();
    let release = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .unwrap();
    fs::create_dir_all(root.join("boot/grub")).unwrap();
    // On a busy machine an emulated timer may be too late for the kernel's check of it.
    let console = "console=tty0 console=ttyS0,115200n8 no_timer_check";
    let defaults = format!(
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"{console}\"\n\
         GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n"
    );
    fs::write(root.join("etc/default/grub"), defaults).unwrap();
    let menu = format!(
        "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output console serial\ninsmod part_gpt\ninsmod ext2\n\
         search --no-floppy --fs-uuid --set=root {uuid}\nmenuentry 'Linux' {{\n\
         \tlinux /boot/vmlinuz-{release} root=UUID={uuid} ro {console} quiet\n\tinitrd /boot/initrd.img-{release}\n}}\n"
    );
    fs::write(root.join("boot/grub/grub.cfg"), menu).unwrap();
    if firmware == Firmware::Bios {
        let device = run("findmnt", &["-n", "-o", "SOURCE", root.to_str().unwrap()]);
        let disk = device.trim_end_matches(&format!("p{ROOT}")).to_owned();
        let folder = format!("--boot-directory={}", root.join("boot").display());
        run("grub-install", &["--target=i386-pc", &folder, &disk]);
    }
}
