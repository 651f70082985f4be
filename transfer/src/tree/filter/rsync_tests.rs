//! The filter against the program whose rules it promises: random trees, random exclude files, the same lists.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use super::Filter;

const TREES: u64 = 12;
const FILES_PER_TREE: u64 = 50;

/// xorshift64*: reproducible from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn word(&mut self, of: &[&'static [u8]]) -> &'static [u8] {
        of[self.below(of.len())]
    }

    fn name(&mut self) -> Vec<u8> {
        if self.one_in(3) {
            return self
                .word(&[b"a", b"b", b"ab", b"foo", b"foo.o", b"bar", b"x.tar.gz"])
                .to_vec();
        }
        let alphabet = b"aabbcABZ019.-_ *?[]\\!+#;:^~\t\xc3\xa9\xff\x01";
        loop {
            let name: Vec<u8> = (0..=self.below(4)).map(|_| *self.pick(alphabet)).collect();
            if name != b"." && name != b".." {
                return name;
            }
        }
    }

    /// Rewrites a real path into a pattern that has a chance to match it.
    fn pattern(&mut self, paths: &[Vec<u8>]) -> Vec<u8> {
        let path = self.pick(paths).clone();
        let mut parts: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        for _ in 0..self.below(parts.len()) {
            let gone = self.below(2) * (parts.len() - 1);
            parts.remove(gone);
        }
        if self.one_in(4) {
            let at = self.below(parts.len());
            parts[at] = self
                .word(&[b"*", b"**", b"***", b"?", b"", b"a**b", b"*b*"])
                .to_vec();
        }
        let mut pattern = Vec::new();
        for byte in parts.join(&b'/') {
            match self.below(14) {
                0 => pattern.push(b'?'),
                1 => pattern.push(b'*'),
                2 => pattern.extend_from_slice(b"**"),
                3 if byte != b'/' => self.class(byte, &mut pattern),
                4 => pattern.extend_from_slice(&[b'\\', byte]),
                5 if self.one_in(3) => {}
                _ if b"*?[\\".contains(&byte) && !self.one_in(3) => pattern.extend_from_slice(&[b'\\', byte]),
                _ => pattern.push(byte),
            }
        }
        if self.one_in(4) {
            pattern.insert(0, b'/');
        } else if self.one_in(8) {
            pattern.splice(0..0, self.word(&[b"**/", b"***", b"/**", b"*/*"]).to_vec());
        }
        if self.one_in(4) {
            let ends: [&[u8]; 9] = [b"/", b"/*", b"/**", b"/***", b"***", b"***/", b"//", b"*", b"\\"];
            pattern.extend_from_slice(self.word(&ends));
        }
        pattern
    }

    fn class(&mut self, byte: u8, pattern: &mut Vec<u8>) {
        const BODIES: [&[u8]; 25] = [
            b"a-c",
            b"A-Z",
            b"[:alpha:]",
            b"[:digit:]",
            b"[:punct:]",
            b"[:upper:]",
            b"[:space:]",
            b"[:cntrl:]",
            b"[:print:]",
            b"[:xdigit:]",
            b"[:bogus:]",
            b"[:alpha]",
            b"[:]",
            b"[::]",
            b"-",
            b"]",
            b"z-a",
            b"\\]",
            b"\\",
            b"a-",
            b"a-\\c",
            b"[",
            b"[:graph:]-z",
            b"a-[:digit:]",
            b"\x80-\xff",
        ];
        pattern.push(b'[');
        if self.one_in(3) {
            pattern.push(*self.pick(b"!^"));
        }
        if self.one_in(2) {
            pattern.push(byte);
        }
        for _ in 0..=self.below(2) {
            pattern.extend_from_slice(self.word(&BODIES));
        }
        if !self.one_in(20) {
            pattern.push(b']');
        }
    }

    fn exclude_file(&mut self, paths: &[Vec<u8>]) -> Vec<u8> {
        let rules = if self.one_in(2) { 1 } else { 2 + self.below(14) };
        let mut file = Vec::new();
        for _ in 0..rules {
            match self.below(30) {
                0 => file.extend_from_slice(self.word(&[b"!", b"- !", b"+ !", b"!a"])),
                1 => file.extend_from_slice(self.word(&[b"# *", b";*", b"", b" "])),
                2..=8 => file.extend_from_slice(b"+ "),
                9..=12 => file.extend_from_slice(b"- "),
                13 => file.extend_from_slice(self.word(&[b" ", b"-", b"+", b"-/ "])),
                _ => {}
            }
            if !file.ends_with(b"!") {
                file.extend_from_slice(&self.pattern(paths));
            }
            file.extend_from_slice(if self.one_in(20) { b"\r\n" } else { b"\n" });
        }
        file
    }
}

/// What a walk copies: path and whether it is a directory, in walking order.
struct Tree(Vec<(Vec<u8>, bool)>);

