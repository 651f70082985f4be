//! A directory of a million names.

use std::fs;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use transfer::tree::capture::Directory;
use transfer::tree::entry::EntryPath;
use transfer::tree::write::TreeWriter;

const COUNT: u32 = 1_000_000;

#[test]
fn a_million_names_are_read_in_little_memory_and_removed() {
    // On tmpfs, as further names of one file: that makes a million of them cheap.
    let folder = tempfile::Builder::new()
        .prefix("g2c-writer-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let wide = folder.path().join("wide");
    fs::create_dir(&wide).unwrap();
    fs::write(folder.path().join("file"), b"x").unwrap();
    let at = rustix::fs::open(&wide, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for index in 0..COUNT {
        let name = format!("name-{index:08}");
        rustix::fs::linkat(CWD, folder.path().join("file"), &at, name, AtFlags::empty()).unwrap();
    }
    let mut names = Directory::open_root(&wide).unwrap().names().unwrap();
    names.sort();
    assert_eq!(names.len(), COUNT as usize);
    let all_there = names
        .iter()
        .zip(0..)
        .all(|(name, index)| name.bytes() == format!("name-{index:08}").as_bytes());
    assert!(all_there);
    let name_len = "name-00000000".len();
    let overhead = names.memory_len() / COUNT as usize - name_len;
    assert!(overhead <= 40, "{overhead} bytes a name");
    drop(names);
    let mut writer = TreeWriter::open(folder.path()).unwrap();
    assert!(
        writer
            .remove(&EntryPath::parse(*b"wide").unwrap())
            .unwrap()
            .is_empty()
    );
    assert!(!wide.exists());
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&fs::metadata(folder.path().join("file")).unwrap()),
        1
    );
}
