//! The replica against a map in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the model knows of a path.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    entry: Option<Entry>,
    chunks: Option<((u64, u8), BTreeMap<u64, Digest>)>,
}

/// A generation is applied as the records' documentation says, one path at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    paths: BTreeMap<Vec<u8>, Known>,
}

impl Model {
    pub(super) fn apply(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Rename { from, to } = record {
                self.rename(from, to);
            }
        }
        for record in records {
            if let Record::Remove { path } = record {
                let gone = |key: &Vec<u8>| EntryPath::parse(key.clone()).unwrap().is_below(path);
                self.paths.retain(|key, _| !gone(key));
            }
        }
        let mut stories: BTreeMap<Vec<u8>, Vec<&Record>> = BTreeMap::new();
        for record in records {
            let path = match record {
                Record::Entry(entry) => &entry.path,
                Record::Chunks { path, .. } | Record::Remove { path } | Record::Intent { path, .. } => path,
                Record::Rename { .. } => continue,
            };
            stories.entry(path.as_bytes().to_vec()).or_default().push(record);
        }
        for (path, story) in stories {
            self.paths.entry(path).or_default().follow(&story);
        }
    }

    fn rename(&mut self, from: &EntryPath, to: &EntryPath) {
        let mut moved = BTreeMap::new();
        for (key, known) in &self.paths {
            let path = EntryPath::parse(key.clone()).unwrap();
            if path == *from || path.is_below(from) {
                let rest = &key[from.as_bytes().len()..];
                moved.insert([to.as_bytes(), rest].concat(), known.clone());
            }
        }
        let at = |key: &[u8], top: &EntryPath| {
            let path = EntryPath::parse(key).unwrap();
            path == *top || path.is_below(top)
        };
        self.paths.retain(|key, _| !at(key, from) && !at(key, to));
        for (key, mut known) in moved {
            if let Some(entry) = &mut known.entry {
                entry.path = EntryPath::parse(key.clone()).unwrap();
            }
            self.paths.insert(key, known);
        }
    }

    pub(super) fn contents(&self) -> Contents {
        let mut contents: Contents = self
            .paths
            .values()
            .filter_map(|known| {
                let entry = known.entry.clone()?;
                let chunks = match &entry.node {
                    Node::File(content) if content.chunk_log2 != 0 => known.chunk_digests(entry.stamp.ino),
                    _ => None,
                };
                Some((entry, chunks))
            })
            .collect();
        contents.sort_by(|a, b| a.0.path.replica_cmp(&b.0.path));
        contents
    }
}

impl Known {
    fn chunk_digests(&self, ino: u64) -> Option<ChunkDigests> {
        let ((own, chunk_log2), digests) = self.chunks.as_ref()?;
        let (last, _) = digests.last_key_value().filter(|_| *own == ino)?;
        Some(ChunkDigests {
            chunk_log2: *chunk_log2,
            digests: (0..=*last)
                .map(|at| digests.get(&at).copied().unwrap_or_default())
                .collect(),
        })
    }

    fn follow(&mut self, story: &[&Record]) {
        let last_entry = story
            .iter()
            .rposition(|record| matches!(record, Record::Entry(_)));
        let last_remove = story
            .iter()
            .rposition(|record| matches!(record, Record::Remove { .. }));
        let ended =
            |at: usize| last_entry.is_some_and(|end| end > at) || last_remove.is_some_and(|end| end > at);
        let mut torn = false;
        let mut torn_chunks = BTreeMap::new();
        for (at, record) in story.iter().enumerate() {
            match record {
                Record::Entry(entry) => {
                    self.become_entry(entry);
                    let count = self.count();
                    torn_chunks.retain(|chunk, _| *chunk < count);
                }
                Record::Remove { .. } => {
                    *self = Self::default();
                    torn = false;
                    torn_chunks.clear();
                }
                Record::Chunks {
                    ino,
                    chunk_log2,
                    first,
                    digests,
                    ..
                } => {
                    let id = (*ino, *chunk_log2);
                    if self.chunks.as_ref().is_none_or(|(own, _)| *own != id) {
                        self.chunks = Some((id, BTreeMap::new()));
                    }
                    let own = &mut self.chunks.as_mut().unwrap().1;
                    for (chunk, digest) in (*first..).zip(digests) {
                        torn_chunks.remove(&chunk);
                        match digest.is_unknown() {
                            true => own.remove(&chunk),
                            false => own.insert(chunk, *digest),
                        };
                    }
                }
                Record::Intent { chunks, .. } if chunks.is_empty() => {
                    if !ended(at) {
                        torn = true;
                        torn_chunks.clear();
                        self.chunks.iter_mut().for_each(|(_, digests)| digests.clear());
                    }
                }
                Record::Intent { chunks, .. } => {
                    torn |= !ended(at);
                    for chunk in chunks.iter().flat_map(|(first, count)| *first..first + count) {
                        torn_chunks.insert(chunk, ());
                        if let Some((_, digests)) = &mut self.chunks {
                            digests.remove(&chunk);
                        }
                    }
                }
                Record::Rename { .. } => unreachable!(),
            }
        }
        if torn || !torn_chunks.is_empty() {
            self.tear();
        }
    }