impl Tree {
    fn make(root: &Path, dice: &mut Dice) -> Self {
        let mut directories = vec![Vec::new()];
        let mut entries = Vec::new();
        let mut taken = BTreeSet::new();
        while entries.len() < 150 {
            let mut path = dice.pick(&directories).clone();
            if path.iter().filter(|byte| **byte == b'/').count() > 3 {
                continue;
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&dice.name());
            if !taken.insert(path.clone()) {
                continue;
            }
            let full = root.join(OsStr::from_bytes(&path));
            let is_directory = dice.one_in(3);
            if is_directory {
                fs::create_dir(&full).unwrap();
                directories.push(path.clone());
            } else if dice.one_in(6) {
                std::os::unix::fs::symlink(root, &full).unwrap();
            } else {
                fs::write(&full, b"").unwrap();
            }
            entries.push((path, is_directory));
        }
        Self(entries)
    }

    fn kept_by(&self, filter: &Filter) -> BTreeSet<Vec<u8>> {
        let excluded: BTreeSet<&[u8]> = self
            .0
            .iter()
            .filter(|(path, is_directory)| filter.excludes(path, *is_directory))
            .map(|(path, _)| &path[..])
            .collect();
        let is_kept = |path: &[u8]| {
            !excluded.contains(path)
                && (0..path.len()).all(|end| path[end] != b'/' || !excluded.contains(&path[..end]))
        };
        self.0
            .iter()
            .map(|(path, _)| path.clone())
            .filter(|path| is_kept(path))
            .collect()
    }
}

/// What the real rsync would copy; `None` when it refuses the exclude file.
fn kept_by_rsync(root: &Path, exclude_file: &Path) -> Option<BTreeSet<Vec<u8>>> {
    let output = Command::new("rsync")
        .args(["-rln8", "--out-format=%n", "--exclude-from"])
        .arg(exclude_file)
        .arg(format!("{}/", root.display()))
        .arg(format!("{}/nowhere/", root.display()))
        .env("LC_ALL", "C")
        .output()
        .expect("this test needs rsync: install the package `rsync`");
    if !output.status.success() {
        assert_eq!(
            output.status.code(),
            Some(1),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let mut kept: BTreeSet<_> = lines
        .map(|line| unescape(line.strip_suffix(b"/").unwrap_or(line)))
        .collect();
    kept.remove(&b""[..]);
    kept.remove(&b"."[..]);
    Some(kept)
}

/// Undoes rsync's `\#ooo` for bytes that do not print.
fn unescape(mut line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while let [first, tail @ ..] = line {
        line = tail;
        match tail {
            [b'#', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] if *first == b'\\' => {
                plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                line = rest;
            }
            _ => plain.push(*first),
        }
    }
    plain
}

#[test]
fn agrees_with_rsync_on_random_trees_and_rules() {
    let counts: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    (worker..TREES)
                        .step_by(4)
                        .map(compare_one_tree)
                        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let excluding: u64 = counts.iter().map(|count| count.0).sum();
    let refused: u64 = counts.iter().map(|count| count.1).sum();
    // The comparison means something only if most rules bite.
    assert!(
        excluding > TREES * FILES_PER_TREE / 3,
        "only {excluding} exclude files excluded anything"
    );
    assert!(
        refused < TREES * FILES_PER_TREE / 10,
        "{refused} exclude files refused"
    );
}

/// Returns how many exclude files left something out, and how many both sides refused.
fn compare_one_tree(seed: u64) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tree");
    let exclude_file = folder.path().join("excludes");
    fs::create_dir(&root).unwrap();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (seed + 1));
    let tree = Tree::make(&root, &mut dice);
    let paths: Vec<_> = tree.0.iter().map(|(path, _)| path.clone()).collect();
    let (mut excluding, mut refused) = (0, 0);
    for _ in 0..FILES_PER_TREE {
        let rules = dice.exclude_file(&paths);
        fs::write(&exclude_file, &rules).unwrap();
        let theirs = kept_by_rsync(&root, &exclude_file);
        let ours = Filter::parse(rules.split(|byte| *byte == b'\n'))
            .ok()
            .map(|filter| tree.kept_by(&filter));
        let shown = String::from_utf8_lossy(&rules);
        match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => {
                let name = |path: &Vec<u8>| path.escape_ascii().to_string();
                let only_ours: Vec<_> = ours.difference(theirs).map(name).collect();
                let only_theirs: Vec<_> = theirs.difference(ours).map(name).collect();
                assert!(
                    only_ours.is_empty() && only_theirs.is_empty(),
                    "seed {seed}, rules {:?}\nkept by us only: {only_ours:?}\nkept by rsync only: {only_theirs:?}\n{shown}",
                    rules.escape_ascii().to_string()
                );
                excluding += u64::from(ours.len() < tree.0.len());
            }
            _ => {
                assert_eq!(
                    ours.is_none(),
                    theirs.is_none(),
                    "seed {seed}: only one side refuses\n{shown}"
                );
                refused += 1;
            }
        }
    }
    (excluding, refused)
}
