//! Many entries: many blocks, many runs, merges of both kinds.

use std::collections::BTreeMap;

use super::*;

/// Sorted as the replica sorts.
type Map = BTreeMap<Vec<u8>, Entry>;

fn key_of(path: &EntryPath) -> Vec<u8> {
    key::of(path)
}

fn expected(map: &Map) -> Vec<&Entry> {
    map.values().collect()
}

fn check(replica: &Replica, map: &Map) {
    let found: Vec<_> = replica.snapshot().iter().collect::<Result<_>>().unwrap();
    assert!(
        found.iter().eq(expected(map)),
        "{} entries, {} expected",
        found.len(),
        map.len()
    );
}

fn upsert(map: &mut Map, records: &mut Vec<Record>, entry: Entry) {
    map.insert(key_of(&entry.path), entry.clone());
    records.push(Record::Entry(entry));
}

fn seal(replica: &mut Replica, records: &mut Vec<Record>) {
    replica.append(records).unwrap();
    replica.seal().unwrap();
    records.clear();
}

#[test]
fn many_entries_in_many_generations() {
    let folder = scratch();
    let mut replica = Replica::create(folder.path(), [4; 16]).unwrap();
    let (mut map, mut records) = (Map::new(), Vec::new());
    for directory in 0..300 {
        upsert(
            &mut map,
            &mut records,
            entry(
                &format!("directory-{directory}"),
                1000 + directory,
                Node::Directory,
            ),
        );
        for at in 0..100 {
            let name = format!("directory-{directory}/file-{at}");
            upsert(
                &mut map,
                &mut records,
                file(&name, 10_000 + directory * 100 + at, at, 0),
            );
        }
    }
    seal(&mut replica, &mut records);
    assert_eq!(replica.entries(), map.len() as u64);
    check(&replica, &map);
    let base = replica.manifest.runs[0].number;

    // Small rounds pile up, their runs are merged among themselves, the base stays.
    let mut runs_max = 0;
    for round in 0..12u64 {
        for at in 0..150 {
            let directory = (at * 7 + round * 31) % 300;
            let name = format!("directory-{directory}/file-{}", (at + round) % 120);
            upsert(&mut map, &mut records, file(&name, 50_000 + at, round, 0));
        }
        let gone = path(&format!("directory-{}", 290 - round));
        let prefix = key::below(&gone);
        records.retain(|record| !matches!(record, Record::Entry(entry) if entry.path.is_below(&gone)));
        map.retain(|key, _| !key.starts_with(&prefix) && *key != key_of(&gone));
        records.push(Record::Remove { path: gone });
        seal(&mut replica, &mut records);
        check(&replica, &map);
        runs_max = runs_max.max(replica.runs.len());
    }
    assert_eq!(
        replica.manifest.runs[0].number, base,
        "a small overlay does not rewrite the base"
    );
    assert!((2..=limits::RUNS_MAX).contains(&runs_max), "{runs_max} runs");

    // A large round is merged into the base.
    for directory in 0..200 {
        for at in 0..50 {
            let name = format!("directory-{directory}/file-{at}");
            upsert(&mut map, &mut records, file(&name, 90_000, at, 0));
        }
    }
    seal(&mut replica, &mut records);
    check(&replica, &map);
    assert_eq!(replica.runs.len(), 1);
    assert_eq!(
        replica.entries(),
        map.len() as u64,
        "the count is exact after a merge"
    );
    check_walk(&replica, &map);
    drop(replica);
    check(&Replica::open(folder.path()).unwrap().unwrap(), &map);
}

/// A depth-first walk with a cursor finds everything, as does asking for entries in any order.
fn check_walk(replica: &Replica, map: &Map) {
    let mut cursor = replica.snapshot().cursor();
    let mut found = 0;
    let mut stack = vec![EntryPath::root()];
    while let Some(directory) = stack.pop() {
        let mut last: Option<Entry> = None;
        cursor
            .children(&directory, &mut |entry| {
                assert_eq!(map.get(&key_of(&entry.path)), Some(&entry));
                assert!(
                    last.as_ref()
                        .is_none_or(|last| last.path.replica_cmp(&entry.path).is_lt())
                );
                if entry.node == Node::Directory {
                    stack.push(entry.path.clone());
                }
                last = Some(entry);
                found += 1;
                Ok(())
            })
            .unwrap();
    }
    let orphans = map
        .values()
        .filter(|entry| !map.contains_key(&key_of(&entry.path.parent().unwrap())));
    let top = map
        .values()
        .filter(|entry| entry.path.parent().unwrap().is_root())
        .count();
    assert_eq!(found + orphans.count() - top, map.len());
    for at in (0..map.len()).map(|at| at * 7919 % map.len()).take(500) {
        let wanted = map.values().nth(at).unwrap();
        assert_eq!(cursor.get(&wanted.path).unwrap().as_ref(), Some(wanted));
    }
}

