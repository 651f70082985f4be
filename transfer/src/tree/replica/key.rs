//! Keys: paths written so that comparing bytes is comparing in replica order.
//!
//! Inside the directory part `/` becomes `00 01`; `00 00` separates it from the name. A name holds no NUL, so a
//! directory sorts before what is deeper, and everything below one directory shares a prefix that nothing else has.
//! The root is the empty key. Renaming a subtree replaces a prefix and keeps its order.

use super::super::entry::{BadPath, EntryPath};

/// Appends the key of `path` to `key`.
pub(super) fn encode(path: &EntryPath, key: &mut Vec<u8>) {
    if let Some((parent, name)) = path.split() {
        directory(parent, key);
        key.extend_from_slice(&[0, 0]);
        key.extend_from_slice(name);
    }
}

/// The key of `path`.
pub(super) fn of(path: &EntryPath) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.as_bytes().len() + 16);
    encode(path, &mut key);
    key
}

/// The prefix shared by the keys of everything below `path`, and by nothing else.
pub(super) fn below(path: &EntryPath) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.as_bytes().len() + 16);
    if !path.is_root() {
        directory(path.as_bytes(), &mut key);
        key.push(0);
    }
    key
}

/// The prefix shared by the keys of the children of the directory `path`, and by nothing else.
pub(super) fn children(path: &EntryPath) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.as_bytes().len() + 16);
    directory(path.as_bytes(), &mut key);
    key.extend_from_slice(&[0, 0]);
    key
}

/// Whether `key` lies below the path whose [`below`] prefix is `prefix`.
pub(super) fn is_below(key: &[u8], prefix: &[u8]) -> bool {
    key.len() > prefix.len() && key.starts_with(prefix)
}

/// The path of an untrusted key.
pub(super) fn decode(key: &[u8]) -> Result<EntryPath, BadPath> {
    if key.is_empty() {
        return Ok(EntryPath::root());
    }
    let mut path = Vec::with_capacity(key.len());
    let mut rest = key;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(BadPath)?;
        path.extend_from_slice(&rest[..zero]);
        let mark = *rest.get(zero + 1).ok_or(BadPath)?;
        rest = &rest[zero + 2..];
        match mark {
            0 if path.is_empty() => break,
            0 => {
                path.push(b'/');
                break;
            }
            1 => path.push(b'/'),
            _ => return Err(BadPath),
        }
    }
    if rest.is_empty() || rest.contains(&b'/') || key[..key.len() - rest.len()].contains(&b'/') {
        return Err(BadPath);
    }
    path.extend_from_slice(rest);
    EntryPath::parse(path)
}

fn directory(path: &[u8], key: &mut Vec<u8>) {
    let mut parts = path.split(|byte| *byte == b'/');
    if let Some(first) = parts.next() {
        key.extend_from_slice(first);
    }
    for part in parts {
        key.extend_from_slice(&[0, 1]);
        key.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = EntryPath> {
        prop::collection::vec("[a-c\u{1}\u{2}.-]{1,3}", 0..5)
            .prop_filter_map("plain", |parts| EntryPath::parse(parts.join("/")).ok())
    }

    proptest! {
        #[test]
        fn keys_keep_the_replica_order(a in path(), b in path()) {
            prop_assert_eq!(of(&a).cmp(&of(&b)), a.replica_cmp(&b));
            prop_assert_eq!(decode(&of(&a)), Ok(a.clone()));
            prop_assert_eq!(is_below(&of(&b), &below(&a)), b.is_below(&a));
            prop_assert_eq!(of(&b).starts_with(&children(&a)), b.parent() == Some(a));
        }

        #[test]
        fn a_key_is_canonical(key in prop::collection::vec(prop::sample::select(&b"\0\x01\x02/.a"[..]), 0..12)) {
            if let Ok(path) = decode(&key) {
                prop_assert_eq!(of(&path), key);
            }
        }
    }
}
