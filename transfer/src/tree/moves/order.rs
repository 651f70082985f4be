//! An order in which renames can be made one after the other.
//!
//! All of them together lead from one state to another; one by one they may be in each other's way. A rename waits for those
//! that free its new name, that bring the directory above it, or that still have to leave a directory before it moves or is
//! overwritten. Where renames wait for each other in a circle (two names swapped), they go over temporary names in the root.

use std::collections::HashMap;

use super::Move;
use crate::tree::entry::{Digest, EntryPath};

/// Begin of temporary names.
const ASIDE: &[u8] = b".go2cloud-moving-";
/// Begin of the names of directories that make room for others, and go at the end.
const SPARED: &[u8] = b".go2cloud-spared-";

/// The renames in an order in which each can be made, as old and new path; some in two steps.
pub fn order(moves: &[Move]) -> Vec<(EntryPath, EntryPath)> {
    let waits = Waits::of(moves);
    let mut missing: Vec<usize> = waits.count.clone();
    let mut ready: Vec<usize> = (0..moves.len()).filter(|index| missing[*index] == 0).collect();
    let mut ordered = Vec::with_capacity(moves.len());
    let mut done = vec![false; moves.len()];
    while let Some(index) = ready.pop() {
        done[index] = true;
        ordered.push((moves[index].from.clone(), moves[index].to.clone()));
        for follower in &waits.followers[index] {
            missing[*follower] -= 1;
            if missing[*follower] == 0 {
                ready.push(*follower);
            }
        }
    }
    let mut circular: Vec<&Move> = moves
        .iter()
        .zip(done)
        .filter(|(_, done)| !done)
        .map(|(one, _)| one)
        .collect();
    // The deepest leave first, so that no directory takes along what goes elsewhere.
    circular.sort_by_key(|one| std::cmp::Reverse(depth(&one.from)));
    ordered.extend(circular.iter().map(|one| (one.from.clone(), between(one))));
    // The highest come first, so that the others find their directories.
    circular.sort_by_key(|one| depth(&one.to));
    let back = circular.iter().map(|one| (between(one), one.to.clone()));
    ordered.extend(back.filter(|(aside, to)| aside != to));
    ordered
}

/// Where a rename goes first that others wait for in a circle. One that makes room gets where it goes at once.
fn between(one: &Move) -> EntryPath {
    if is_spared(&one.to) {
        one.to.clone()
    } else {
        temporary(ASIDE, &one.from)
    }
}

/// Where a directory goes that others take the place of.
pub(super) fn spared(path: &EntryPath) -> EntryPath {
    temporary(SPARED, path)
}

/// A name that a path always has, so that a rename that was cut off is found half-way.
fn temporary(begin: &[u8], path: &EntryPath) -> EntryPath {
    let digest = Digest::of(path.as_bytes());
    let tag: String = digest.0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    EntryPath::parse([begin, tag.as_bytes()].concat()).expect("a plain name")
}

/// Whether this is a temporary name.
pub fn is_aside(path: &EntryPath) -> bool {
    path.as_bytes().starts_with(ASIDE) || is_spared(path)
}

/// Whether this is the name of what only makes room.
pub fn is_spared(path: &EntryPath) -> bool {
    path.as_bytes().starts_with(SPARED)
}

fn depth(path: &EntryPath) -> usize {
    path.as_bytes().iter().filter(|byte| **byte == b'/').count()
}

/// Which rename waits for which others.
struct Waits {
    count: Vec<usize>,
    followers: Vec<Vec<usize>>,
}

impl Waits {
    fn of(moves: &[Move]) -> Self {
        let by = |path: fn(&Move) -> &EntryPath| -> HashMap<&[u8], usize> {
            let paths = moves.iter().map(path).map(EntryPath::as_bytes);
            paths.zip(0..).collect()
        };
        let (from, to) = (by(|one| &one.from), by(|one| &one.to));
        let mut waits = Self {
            count: vec![0; moves.len()],
            followers: vec![Vec::new(); moves.len()],
        };
        for (index, one) in moves.iter().enumerate() {
            for above in above(&one.from) {
                // It leaves before what it lies in moves away or is overwritten.
                [from.get(above), to.get(above)]
                    .into_iter()
                    .flatten()
                    .for_each(|other| waits.add(index, *other));
            }
            if let Some(other) = from.get(one.to.as_bytes()) {
                waits.add(*other, index);
            }
            for above in above(&one.to) {
                // It comes after what was there has left, and after the directory that it goes into.
                [from.get(above), to.get(above)]
                    .into_iter()
                    .flatten()
                    .for_each(|other| waits.add(*other, index));
            }
        }
        waits
    }

    /// A rename into or onto what is above or below itself waits for itself.
    fn add(&mut self, first: usize, then: usize) {
        self.followers[first].push(then);
        self.count[then] += 1;
    }
}

