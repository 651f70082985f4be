//! What was not taken as it is: each once, however often it is reported, and no more than memory should hold.

use std::collections::HashSet;

use crate::progress::Skipped;

/// Entries that are listed; of about 250 bytes each, 2.5 MB. The rest is counted.
pub const LISTED_MAX: usize = 10_000;
/// Entries that are told apart: their hashes take 16 bytes each, 4 MiB. Further ones may be counted more than once.
const KNOWN_MAX: usize = 256 * 1024;

/// A list of them.
#[derive(Debug, Default)]
pub struct Skips {
    listed: Vec<Skipped>,
    known: HashSet<u64>,
    /// Counted, but not told apart.
    further: u64,
}

impl Skips {
    /// Adds one, unless it is there.
    pub fn add(&mut self, skipped: Skipped) {
        if self.note(hash(&skipped)) && self.listed.len() < LISTED_MAX {
            self.listed.push(skipped);
        }
    }

    /// Adds so many that nobody can name.
    pub fn add_nameless(&mut self, count: u64) {
        self.further += count;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        for skipped in other.listed {
            self.add(skipped);
        }
        for hash in other.known {
            self.note(hash);
        }
        self.further += other.further;
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.known.len() as u64 + self.further
    }

    /// The first [`LISTED_MAX`] of them.
    pub fn into_listed(self) -> Vec<Skipped> {
        self.listed
    }

    /// Whether this one is new.
    fn note(&mut self, hash: u64) -> bool {
        if self.known.contains(&hash) {
            return false;
        }
        if self.known.len() < KNOWN_MAX {
            return self.known.insert(hash);
        }
        self.further += 1;
        true
    }
}

fn hash(skipped: &Skipped) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [&skipped.path, &skipped.what, &skipped.why] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    let digest = hasher.finalize();
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("32 bytes hold 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(number: usize) -> Skipped {
        Skipped {
            path: number.to_string(),
            what: "owner".to_owned(),
            why: "refused".to_owned(),
        }
    }

    #[test]
    fn each_counts_once_and_no_more_are_listed_than_memory_should_hold() {
        let [mut some, mut others] = [(); 2].map(|()| Skips::default());
        for number in 0..LISTED_MAX + 500 {
            some.add(skipped(number));
            some.add(skipped(number));
            others.add(skipped(number + 1000));
        }
        some.merge(others);
        some.add_nameless(7);
        assert_eq!(some.total(), LISTED_MAX as u64 + 1507);
        let listed = some.into_listed();
        assert_eq!(listed.len(), LISTED_MAX);
        assert_eq!(listed[LISTED_MAX - 1], skipped(LISTED_MAX - 1));
    }
}