    /// Chunks of the entry; none when it does not travel in chunks.
    fn count(&self) -> u64 {
        match self.entry.as_ref().map(|entry| &entry.node) {
            Some(Node::File(content)) if content.chunk_log2 != 0 => {
                content.len.div_ceil(1 << content.chunk_log2)
            }
            _ => 0,
        }
    }

    fn become_entry(&mut self, entry: &Entry) {
        self.entry = Some(entry.clone());
        let count = self.count();
        let id = match &entry.node {
            Node::File(content) if content.chunk_log2 != 0 => Some((entry.stamp.ino, content.chunk_log2)),
            _ => None,
        };
        self.chunks = match (self.chunks.take(), id) {
            (Some((own, mut digests)), Some(id)) if own == id => {
                digests.retain(|chunk, _| *chunk < count);
                Some((id, digests))
            }
            (_, Some(id)) => Some((id, BTreeMap::new())),
            (_, None) => None,
        };
    }

    fn tear(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.stamp.clean = false;
            if let Node::File(content) = &mut entry.node {
                content.digest = Digest::default();
            }
        }
    }
}

const PATHS: [&str; 14] = [
    "", "a", "b", "c", "a/a", "a/b", "a/c", "a/b/a", "a/b/b", "b/a", "b/b", "b/b/b", "c-", "c-/a",
];

fn any_path_or_root() -> impl Strategy<Value = EntryPath> {
    prop::sample::select(&PATHS[..]).prop_map(path)
}

fn any_path() -> impl Strategy<Value = EntryPath> {
    prop::sample::select(&PATHS[1..]).prop_map(path)
}

fn any_entry() -> impl Strategy<Value = Record> {
    let node = prop_oneof![
        2 => Just(Node::Directory),
        1 => Just(Node::Symlink { target: b"x".to_vec() }),
        3 => (0..5000u64).prop_map(|len| Node::File(Content { len, digest: digest(len), chunk_log2: 0 })),
        6 => (0..8000u64, 1..3u8).prop_map(|(len, chunk_log2)| {
            Node::File(Content { len, digest: digest(len), chunk_log2 })
        }),
    ];
    let record = (any_path_or_root(), 1..3u64, node).prop_map(|(path, ino, node)| {
        let mut entry = entry("", ino, node);
        entry.path = path;
        Record::Entry(entry)
    });
    record.prop_filter("the root is no file", |record| record.flaw().is_none())
}

fn any_chunks() -> impl Strategy<Value = Record> {
    let digests = (1..1024usize, 0..5u64).prop_map(|(len, seed)| {
        // Every seventh is unknown.
        let one = move |at: u64| {
            if (at + seed).is_multiple_of(7) {
                Digest::default()
            } else {
                digest(at * 5 + seed)
            }
        };
        (0..len as u64).map(one).collect()
    });
    (any_path(), 1..3u64, 1..3u8, 0..4000u64, digests).prop_map(|(path, ino, chunk_log2, first, digests)| {
        Record::Chunks {
            path,
            ino,
            chunk_log2,
            first,
            digests,
        }
    })
}

fn any_intent() -> impl Strategy<Value = Record> {
    let ranges = prop::collection::vec((0..4000u64, 1..1500u64), 0..3);
    (any_path(), ranges).prop_map(|(path, chunks)| Record::Intent { path, chunks })
}

pub(super) fn any_generation() -> impl Strategy<Value = Vec<Record>> {
    let rename = (any_path(), any_path()).prop_map(|(from, to)| Record::Rename { from, to });
    let rename = rename.prop_filter("not into itself", |record| record.flaw().is_none());
    let other = prop_oneof![
        6 => any_entry(),
        4 => any_chunks(),
        1 => any_path_or_root().prop_map(|path| Record::Remove { path }),
        1 => any_intent(),
    ];
    (
        prop::collection::vec(rename, 0..4),
        prop::collection::vec(other, 0..12),
    )
        .prop_map(|(renames, others)| renames.into_iter().chain(others).collect())
}

#[derive(Clone, Copy, Debug)]
enum End {
    Seal,
    Reopen,
    SealAndReopen,
}

fn any_end() -> impl Strategy<Value = End> {
    prop::sample::select(&[End::Seal, End::Reopen, End::SealAndReopen][..])
}