/// The paths above this one, but for the root.
fn above(path: &EntryPath) -> impl Iterator<Item = &[u8]> {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &bytes[..at])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plain(path: &str) -> EntryPath {
        EntryPath::parse(path).unwrap()
    }

    fn moves(pairs: &[(&str, &str)]) -> Vec<Move> {
        let one = |(from, to): &(&str, &str)| Move {
            from: plain(from),
            to: plain(to),
            is_directory: true,
        };
        pairs.iter().map(one).collect()
    }

    /// A tree as a map from paths to what is there; renames as the target makes them.
    struct Model(BTreeMap<Vec<u8>, u32>);

    impl Model {
        fn of(tree: &[(&str, u32)]) -> Self {
            Self(
                tree.iter()
                    .map(|(path, id)| (path.as_bytes().to_vec(), *id))
                    .collect(),
            )
        }

        fn rename(&mut self, from: &EntryPath, to: &EntryPath) {
            assert!(
                !to.is_below(from) && !from.is_below(to),
                "{from:?} {to:?} into itself"
            );
            let within = |path: &[u8], top: &EntryPath| {
                let path = EntryPath::parse(path).unwrap();
                path == *top || path.is_below(top)
            };
            assert!(
                self.0.contains_key(from.as_bytes()),
                "{from:?} is not there: {self:?}"
            );
            self.0.retain(|path, _| !within(path, to));
            let moved: Vec<_> = self
                .0
                .iter()
                .filter(|(path, _)| within(path, from))
                .map(|(path, id)| (path.clone(), *id))
                .collect();
            for (path, id) in moved {
                self.0.remove(&path);
                self.0
                    .insert([to.as_bytes(), &path[from.as_bytes().len()..]].concat(), id);
            }
        }
    }

    impl std::fmt::Debug for Model {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let text = |(path, id): (&Vec<u8>, &u32)| format!("{}={id}", String::from_utf8_lossy(path));
            f.debug_list().entries(self.0.iter().map(text)).finish()
        }
    }

    fn assert_leads_to(before: &[(&str, u32)], pairs: &[(&str, &str)], after: &[(&str, u32)]) {
        let mut model = Model::of(before);
        for (from, to) in order(&moves(pairs)) {
            model.rename(&from, &to);
        }
        for (path, id) in after {
            assert_eq!(
                model.0.get(path.as_bytes()),
                Some(id),
                "{path} after {pairs:?}: {model:?}"
            );
        }
        assert!(
            !model.0.keys().any(|path| path.starts_with(b".go2cloud")),
            "{model:?}"
        );
    }

    #[test]
    fn chains_circles_and_nests_come_in_an_order_that_works() {
        let abc = [("a", 1), ("b", 2), ("c", 3)];
        assert_leads_to(&abc, &[("a", "b"), ("b", "d")], &[("b", 1), ("d", 2), ("c", 3)]);
        assert_leads_to(&abc, &[("a", "b"), ("b", "a")], &[("b", 1), ("a", 2)]);
        assert_leads_to(
            &abc,
            &[("a", "b"), ("b", "c"), ("c", "a")],
            &[("b", 1), ("c", 2), ("a", 3)],
        );
        let nest = [("a", 1), ("a/b", 2), ("a/b/f", 3), ("x", 4)];
        assert_leads_to(
            &nest,
            &[("a/b", "a"), ("a", "a/a")],
            &[("a", 2), ("a/f", 3), ("a/a", 1)],
        );
        assert_leads_to(
            &nest,
            &[("a", "e"), ("a/b", "x")],
            &[("e", 1), ("x", 2), ("x/f", 3)],
        );
        assert_leads_to(
            &nest,
            &[("x", "a/x"), ("a", "e")],
            &[("a/x", 4), ("e", 1), ("e/b", 2)],
        );
        assert_leads_to(&nest, &[("a/b/f", "a")], &[("a", 3)]);
        assert_leads_to(&nest, &[("a", "e"), ("x", "e/x")], &[("e", 1), ("e/x", 4)]);
    }

    /// Every permutation of three nested directories' places.
    #[test]
    fn random_shuffles_of_a_tree_arrive() {
        let mut state = 7u64;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % limit
        };
        for _ in 0..3000 {
            let mut tree: Vec<(String, u32)> = Vec::new();
            for id in 0..8u32 {
                let parent = match tree.len() {
                    0 => None,
                    len => Some(below(len + 1)).filter(|at| *at < len),
                };
                let prefix = parent.map_or_else(String::new, |at| format!("{}/", tree[at].0));
                tree.push((format!("{prefix}{}", ["a", "b", "c"][below(3)]), id));
            }
            tree.sort();
            tree.dedup_by(|one, other| one.0 == other.0);
            let before: BTreeMap<String, u32> = tree.into_iter().collect();
            // Another tree of the same things: what is above must be there.
            let mut after: BTreeMap<String, u32> = BTreeMap::new();
            let mut ids: Vec<u32> = before.values().copied().collect();
            while let Some(id) = ids.pop() {
                let parents: Vec<String> = after.keys().map(|path| format!("{path}/")).collect();
                let prefix = match below(parents.len() + 1) {
                    at if at < parents.len() => parents[at].clone(),
                    _ => String::new(),
                };
                after
                    .entry(format!("{prefix}{}", ["a", "b", "c"][below(3)]))
                    .or_insert(id);
            }
            let pairs: Vec<(&str, &str)> = before
                .iter()
                .filter_map(|(from, id)| {
                    let to = after.iter().find(|(_, other)| *other == id)?;
                    (to.0 != from).then_some((from.as_str(), to.0.as_str()))
                })
                .collect();
            // What keeps its path although something above it moved is a rename, too: the caller finds it in the next pass.
            let steady = |path: &str| {
                before.get(path) == after.get(path)
                    && pairs.iter().any(|(from, to)| {
                        path.starts_with(&format!("{from}/")) || path.starts_with(&format!("{to}/"))
                    })
            };
            if before.keys().any(|path| steady(path)) {
                continue;
            }
            let tree: Vec<(&str, u32)> = before.iter().map(|(path, id)| (path.as_str(), *id)).collect();
            let expected: Vec<(&str, u32)> = pairs.iter().map(|(from, to)| (*to, before[*from])).collect();
            assert_leads_to(&tree, &pairs, &expected);
        }
    }
}
