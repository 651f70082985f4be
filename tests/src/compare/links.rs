//! Which names are one file: the partition of paths by inode must be the same on both sides.

use std::collections::HashMap;

/// Device and inode number.
pub(super) type Inode = (u32, u32, u64);

/// Pairs of inodes that shared a path so far.
#[derive(Default)]
pub(super) struct Links {
    by_source: HashMap<Inode, (Inode, Vec<u8>)>,
    by_target: HashMap<Inode, (Inode, Vec<u8>)>,
}

impl Links {
    /// Notes that `path` is `source` on one side and `target` on the other. Returns two other paths, each the same file
    /// as this one on one side only.
    pub(super) fn note(&mut self, source: Inode, target: Inode, path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let known_source = self.by_source.get(&source);
        let known_target = self.by_target.get(&target);
        let broken = |known: Option<&(Inode, Vec<u8>)>, other: Inode| {
            known
                .filter(|(inode, _)| *inode != other)
                .map(|(_, first)| first.clone())
        };
        let conflict = (broken(known_source, target), broken(known_target, source));
        self.by_source
            .entry(source)
            .or_insert_with(|| (target, path.to_vec()));
        self.by_target
            .entry(target)
            .or_insert_with(|| (source, path.to_vec()));
        match conflict {
            (None, None) => None,
            (in_source, in_target) => Some((in_source.unwrap_or_default(), in_target.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_split_or_merged_on_one_side_is_found() {
        let inode = |ino| (8, 1, ino);
        let mut links = Links::default();
        assert_eq!(links.note(inode(1), inode(11), b"a"), None);
        assert_eq!(links.note(inode(1), inode(11), b"b"), None);
        assert_eq!(links.note(inode(2), inode(12), b"c"), None);
        assert_eq!(
            links.note(inode(1), inode(13), b"d"),
            Some((b"a".to_vec(), b"".to_vec()))
        );
        assert_eq!(
            links.note(inode(3), inode(12), b"e"),
            Some((b"".to_vec(), b"c".to_vec()))
        );
    }
}