fn check(replica: &Replica, model: &Model) {
    let expected = model.contents();
    let found = contents(replica);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.0, expected.0);
        assert!(found.1 == expected.1, "chunks of {:?}", found.0.path);
    }
    assert_eq!(found.len(), expected.len());
    let mut cursor = replica.snapshot().cursor();
    for at in PATHS.iter().rev().map(|at| path(at)) {
        let children: Vec<_> = expected
            .iter()
            .filter(|(entry, _)| entry.path.parent().as_ref() == Some(&at))
            .map(|(e, _)| e.clone())
            .collect();
        let mut found = Vec::new();
        cursor
            .children(&at, &mut |entry| {
                found.push(entry);
                Ok(())
            })
            .unwrap();
        assert_eq!(found, children, "children of {at:?}");
        let one = expected
            .iter()
            .find(|(entry, _)| entry.path == at)
            .map(|(entry, _)| entry.clone());
        assert_eq!(cursor.get(&at).unwrap(), one);
        let known = model.paths.get(at.as_bytes());
        for ino in 1..3 {
            let all = known.and_then(|known| known.chunk_digests(ino));
            assert!(cursor.chunks(&at, ino).unwrap() == all, "chunks of {at:?}");
            let part = cursor.chunk_range(&at, ino, 1000..1100).unwrap();
            let expected: Vec<_> = all
                .iter()
                .flat_map(|all| all.digests.iter().skip(1000).take(100))
                .copied()
                .collect();
            let mut part = part.map(|part| part.digests).unwrap_or_default();
            part.resize(expected.len(), Digest::default());
            assert!(part == expected, "some chunks of {at:?}");
        }
    }
}

/// The same records with those of different paths in another order.
fn reordered(records: &[Record]) -> Vec<Record> {
    let (renames, others): (Vec<_>, Vec<_>) = records
        .iter()
        .cloned()
        .partition(|record| matches!(record, Record::Rename { .. }));
    let mut paths: BTreeMap<Vec<u8>, Vec<Record>> = BTreeMap::new();
    for record in others {
        let path = match &record {
            Record::Entry(entry) => &entry.path,
            Record::Chunks { path, .. } | Record::Remove { path } | Record::Intent { path, .. } => path,
            Record::Rename { .. } => unreachable!(),
        };
        paths.entry(path.as_bytes().to_vec()).or_default().push(record);
    }
    // Renames wherever: they count as coming first.
    let mut others: Vec<_> = paths.into_values().rev().flatten().collect();
    let at = others.len() / 2;
    others.splice(at..at, renames);
    others
}

fn run(generations: Vec<(Vec<Record>, End)>) {
    let folder = scratch();
    let twin_folder = scratch();
    let mut model = Model::default();
    let mut replica = Replica::create(folder.path(), [7; 16]).unwrap();
    let mut twin = Replica::create(twin_folder.path(), [7; 16]).unwrap();
    for (records, end) in generations {
        let before = contents(&replica);
        let snapshot = replica.snapshot();
        replica.append(&records).unwrap();
        twin.append(&reordered(&records)).unwrap();
        model.apply(&records);
        let generation = replica.generation();
        if matches!(end, End::Reopen) && !records.is_empty() {
            replica.checkpoint().unwrap();
            drop(replica);
            replica = Replica::open(folder.path()).unwrap().unwrap();
        } else {
            replica.seal().unwrap();
        }
        if matches!(end, End::SealAndReopen) {
            drop(replica);
            replica = Replica::open(folder.path()).unwrap().unwrap();
        }
        twin.seal().unwrap();
        assert_eq!(replica.generation(), generation + 1);
        check(&replica, &model);
        let later: Contents = snapshot.iter_chunked().collect::<Result<_>>().unwrap();
        assert_eq!(later, before, "a snapshot does not change");
        assert_eq!(contents(&twin), contents(&replica));
        assert_eq!(
            twin.version(),
            replica.version(),
            "the version does not depend on the order of paths"
        );
    }
}

/// Merges the runs from `oldest` on, whether it is due or not.
fn merge(replica: &mut Replica, oldest: usize) {
    let mut folded = Folded {
        runs: replica.runs.clone(),
        state: replica.manifest.state,
        next_number: replica.manifest.next_number,
    };
    folded.merge(&replica.folder, oldest).unwrap();
    replica.commit(folded).unwrap();
}

/// Runs pile up, as after crashes, and are merged now and then from anywhere up to the newest.
fn run_merging(generations: Vec<(Vec<Record>, Option<prop::sample::Index>)>) {
    let folder = scratch();
    let mut model = Model::default();
    let mut replica = Replica::create(folder.path(), [7; 16]).unwrap();
    for (records, from) in generations {
        replica.append(&records).unwrap();
        replica.checkpoint().unwrap();
        model.apply(&records);
        drop(replica);
        replica = Replica::open(folder.path()).unwrap().unwrap();
        if let Some(from) = from.filter(|_| !replica.runs.is_empty()) {
            let oldest = from.index(replica.runs.len());
            merge(&mut replica, oldest);
        }
        check(&replica, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_as_the_model_says(
        generations in prop::collection::vec((any_generation(), any_end()), 1..14)
    ) {
        run(generations);
    }

    #[test]
    fn any_merge_changes_nothing(
        generations in prop::collection::vec((any_generation(), prop::option::of(any::<prop::sample::Index>())), 1..14)
    ) {
        run_merging(generations);
    }
}
