//! Planned changes shown as a unified diff, so that an administrator can read them before anything is written.

use std::fmt::Write as _;

use super::draft::{Change, Content, decode};
use crate::limits::DIFF_LINE_COUNT_MAX;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Text of one change.
pub fn show(change: &Change) -> String {
    let path = change.path.display();
    let mut text = format!("# {path}: {}\n", change.why);
    match (&change.before, &change.after) {
        (_, Content::Link(target)) => {
            let _ = writeln!(text, "+ {path} -> {}", target.display());
        }
        (Content::Link(target), Content::Absent) => {
            let _ = writeln!(text, "- {path} -> {}", target.display());
        }
        (before, after) => text.push_str(&diff(&path.to_string(), bytes(before), bytes(after))),
    }
    text
}

fn bytes(content: &Content) -> Option<&[u8]> {
    match content {
        Content::File { bytes, .. } => Some(bytes),
        _ => None,
    }
}

fn diff(path: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    let name = |prefix: &str, bytes: Option<&[u8]>| {
        bytes.map_or("/dev/null".to_owned(), |_| format!("{prefix}{path}"))
    };
    let mut text = format!("--- {}\n+++ {}\n", name("a", before), name("b", after));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    if before.contains(&0) || after.contains(&0) {
        let _ = writeln!(
            text,
            "binary: {} bytes become {} bytes",
            before.len(),
            after.len()
        );
        return text;
    }
    let (before, after) = (decode(before).0, decode(after).0);
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().collect();
    if old.len().max(new.len()) > DIFF_LINE_COUNT_MAX {
        let _ = writeln!(text, "{} lines become {} lines", old.len(), new.len());
        return text;
    }
    text.push_str(&hunks(&script(&old, &new)));
    text
}

/// One line of the edit script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit<'a> {
    Keep(&'a str),
    Delete(&'a str),
    Insert(&'a str),
}

/// The shortest edit script, by longest common subsequence between the common head and tail.
fn script<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..]
        .iter()
        .rev()
        .zip(new[head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut edits: Vec<Edit<'a>> = old[..head].iter().map(|line| Edit::Keep(line)).collect();
    // Files whose middle is this different are shown as replaced: the table would not be readable either.
    if a.len().saturating_mul(b.len()) > 4_000_000 {
        edits.extend(a.iter().map(|line| Edit::Delete(line)));
        edits.extend(b.iter().map(|line| Edit::Insert(line)));
    } else {
        edits.extend(middle(a, b));
    }
    edits.extend(old[old.len() - tail..].iter().map(|line| Edit::Keep(line)));
    edits
}

fn middle<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Edit<'a>> {
    let mut lengths = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i][j] = if a[i] == b[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut edits) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            edits.push(Edit::Keep(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || lengths[i + 1][j] >= lengths[i][j + 1]) {
            edits.push(Edit::Delete(a[i]));
            i += 1;
        } else {
            edits.push(Edit::Insert(b[j]));
            j += 1;
        }
    }
    edits
}

fn hunks(edits: &[Edit<'_>]) -> String {
    let mut shown = vec![false; edits.len()];
    for (index, edit) in edits.iter().enumerate() {
        if !matches!(edit, Edit::Keep(_)) {
            let end = edits.len().min(index + CONTEXT + 1);
            shown[index.saturating_sub(CONTEXT)..end].fill(true);
        }
    }
    let (mut old, mut new, mut text, mut inside) = (1, 1, String::new(), false);
    for (index, edit) in edits.iter().enumerate() {
        if shown[index] && !inside {
            let rest: Vec<Edit<'_>> = edits[index..]
                .iter()
                .zip(&shown[index..])
                .take_while(|(_, shown)| **shown)
                .map(|(e, _)| *e)
                .collect();
            let removed = rest
                .iter()
                .filter(|edit| !matches!(edit, Edit::Insert(_)))
                .count();
            let added = rest
                .iter()
                .filter(|edit| !matches!(edit, Edit::Delete(_)))
                .count();
            let at = |line: usize, count: usize| if count == 0 { line - 1 } else { line };
            let _ = writeln!(
                text,
                "@@ -{},{removed} +{},{added} @@",
                at(old, removed),
                at(new, added)
            );
        }
        inside = shown[index];
        let (sign, line) = match edit {
            Edit::Keep(line) => (' ', line),
            Edit::Delete(line) => ('-', line),
            Edit::Insert(line) => ('+', line),
        };
        if inside {
            let _ = writeln!(text, "{sign}{line}");
        }
        old += usize::from(sign != '+');
        new += usize::from(sign != '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn file(text: &str) -> Content {
        Content::File {
            bytes: text.as_bytes().to_vec(),
            mode: None,
        }
    }

    #[test]
    fn a_change_reads_like_a_patch() {
        let change = Change {
            path: PathBuf::from("/etc/fstab"),
            before: file("one\ntwo\nthree\nfour\nfive\nsix\n"),
            after: file("one\ntwo\nthree\nfour\nFIVE\nsix\n"),
            why: "stable names".to_owned(),
        };
        let expected = "# /etc/fstab: stable names\n--- a/etc/fstab\n+++ b/etc/fstab\n@@ -2,5 +2,5 @@\n two\n three\n \
                        four\n-five\n+FIVE\n six\n";
        assert_eq!(show(&change), expected);
    }

    #[test]
    fn new_and_removed_files_show_all_their_lines() {
        assert_eq!(
            diff("/x", None, Some(b"a\n")),
            "--- /dev/null\n+++ b/x\n@@ -0,0 +1,1 @@\n+a\n"
        );
        assert_eq!(
            diff("/x", Some(b"a\n"), None),
            "--- a/x\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n"
        );
    }

    proptest! {
        #[test]
        fn the_script_leads_from_old_to_new(old in proptest::collection::vec("[ab]", 0..12), new in proptest::collection::vec("[ab]", 0..12)) {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new: Vec<&str> = new.iter().map(String::as_str).collect();
            let edits = script(&old, &new);
            let left: Vec<&str> = edits.iter().filter_map(|edit| match edit { Edit::Keep(l) | Edit::Delete(l) => Some(*l), Edit::Insert(_) => None }).collect();
            let right: Vec<&str> = edits.iter().filter_map(|edit| match edit { Edit::Keep(l) | Edit::Insert(l) => Some(*l), Edit::Delete(_) => None }).collect();
            prop_assert_eq!(left, old);
            prop_assert_eq!(right, new);
        }
    }
}
