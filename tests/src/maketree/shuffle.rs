//! Renames at random.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dice::Dice;

/// Renames `count` times below `root`: to new names, to each other's, into each other, over each other. Says what was done.
///
/// # Errors
/// The tree cannot be read or holds nothing.
pub fn shuffle(root: &Path, seed: u64, count: usize) -> io::Result<Vec<String>> {
    let mut dice = Dice::new(seed);
    let mut done = Vec::new();
    for number in 0..count {
        let paths = paths_below(root)?;
        if paths.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (one, other) = (dice.pick(&paths).clone(), dice.pick(&paths).clone());
        let beside = one.with_file_name(format!("r{seed}-{number}"));
        let (what, renamed) = match dice.below(4) {
            0 => ("anew", fs::rename(&one, &beside)),
            1 if other.is_dir() => ("into", fs::rename(&one, other.join(format!("in{seed}-{number}")))),
            2 => (
                "in exchange for",
                fs::rename(&one, &beside)
                    .and_then(|()| fs::rename(&other, &one))
                    .and_then(|()| fs::rename(&beside, &other)),
            ),
            _ => ("over", fs::rename(&one, &other)),
        };
        // A directory does not go into itself, nor over a full one.
        if renamed.is_ok() {
            done.push(format!("rename {} {what} {}", one.display(), other.display()));
        }
    }
    Ok(done)
}

fn paths_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let mut children = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        children.sort();
        for path in children {
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path.clone());
            }
            paths.push(path);
        }
    }
    Ok(paths)
}
