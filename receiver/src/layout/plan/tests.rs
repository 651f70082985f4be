use super::super::inventory::{ArrayRecord, TableRecord};
use super::*;

const GIB: u64 = 1 << 30;

fn lvm_system() -> Inventory {
    let partition = |number, start: u64, size: u64, kind: &str| PartitionRecord {
        number,
        start,
        size,
        kind: kind.to_owned(),
        ..PartitionRecord::default()
    };
    let logical = |name: &str, kind: &str, at: Option<&str>, len, used| VolumeRecord {
        place: Place::Logical {
            group: "vg-0".to_owned(),
            name: name.to_owned(),
        },
        kind: kind.to_owned(),
        mounted_at: at.map(str::to_owned),
        len,
        used,
        ..VolumeRecord::default()
    };
    Inventory {
        version: 1,
        disks: vec![DiskRecord {
            name: "/dev/sda".to_owned(),
            len: 40 * GIB,
            sector_len: 512,
            table: Some(TableRecord {
                label: "dos".to_owned(),
                id: "0x12345678".to_owned(),
                partitions: vec![
                    partition(1, 2048, 2097152, "83"),
                    partition(2, 2099200, 40 * GIB / 512 - 2099200, "8e"),
                ],
            }),
        }],
        volumes: vec![
            logical("root", "xfs", Some("/"), 20 * GIB, Some(2 * GIB)),
            VolumeRecord {
                place: Place::Partition { disk: 0, number: 1 },
                kind: "ext4".to_owned(),
                mounted_at: Some("/boot".to_owned()),
                len: GIB,
                used: Some(GIB / 4),
                ..VolumeRecord::default()
            },
            logical("swap", "swap", None, 2 * GIB, None),
        ],
        groups: vec![GroupRecord {
            name: "vg-0".to_owned(),
            extent_len: 4 << 20,
            members: vec![Place::Partition { disk: 0, number: 2 }],
            member_uuids: vec!["PVUUID".to_owned()],
            logical: [("root", 20 * GIB), ("swap", 2 * GIB)]
                .map(|(name, len)| LogicalRecord {
                    name: name.to_owned(),
                    len,
                    layout: "linear".to_owned(),
                })
                .to_vec(),
        }],
        ..Inventory::default()
    }
}

fn lines(layout: &Layout) -> Vec<String> {
    layout
        .actions
        .iter()
        .map(|action| action.argv.join(" "))
        .collect()
}

fn targets(gibibytes: u64) -> Vec<(PathBuf, TargetDisk)> {
    vec![(
        "/dev/vda".into(),
        TargetDisk {
            len: gibibytes * GIB,
            sector_len: 512,
        },
    )]
}

const KEEP: Freedom = Freedom {
    minify: false,
    grow: false,
};

#[test]
fn a_system_on_lvm_is_made_again_in_order() {
    let layout = plan(&lvm_system(), &targets(40), KEEP).unwrap();
    let lines = lines(&layout);
    assert_eq!(
        lines[0],
        "sfdisk --quiet --wipe always --wipe-partitions always /dev/vda"
    );
    assert_eq!(
        lines[1],
        "lvm pvcreate -ff --yes --uuid PVUUID --norestorefile /dev/vda2"
    );
    assert_eq!(
        lines[2],
        "lvm vgcreate --yes --physicalextentsize 4194304b vg-0 /dev/vda2"
    );
    assert_eq!(
        lines[3],
        "lvm lvcreate --yes --wipesignatures y --zero y --extents 5120 --name root vg-0"
    );
    assert!(
        lines[5].starts_with("mkfs.xfs") && lines[5].ends_with("/dev/vg-0/root"),
        "{lines:?}"
    );
    let mounts: Vec<&str> = layout.mounts.iter().map(|mount| mount.at.as_str()).collect();
    assert_eq!(mounts, ["/", "/boot"]);
}

#[test]
fn logical_volumes_shrink_with_their_disk() {
    let freedom = Freedom {
        minify: true,
        grow: false,
    };
    let layout = plan(&lvm_system(), &targets(10), freedom).unwrap();
    let line = lines(&layout)
        .into_iter()
        .find(|line| line.contains("--name root"))
        .unwrap();
    let extents: u64 = line
        .split_once("--extents ")
        .unwrap()
        .1
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        extents * (4 << 20) > 5 * GIB && extents * (4 << 20) < 8 * GIB,
        "{line}"
    );
}

#[test]
fn the_root_volume_gets_what_a_larger_disk_has_more_when_that_is_asked_for() {
    let root = |grow: bool| {
        let freedom = Freedom { minify: false, grow };
        let lines = lines(&plan(&lvm_system(), &targets(50), freedom).unwrap());
        lines
            .into_iter()
            .find(|line| line.contains("--name root"))
            .unwrap()
    };
    assert!(root(false).contains("--extents 5120 "), "{}", root(false));
    // 10 GiB are 2560 extents.
    assert!(root(true).contains("--extents 7680 "), "{}", root(true));
}

