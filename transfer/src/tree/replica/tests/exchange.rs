//! Export and import: round trips, and foreign bytes.

use proptest::prelude::*;

use super::super::manifest::Manifest;
use super::super::run::{self, Column, Run, RunWriter, item};
use super::model::any_generation;
use super::*;

fn sealed(folder: &Path, generations: &[Vec<Record>]) -> Replica {
    let mut replica = Replica::create(folder, [5; 16]).unwrap();
    for records in generations {
        replica.append(records).unwrap();
        replica.seal().unwrap();
    }
    replica
}

fn pieces(replica: &Replica, have: Version) -> Vec<Vec<u8>> {
    replica.export(have).unwrap().collect::<Result<_>>().unwrap()
}

fn many_files(prefix: &str, count: u64) -> Vec<Record> {
    (0..count)
        .map(|at| Record::Entry(file(&format!("{prefix}/file-{at}"), at, at, 0)))
        .collect()
}

#[test]
fn a_peer_gets_only_what_it_lacks() {
    let base = scratch();
    let first = many_files("a", 5000);
    let mut target = sealed(&base.path().join("target"), std::slice::from_ref(&first));
    let source = sealed(&base.path().join("source"), &[first]);
    assert_eq!(source.version(), target.version());
    assert_eq!(
        pieces(&target, source.version()).len(),
        1,
        "equal peers exchange a header alone"
    );
    let whole: usize = pieces(&target, Version::default()).iter().map(Vec::len).sum();

    target.append(&many_files("b", 50)).unwrap();
    target.checkpoint().unwrap();
    drop(target);
    // A crash: the target seals on its own, the source comes back with what it had.
    let target = Replica::open(&base.path().join("target")).unwrap().unwrap();
    let have = source.version();
    drop(source);
    let delta = pieces(&target, have);
    assert!(delta.iter().map(Vec::len).sum::<usize>() < whole / 10);
    let source = Replica::import(&base.path().join("source"), delta.into_iter().map(Ok)).unwrap();
    assert_eq!(source.version(), target.version());
    assert_eq!(contents(&source), contents(&target));

    let unknown = Version {
        digest: digest(1),
        ..have
    };
    let all = pieces(&target, unknown);
    assert!(all.iter().all(|piece| piece.len() <= EXPORT_PIECE_LEN_MAX));
    let lost = Replica::import(&base.path().join("lost"), all.into_iter().map(Ok)).unwrap();
    assert_eq!(
        (lost.version(), lost.migration()),
        (target.version(), target.migration())
    );
    assert_eq!(contents(&lost), contents(&target));
}

#[test]
fn peers_go_on_alike_after_an_import() {
    let base = scratch();
    let mut target = sealed(
        &base.path().join("target"),
        &[many_files("a", 300), many_files("b", 10)],
    );
    let all = pieces(&target, Version::default());
    let mut source = Replica::import(&base.path().join("source"), all.into_iter().map(Ok)).unwrap();
    for replica in [&mut target, &mut source] {
        replica
            .append(&[Record::Rename {
                from: path("a"),
                to: path("c"),
            }])
            .unwrap();
        replica.append(&many_files("c", 2)).unwrap();
        replica.seal().unwrap();
    }
    assert_eq!(source.version(), target.version());
    assert_eq!(contents(&source), contents(&target));
}

#[test]
fn an_import_that_fails_leaves_what_was_there() {
    let base = scratch();
    let target = sealed(
        &base.path().join("target"),
        &[many_files("a", 3000), many_files("b", 10)],
    );
    let folder = base.path().join("source");
    let before = contents(&sealed(&folder, &[many_files("old", 3)]));
    let all = pieces(&target, Version::default());
    let broken = |pieces: Vec<Result<Vec<u8>>>, context: &str| {
        let error = Replica::import(&folder, pieces)
            .err()
            .unwrap_or_else(|| panic!("taken over: {context}"));
        let replica = Replica::open(&folder).unwrap().unwrap();
        assert_eq!(contents(&replica), before);
        error
    };
    broken(Vec::new(), "nothing");
    broken(all[..all.len() - 1].iter().cloned().map(Ok).collect(), "cut");
    broken(all.iter().cloned().chain([vec![0]]).map(Ok).collect(), "longer");
    let lost = broken(
        vec![Ok(all[0].clone()), Err(Error::new(Kind::Retry, "receive"))],
        "broken link",
    );
    assert_eq!(lost.kind(), Kind::Retry, "the link's own error comes through");
    for (piece, at) in [
        (0, 3),
        (0, 40),
        (1, 9),
        (1, 700),
        (1, all[1].len() - 60),
        (1, all[1].len() - 1),
    ] {
        let mut damaged = all.clone();
        damaged[piece][at] ^= 0x10;
        assert_eq!(
            broken(damaged.into_iter().map(Ok).collect(), "damaged").kind(),
            Kind::Corrupt,
            "{piece} {at}"
        );
    }
    let imported = Replica::import(&folder, all.into_iter().map(Ok)).unwrap();
    assert_eq!(contents(&imported), contents(&target));
}

