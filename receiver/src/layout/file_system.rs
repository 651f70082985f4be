//! Commands that make file systems like the source's: same UUID, label, block and inode sizes, and not one feature
//! more. Today's defaults may be unreadable for the guest's older kernel or GRUB.

use super::inventory::VolumeRecord;

/// States of an ext file system that `dumpe2fs` lists among its features.
const EXT_STATES: &[&str] = &["needs_recovery", "orphan_present", "mmp", "has_snapshot"];

/// The command that formats `device` like `volume`.
///
/// # Errors
/// Why it cannot be made, for people.
pub fn command(volume: &VolumeRecord, device: &str) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = match volume.kind.as_str() {
        "ext2" | "ext3" | "ext4" => ext(volume),
        "xfs" => xfs(volume),
        "btrfs" => btrfs(volume),
        "vfat" => vfat(volume),
        "swap" => swap(volume),
        other => {
            return Err(format!(
                "file systems of type {other} cannot be made; migrate {device} as a disk"
            ));
        }
    };
    words.push(device.to_owned());
    Ok(words)
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn option(words: &mut Vec<String>, name: &str, value: Option<&String>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        words.extend([name.to_owned(), value.clone()]);
    }
}

fn ext(volume: &VolumeRecord) -> Vec<String> {
    let mut words = strings(&[
        "mke2fs",
        "-q",
        "-F",
        "-t",
        &volume.kind,
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
    ]);
    let features: Vec<&str> = volume
        .format
        .features
        .iter()
        .map(String::as_str)
        .filter(|name| !EXT_STATES.contains(name))
        .collect();
    if !features.is_empty() {
        words.extend(["-O".to_owned(), format!("none,{}", features.join(","))]);
    }
    option(
        &mut words,
        "-b",
        volume.format.block_len.map(|len| len.to_string()).as_ref(),
    );
    option(
        &mut words,
        "-I",
        volume.format.inode_len.map(|len| len.to_string()).as_ref(),
    );
    option(&mut words, "-U", volume.uuid.as_ref());
    option(&mut words, "-L", volume.label.as_ref());
    words
}

fn xfs(volume: &VolumeRecord) -> Vec<String> {
    let known = |names: &[&str]| -> Vec<String> {
        let is_known = |feature: &&String| names.contains(&feature.split('=').next().unwrap_or_default());
        volume.format.features.iter().filter(is_known).cloned().collect()
    };
    let mut metadata = known(&["crc", "finobt", "rmapbt", "reflink", "bigtime", "inobtcount"]);
    metadata.extend(volume.uuid.iter().map(|uuid| format!("uuid={uuid}")));
    let mut inodes = known(&["sparse", "nrext64"]);
    inodes.extend(volume.format.inode_len.map(|len| format!("size={len}")));
    let mut words = strings(&["mkfs.xfs", "-q", "-f"]);
    option(
        &mut words,
        "-b",
        volume.format.block_len.map(|len| format!("size={len}")).as_ref(),
    );
    for (name, values) in [("-m", metadata), ("-i", inodes), ("-n", known(&["ftype"]))] {
        option(&mut words, name, Some(&values.join(",")));
    }
    option(&mut words, "-L", volume.label.as_ref());
    words
}

fn btrfs(volume: &VolumeRecord) -> Vec<String> {
    let mut words = strings(&["mkfs.btrfs", "-q", "-f"]);
    option(
        &mut words,
        "-n",
        volume.format.inode_len.map(|len| len.to_string()).as_ref(),
    );
    option(
        &mut words,
        "-s",
        volume.format.block_len.map(|len| len.to_string()).as_ref(),
    );
    option(&mut words, "-U", volume.uuid.as_ref());
    option(&mut words, "-L", volume.label.as_ref());
    words
}

fn vfat(volume: &VolumeRecord) -> Vec<String> {
    let mut words = strings(&["mkfs.vfat", "-F", "32"]);
    option(
        &mut words,
        "-i",
        volume
            .uuid
            .as_ref()
            .map(|serial| serial.replace('-', ""))
            .as_ref(),
    );
    option(&mut words, "-n", volume.label.as_ref());
    words
}

fn swap(volume: &VolumeRecord) -> Vec<String> {
    let mut words = strings(&["mkswap", "-q"]);
    option(&mut words, "-U", volume.uuid.as_ref());
    option(&mut words, "-L", volume.label.as_ref());
    words
}

/// Options that older tools do not know, to be left out when the first attempt fails because of them.
pub fn without_new_options(argv: &[String]) -> Option<Vec<String>> {
    let is_new = |word: &str| word.starts_with("nrext64=") || word == "-q";
    let shorter: Vec<String> = argv
        .iter()
        .filter(|word| word.as_str() != "-q")
        .map(|word| {
            word.split(',')
                .filter(|part| !is_new(part))
                .collect::<Vec<_>>()
                .join(",")
        })
        .collect();
    (shorter != argv).then_some(shorter)
}

#[cfg(test)]
mod tests {
    use super::super::inventory::Format;
    use super::*;

    fn volume(kind: &str, features: &[&str]) -> VolumeRecord {
        VolumeRecord {
            kind: kind.to_owned(),
            uuid: Some("1234-ABCD".to_owned()),
            label: Some("my root".to_owned()),
            format: Format {
                features: strings(features),
                block_len: Some(4096),
                inode_len: Some(256),
                ..Format::default()
            },
            ..VolumeRecord::default()
        }
    }

    #[test]
    fn features_are_the_sources_and_no_others() {
        let ext4 = command(
            &volume("ext4", &["has_journal", "needs_recovery", "extent"]),
            "/dev/vda1",
        )
        .unwrap()
        .join(" ");
        assert_eq!(
            ext4,
            "mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -O none,has_journal,extent -b 4096 -I 256 -U 1234-ABCD -L my root /dev/vda1"
        );
        let xfs = command(
            &volume(
                "xfs",
                &["crc=1", "reflink=0", "nrext64=0", "ftype=1", "sparse=1", "attr=2"],
            ),
            "/dev/x",
        )
        .unwrap();
        let expected = "mkfs.xfs -q -f -b size=4096 -m crc=1,reflink=0,uuid=1234-ABCD -i nrext64=0,sparse=1,size=256 \
                        -n ftype=1 -L my root /dev/x";
        assert_eq!(xfs.join(" "), expected);
        let older = without_new_options(&xfs).unwrap().join(" ");
        assert!(
            !older.contains("nrext64") && older.contains("-i sparse=1,size=256"),
            "{older}"
        );
        let vfat = command(&volume("vfat", &[]), "/dev/x").unwrap().join(" ");
        assert_eq!(vfat, "mkfs.vfat -F 32 -i 1234ABCD -n my root /dev/x");
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert!(
            command(&volume("zfs_member", &[]), "/dev/x")
                .unwrap_err()
                .contains("as a disk")
        );
    }
}