/// Two disks, a small mirror for `/boot`, a large one for a volume group.
fn mirrored_system() -> Inventory {
    let mut inventory = lvm_system();
    inventory.disks.push(inventory.disks[0].clone());
    let array = |number: u32, metadata: &str, data_offset: Option<u64>, len: u64| ArrayRecord {
        device: format!("md{number}"),
        level: "raid1".to_owned(),
        metadata: metadata.to_owned(),
        uuid: format!("{number}:b:c:d"),
        name: Some(format!("old-host:{number}")),
        bitmap: number == 1,
        data_offset,
        len,
        members: (0..2)
            .map(|disk| {
                let number = number + 1;
                Some(Place::Partition { disk, number })
            })
            .collect(),
        ..ArrayRecord::default()
    };
    inventory.arrays = vec![
        array(0, "1.0", None, GIB - (1 << 20)),
        array(1, "1.2", Some(2 << 20), 39 * GIB - (4 << 20)),
    ];
    inventory.groups[0].members = vec![Place::Array {
        device: "md1".to_owned(),
    }];
    inventory.volumes[1].place = Place::Array {
        device: "md0".to_owned(),
    };
    inventory
}

#[test]
fn mirrors_are_made_again_below_what_lies_on_them() {
    let targets = [targets(40), vec![("/dev/vdb".into(), targets(40)[0].1)]].concat();
    let lines = lines(&plan(&mirrored_system(), &targets, KEEP).unwrap());
    let expected = [
        "sfdisk --quiet --wipe always --wipe-partitions always /dev/vda",
        "sfdisk --quiet --wipe always --wipe-partitions always /dev/vdb",
        "mdadm --create /dev/md0 --run --level=raid1 --raid-devices=2 --metadata=1.0 --uuid=0:b:c:d --homehost=old-host \
         --name=0 --bitmap=none /dev/vda1 /dev/vdb1",
        "mdadm --create /dev/md1 --run --level=raid1 --raid-devices=2 --metadata=1.2 --uuid=1:b:c:d --homehost=old-host \
         --name=1 --bitmap=internal --data-offset=2048K /dev/vda2 /dev/vdb2",
        "lvm pvcreate -ff --yes --uuid PVUUID --norestorefile /dev/md1",
        "lvm vgcreate --yes --physicalextentsize 4194304b vg-0 /dev/md1",
    ];
    assert_eq!(lines[..6], expected);
    assert!(lines[9].ends_with("/dev/md0"), "{lines:?}");
}

#[test]
fn a_mirror_grows_only_with_all_its_disks() {
    let freedom = Freedom {
        minify: false,
        grow: true,
    };
    let root = |second: u64| {
        let targets = [targets(50), vec![("/dev/vdb".into(), targets(second)[0].1)]].concat();
        let lines = lines(&plan(&mirrored_system(), &targets, freedom).unwrap());
        lines
            .into_iter()
            .find(|line| line.contains("--name root"))
            .unwrap()
    };
    assert!(root(40).contains("--extents 5120 "), "{}", root(40));
    assert!(root(50).contains("--extents 7680 "), "{}", root(50));
}

#[test]
fn a_degraded_mirror_stays_one_and_a_container_is_refused() {
    let mut inventory = mirrored_system();
    inventory.arrays[0].members[0] = None;
    let targets = [targets(40), vec![("/dev/vdb".into(), targets(40)[0].1)]].concat();
    let made = lines(&plan(&inventory, &targets, KEEP).unwrap());
    assert!(made[2].ends_with(" missing /dev/vdb1"), "{made:?}");
    inventory.arrays[0].metadata = "external:imsm".to_owned();
    inventory.arrays[1].members[0] = Some(Place::Unknown);
    let refusals = plan(&inventory, &targets, KEEP).unwrap_err();
    assert!(
        refusals[0].contains("md0") && refusals[0].contains("external:imsm"),
        "{refusals:?}"
    );
    assert!(refusals[1].contains("md1"), "{refusals:?}");
}

#[test]
fn all_refusals_come_at_once() {
    let mut inventory = lvm_system();
    inventory.groups[0].logical[0].layout = "thin,sparse".to_owned();
    inventory.volumes.push(VolumeRecord {
        kind: "ext4".to_owned(),
        mounted_at: Some("/data".to_owned()),
        ..VolumeRecord::default()
    });
    let refusals = plan(&inventory, &targets(10), KEEP).unwrap_err();
    assert_eq!(
        refusals
            .iter()
            .filter(|text| text.contains("thin") || text.contains("/data") || text.contains("--minify"))
            .count(),
        3,
        "{refusals:?}"
    );
    assert!(plan(&lvm_system(), &[], KEEP).unwrap_err()[0].contains("0 were named"));
}

#[test]
fn nodes_are_named_as_the_kernel_does() {
    assert_eq!(partition_node(Path::new("/dev/vda"), 2), Path::new("/dev/vda2"));
    assert_eq!(
        partition_node(Path::new("/dev/nvme0n1"), 2),
        Path::new("/dev/nvme0n1p2")
    );
    assert_eq!(partition_node(Path::new("/dev/vda"), 0), Path::new("/dev/vda"));
}