/// An export of one run that a hostile peer made with right digests and counts.
fn forge(folder: &Path, items: &[(Column, Vec<u8>, u8, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut writer = RunWriter::create(folder, 1).unwrap();
    for (column, key, kind, payload) in items {
        writer.put(*column, key, *kind, payload).unwrap();
    }
    let mut info = writer.finish().unwrap();
    info.generation_first = 1;
    info.generation_last = 1;
    let manifest = Manifest {
        migration: [5; 16],
        generation: 1,
        state: info.state,
        next_number: 3,
        log: 2,
        runs: vec![info.clone()],
    };
    let run = Arc::new(Run::open(folder, &info).unwrap());
    let export = Export::new(&manifest, &[run], Version::default());
    export.collect::<Result<_>>().unwrap()
}

fn import_forged(items: &[(Column, Vec<u8>, u8, Vec<u8>)]) -> Result<Replica> {
    let base = scratch();
    let forged = forge(base.path(), items);
    Replica::import(&base.path().join("replica"), forged.into_iter().map(Ok))
}

#[test]
fn well_signed_nonsense_is_refused() {
    use super::super::{key, record, walk};
    let good = record::encode_entry(&file("a", 1, 9, 2), Vec::new());
    let key = key::of(&path("a"));
    let one = |column, key: &[u8], kind, payload: &[u8]| vec![(column, key.to_vec(), kind, payload.to_vec())];
    assert!(import_forged(&one(Column::Entries, &key, item::CHUNKED, &good)).is_ok());
    let group = walk::group_key(&key, 1);
    let bad = [
        one(Column::Entries, b"\0\0..", item::CHUNKED, &good),
        one(Column::Entries, b"a/b\0\0c", item::CHUNKED, &good),
        one(Column::Entries, b"a", item::CHUNKED, &good),
        one(Column::Entries, &key, item::ENTRY, &good),
        one(Column::Entries, &key, item::CHUNKED, &[&good[..], &[0]].concat()),
        one(Column::Entries, &key, item::TOMBSTONE, b"x"),
        one(Column::Chunks, &key, item::GROUP, b""),
        one(Column::Chunks, &group, item::GROUP, b"\x01"),
        one(
            Column::Chunks,
            &group,
            item::GROUP,
            b"\x01\x01\x00\xff\xff\xff\xff\x0f\x00",
        ),
        one(Column::Chunks, &group, item::LIMIT, b"\x01"),
        one(
            Column::Chunks,
            &walk::group_key(&key, u64::MAX),
            item::GROUP,
            b"\x01\x01\x00\x01\x00",
        ),
        one(Column::Removed, b"a\0", item::GROUP, b""),
        [
            one(Column::Removed, b"a\0", item::REMOVED, b""),
            one(Column::Removed, b"a\0\x01b\0", item::REMOVED, b""),
        ]
        .concat(),
    ];
    for items in bad {
        assert_eq!(
            import_forged(&items)
                .err()
                .unwrap_or_else(|| panic!("{items:?}"))
                .kind(),
            Kind::Corrupt
        );
    }
}

fn any_item() -> impl Strategy<Value = (Column, Vec<u8>, u8, Vec<u8>)> {
    let bytes = || prop::collection::vec(prop::sample::select(&b"\0\x01\x02\x7f\x80\xff/.ab"[..]), 0..24);
    let column = prop::sample::select(&[Column::Entries, Column::Chunks, Column::Removed][..]);
    (column, bytes(), 0..9u8, bytes()).prop_map(|(column, key, kind, tail)| {
        let payload = match kind {
            // A counted kind has at least a length.
            item::ENTRY | item::CHUNKED | item::TORN => [&[5u8][..], &tail].concat(),
            _ => tail,
        };
        (column, key, kind, payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_exported_and_imported(generations in prop::collection::vec(any_generation(), 1..4)) {
        let base = scratch();
        let target = sealed(&base.path().join("target"), &generations);
        let source = sealed(&base.path().join("source"), &generations[..generations.len() - 1]);
        let have = source.version();
        drop(source);
        let delta = pieces(&target, have);
        let source = Replica::import(&base.path().join("source"), delta.into_iter().map(Ok)).unwrap();
        prop_assert_eq!(source.version(), target.version());
        prop_assert_eq!(contents(&source), contents(&target));
    }

    #[test]
    fn forged_items_never_panic(mut items in prop::collection::vec(any_item(), 0..6)) {
        items.sort_by(|a, b| (a.0 as usize, &a.1).cmp(&(b.0 as usize, &b.1)));
        items.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        if let Ok(replica) = import_forged(&items) {
            contents(&replica);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let base = scratch();
        prop_assert!(Replica::import(base.path(), [Ok(bytes.clone())]).is_err());
        prop_assert!(Manifest::decode(&bytes).is_none());
        let target = sealed(&base.path().join("target"), &[many_files("a", 3)]);
        let mut all = pieces(&target, Version::default());
        for (at, value) in flips {
            let piece = at.index(all.len());
            let at = at.index(all[piece].len());
            all[piece][at] = value;
        }
        let _ = Replica::import(&base.path().join("source"), all.into_iter().map(Ok));
        fs::write(base.path().join(run::file_name(9)), &bytes).unwrap();
        let mut info = target.manifest.runs[0].clone();
        info.number = 9;
        info.len = bytes.len() as u64;
        prop_assert!(Run::open(base.path(), &info).is_err());
    }
}
