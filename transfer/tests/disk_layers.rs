//! What lies on a disk beneath file systems (LVM, RAID) is copied whole, byte by byte, whatever it looks like.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bed::{Bed, MIB, assert_equal, make_file_system, partition};
use sys::block_device::Access;
use sys::loop_device::{LoopDevice, run};
use transfer::disk::medium::DiskMedium;
use transfer::disk::used_map::{Area, Effort, survey};
use workload::Dice;

/// Magic number of a superblock of Linux RAID, of every version.
const RAID_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// Runs a program of LVM that sees this device only.
fn lvm(program: &str, device: &Path, arguments: &[&str]) {
    let only = format!(
        "devices {{ use_devicesfile=0 filter=[\"a|^{}$|\",\"r|.*|\"] }}",
        device.display()
    );
    let all = ["--config", &only].into_iter().chain(arguments.iter().copied());
    run(program, all.map(OsStr::new)).unwrap();
}

/// Writes random bytes over `len` bytes of a partition from `at` on.
fn scatter(device: &Path, at: u64, len: u64, seed: u64) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(&Dice::new(seed).bytes(len as usize), at)
        .unwrap();
    file.sync_all().unwrap();
}

#[test]
fn physical_volumes_and_members_of_arrays_are_copied_whole() {
    let disk = LoopDevice::new("g2c-block-layers", 112 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=48M\nsize=24M\nsize=24M\n");
    let parts = [1, 2, 3].map(|number| disk.partition(number));

    // A physical volume whose group holds a file system: its free blocks belong to the volume, not to the partition.
    let name = parts[0].to_str().unwrap();
    let group = format!("g2cblock{}", std::process::id());
    lvm("pvcreate", &parts[0], &["-q", "-y", name]);
    lvm("vgcreate", &parts[0], &["-q", "-y", &group, name]);
    scatter(&parts[0], 2 * MIB, 20 * MIB, 1);
    // A member of an array with its superblock in front, and one with it at the end, which looks like a file system.
    scatter(&parts[1], 0, 24 * MIB, 2);
    let member = std::fs::File::options().write(true).open(&parts[1]).unwrap();
    member.write_all_at(&RAID_MAGIC, 4096).unwrap();
    member.sync_all().unwrap();
    run(
        "mkfs.ext4",
        ["-q", "-F", parts[2].to_str().unwrap(), "20M"].map(OsStr::new),
    )
    .unwrap();
    scatter(&parts[2], 20 * MIB, 4 * MIB, 3);
    let member = std::fs::File::options().write(true).open(&parts[2]).unwrap();
    member.write_all_at(&RAID_MAGIC, 24 * MIB - 8192).unwrap();
    member.sync_all().unwrap();

    let medium = DiskMedium::open(&disk.path, Access::Read).unwrap();
    let found = survey(&medium, Effort::Look).unwrap();
    for area in &found.areas[..2] {
        assert_eq!(area.used, area.range.end - area.range.start, "{area:?}");
        assert!(area.method.contains("copied whole"), "{area:?}");
    }
    let end = found.areas[2].range.end;
    let behind = end - 4 * MIB..end;
    assert_eq!(
        found.map.used_in(behind.clone()),
        std::slice::from_ref(&behind),
        "behind the file system everything counts"
    );

    let bed = Bed::new();
    let image = bed.path("target.img");
    let mut plan = bed.plan(&[&disk.path]);
    plan.verify = true;
    let summary = bed.sync(&[&image], plan).unwrap();
    assert!(summary.ok, "{summary:?}");
    // Never written space of the file system is zero on both sides, so that all of the disk can be compared.
    assert_equal(&disk, &image);
    // And the copy is a group that LVM knows.
    let copy = bed::Image::attach(&image);
    let name = copy.partition(1);
    lvm("vgck", &name, &[&group]);
}

#[test]
fn a_signature_inside_of_a_physical_volume_does_not_make_it_a_file_system() {
    let disk = LoopDevice::new("g2c-block-inner", 32 * MIB, 512).unwrap();
    let name = disk.path.to_str().unwrap();
    // A file system that was there before: LVM has no use for the place of its superblock, and not every tool wipes it.
    make_file_system("ext4", &disk.path);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&disk.path)
        .unwrap();
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024).unwrap();
    lvm("pvcreate", &disk.path, &["-q", "-ff", "-y", name]);
    file.write_all_at(&superblock, 1024).unwrap();
    drop(file);
    scatter(&disk.path, 16 * MIB, 8 * MIB, 4);
    let medium = DiskMedium::open(&disk.path, Access::Read).unwrap();
    let found = survey(&medium, Effort::Look).unwrap();
    assert_eq!(found.areas[0].used, 32 * MIB, "{found:?}");
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    assert_equal(&disk, &image);
}

/// The only area of a disk, and the used parts of its bytes from 128 KiB on.
fn area_and_used(disk: &LoopDevice) -> (Area, Vec<std::ops::Range<u64>>) {
    let medium = DiskMedium::open(&disk.path, Access::Read).unwrap();
    let mut found = survey(&medium, Effort::Look).unwrap();
    let used = found.map.used_in(128 * 1024..32 * MIB);
    (found.areas.remove(0), used)
}

/// A device that the kernel swaps to; not any more when dropped.
struct Swap<'a>(&'a Path);

impl<'a> Swap<'a> {
    fn on(device: &'a Path) -> Self {
        run("swapon", [device.as_os_str()]).unwrap();
        Self(device)
    }
}

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("swapoff").arg(self.0).output();
    }
}

#[test]
fn only_what_is_swap_for_sure_is_left_out_and_never_its_end() {
    let disk = LoopDevice::new("g2c-block-swap", 32 * MIB, 512).unwrap();
    // Room for 15 pages: a machine in need would use more.
    let name = disk.path.to_str().unwrap();
    run("mkswap", [name, "64"].map(OsStr::new)).unwrap();
    let tail = 32 * MIB - 64 * 1024..32 * MIB;
    assert_eq!(area_and_used(&disk).1, std::slice::from_ref(&tail));
    // Past the device: the kernel lets nobody write to one that it swaps to.
    let raw = std::fs::File::options().write(true).open(&disk.backing).unwrap();
    let put = |bytes: &[u8], at: u64| {
        raw.write_all_at(bytes, at).unwrap();
        raw.sync_all().unwrap();
    };
    // In use for swapping, whatever its header says by now; not in use; in use for something else.
    let swap = Swap::on(&disk.path);
    put(&[2], 1024);
    let (area, used) = area_and_used(&disk);
    drop(swap);
    assert_eq!(used, [tail], "{area:?}");
    assert!(area_and_used(&disk).0.method.contains("only the signature"));
    put(&[1], 1024);
    assert_eq!(area_and_used(&disk).0.method, "header only");
    const EXCLUSIVE: i32 = rustix::fs::OFlags::EXCL.bits() as i32;
    let mut user = std::fs::File::options();
    let user = user.read(true).custom_flags(EXCLUSIVE).open(&disk.path).unwrap();
    assert!(area_and_used(&disk).0.method.contains("not for swapping"));
    drop(user);
    // A pool of ZFS made over it leaves the first 8 KiB alone.
    put(&0x0210_da7a_b10c_7a11_u64.to_le_bytes(), 128 * 1024 - 40);
    let (area, used) = area_and_used(&disk);
    assert_eq!(used, std::slice::from_ref(&(128 * 1024..32 * MIB)), "{area:?}");
}
