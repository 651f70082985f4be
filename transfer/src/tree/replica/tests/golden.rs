//! Formats that must not change: golden bytes.

use super::super::record::{self, Identity};
use super::*;
use crate::tree::entry::{Time, Xattr};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn full_entry() -> Entry {
    Entry {
        path: path("a/b"),
        stamp: Stamp {
            file_system: 1,
            ino: 300,
            birth_ns: -1,
            size: 5,
            mtime: Time { sec: 2, nsec: 3 },
            ctime: Time { sec: 4, nsec: 5 },
            clean: true,
        },
        meta: Meta {
            mode: 0o644,
            uid: 6,
            gid: 7,
            atime: Time { sec: 8, nsec: 9 },
            mtime: Time { sec: 2, nsec: 3 },
            xattrs: vec![Xattr {
                name: b"user.x".to_vec(),
                value: b"y".to_vec(),
            }],
            flags: 0x10,
            project: 11,
        },
        node: Node::File(Content {
            len: 5,
            digest: Digest([0xab; 32]),
            chunk_log2: 16,
        }),
    }
}

#[test]
fn records_have_their_bytes() {
    let digest = "ab".repeat(32);
    let rest = format!("01ac0201050403080501a4030607100904030106757365722e780179100b0105{digest}10");
    let records = [
        Record::Entry(full_entry()),
        Record::Chunks {
            path: path("f"),
            ino: 300,
            chunk_log2: 16,
            first: 1,
            digests: vec![Digest([0xab; 32])],
        },
        Record::Remove { path: path("f") },
        Record::Rename {
            from: path("f"),
            to: path("g"),
        },
        Record::Intent {
            path: path("f"),
            chunks: vec![(1, 2)],
        },
    ];
    let bytes = records.map(|record| hex(&postcard::to_stdvec(&record).unwrap()));
    let golden = [
        format!("0003612f62{rest}"),
        format!("010166ac02100101{digest}"),
        "020166".into(),
        "0301660167".into(),
        "040166010102".into(),
    ];
    assert_eq!(bytes, golden);
    assert_eq!(
        hex(&record::encode_entry(&full_entry(), Vec::new())),
        format!("0510ac02{rest}")
    );
}

#[test]
fn groups_have_their_bytes() {
    let identity = Identity {
        ino: 300,
        chunk_log2: 16,
    };
    let mut slots = [None; GROUP_LEN];
    slots[1] = Some(Digest([0xab; 32]));
    slots[2] = Some(Digest::default());
    slots[3] = Some(Digest::default());
    let mut bytes = Vec::new();
    record::encode_group(identity, &slots, &mut bytes);
    assert_eq!(hex(&bytes), format!("ac0210010101{}020200", "ab".repeat(32)));
    let mut back = [None; GROUP_LEN];
    assert_eq!(record::apply_group(&bytes, &mut back), Some(identity));
    assert_eq!(back, slots);
}

/// The records of the fixture: a sealed generation and one under way.
fn fixture_records() -> [Vec<Record>; 2] {
    let chunks = Record::Chunks {
        path: path("a/b"),
        ino: 300,
        chunk_log2: 16,
        first: 0,
        digests: vec![Digest([0xab; 32])],
    };
    let sealed = vec![
        Record::Entry(entry("", 1, Node::Directory)),
        Record::Entry(entry("a", 2, Node::Directory)),
        chunks,
        Record::Entry(full_entry()),
        Record::Remove { path: path("gone") },
    ];
    let unfinished = vec![
        Record::Rename {
            from: path("a/b"),
            to: path("c"),
        },
        Record::Entry(entry(
            "a/link",
            3,
            Node::Symlink {
                target: b"../c".to_vec(),
            },
        )),
    ];
    [sealed, unfinished]
}

#[test]
fn a_replica_of_the_first_release_is_read() {
    let folder = scratch();
    for (name, bytes) in [
        ("MANIFEST", &include_bytes!("fixture/MANIFEST")[..]),
        ("run-2", include_bytes!("fixture/run-2")),
        ("log-3", include_bytes!("fixture/log-3")),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut model = model::Model::default();
    fixture_records().iter().for_each(|records| model.apply(records));
    let replica = Replica::open(folder.path()).unwrap().unwrap();
    assert_eq!(replica.migration(), [9; 16]);
    assert_eq!(replica.generation(), 2);
    assert_eq!(contents(&replica), model.contents());
}

/// Writes the fixture anew: only when a format gets a new version, beside the old one.
#[test]
#[ignore = "writes the fixture that the test above reads"]
fn write_fixture() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tree/replica/tests/fixture");
    let mut replica = Replica::create(&folder, [9; 16]).unwrap();
    let [sealed, unfinished] = fixture_records();
    replica.append(&sealed).unwrap();
    replica.seal().unwrap();
    replica.append(&unfinished).unwrap();
    replica.checkpoint().unwrap();
}