#[test]
fn a_large_directory_is_renamed_with_all_that_is_below() {
    let folder = scratch();
    let mut replica = Replica::create(folder.path(), [4; 16]).unwrap();
    let mut records = vec![Record::Entry(entry("old", 1, Node::Directory))];
    records.extend((0..20_000).map(|at| Record::Entry(file(&format!("old/{at}"), at, at, 0))));
    seal(&mut replica, &mut records);
    let before: Vec<_> = replica.snapshot().iter().collect::<Result<_>>().unwrap();
    // Chained: each reads what the one before wrote.
    for (from, to) in [("old", "between"), ("between", "new"), ("new/77", "77")] {
        records.push(Record::Rename {
            from: path(from),
            to: path(to),
        });
    }
    seal(&mut replica, &mut records);
    let mut wanted: Vec<_> = before
        .into_iter()
        .map(|mut entry| {
            let name = entry.path.display();
            entry.path = path(&if name == "old/77" {
                "77".into()
            } else {
                name.replacen("old", "new", 1)
            });
            entry
        })
        .collect();
    wanted.sort_by(|a, b| a.path.replica_cmp(&b.path));
    assert!(replica.snapshot().iter().map(|entry| entry.unwrap()).eq(wanted));
}

#[test]
fn after_a_failure_it_must_be_opened_again() {
    use super::super::disk::hook;
    let base = scratch();
    let folder = base.path().join("replica");
    let mut replica = Replica::create(&folder, [4; 16]).unwrap();
    replica.append(&[Record::Entry(file("a", 1, 1, 0))]).unwrap();
    hook::arm(0, &base.path().join("graveyard"));
    assert!(replica.checkpoint().is_err());
    hook::disarm();
    for error in [
        replica.checkpoint().err(),
        replica.seal().err(),
        replica.append(&[]).err(),
    ] {
        assert_eq!(error.unwrap().kind(), Kind::Medium);
    }
    assert!(replica.export(Version::default()).is_err());
    drop(replica);
    let mut replica = Replica::open(&folder).unwrap().unwrap();
    replica.append(&[Record::Entry(file("a", 1, 1, 0))]).unwrap();
    replica.seal().unwrap();
    assert_eq!(contents(&replica).len(), 1);
}

#[test]
fn records_out_of_bounds_are_refused_and_do_no_harm() {
    let folder = scratch();
    let mut replica = Replica::create(folder.path(), [4; 16]).unwrap();
    let chunks = |first, count: usize, chunk_log2| Record::Chunks {
        path: path("a"),
        ino: 1,
        chunk_log2,
        first,
        digests: vec![digest(1); count],
    };
    let mut long = file("a", 1, 1, 0);
    long.node = Node::Symlink {
        target: vec![b'x'; crate::limits::ENTRY_LEN_MAX],
    };
    let bad = [
        chunks(0, 0, 16),
        chunks(0, GROUP_LEN + 1, 16),
        chunks(u64::MAX, 1, 16),
        chunks(0, 1, 0),
        chunks(0, 1, 63),
        Record::Rename {
            from: path("a"),
            to: path("a/b"),
        },
        Record::Rename {
            from: path("a"),
            to: path("a"),
        },
        Record::Rename {
            from: path(""),
            to: path("a"),
        },
        Record::Intent {
            path: path("a"),
            chunks: vec![(1, u64::MAX)],
        },
        Record::Intent {
            path: path("a"),
            chunks: vec![(1, 1); 4097],
        },
        Record::Intent {
            path: path(""),
            chunks: vec![(0, 1)],
        },
        Record::Entry(long),
    ];
    for record in bad {
        assert_eq!(
            replica.append(std::slice::from_ref(&record)).unwrap_err().kind(),
            Kind::Usage,
            "{record:?}"
        );
    }
    replica.append(&[chunks(0, GROUP_LEN, 16)]).unwrap();
    replica.seal().unwrap();
    let mut cursor = replica.snapshot().cursor();
    assert_eq!(
        cursor.chunks(&path("a"), 1).unwrap().unwrap().digests.len(),
        GROUP_LEN
    );
    assert!(
        cursor.chunks(&path("a"), 2).unwrap().is_none(),
        "of another inode"
    );
}

#[test]
fn runs_do_not_pile_up_without_end_when_it_never_gets_to_seal() {
    let folder = scratch();
    drop(Replica::create(folder.path(), [4; 16]).unwrap());
    for at in 0..2 * limits::RUNS_UNMERGED_MAX as u64 {
        let mut replica = Replica::open(folder.path()).unwrap().unwrap();
        assert_eq!(replica.generation(), at);
        replica
            .append(&[Record::Entry(file(&at.to_string(), at, 1, 0))])
            .unwrap();
        replica.checkpoint().unwrap();
    }
    let replica = Replica::open(folder.path()).unwrap().unwrap();
    assert_eq!(contents(&replica).len(), 2 * limits::RUNS_UNMERGED_MAX);
    assert!(replica.runs.len() <= limits::RUNS_UNMERGED_MAX + 1);
}
