//! Random trees to migrate, reproducible from a seed.
//!
//! [`everything`] makes entries of all kinds with all metadata a file system keeps; [`source_code`] makes many small
//! files with the sizes and compressibility of a source tree; [`mutate`] changes a tree the ways a server does between
//! two rounds; [`shuffle`] renames.

mod everything;
mod mutate;
mod shuffle;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dice::Dice;

pub use everything::{everything, set_times};
pub use mutate::{Mutation, mutate};
pub use shuffle::shuffle;

/// Makes `count` files below `root` with a source tree's mix of sizes: median about 4 KiB, mean about 12 KiB, some empty,
/// a few of several hundred KiB; about 14 files a directory, five levels deep.
///
/// # Errors
/// Whatever the file system refuses.
pub fn source_code(root: &Path, seed: u64, count: u64) -> io::Result<()> {
    let mut dice = Dice::new(seed);
    // Cutting files out of one long text costs a copy each; making each its own text would cost ten times that.
    let text = dice.text(4 << 20);
    let mut directories: Vec<(PathBuf, u32)> = vec![(root.to_owned(), 0)];
    fs::create_dir_all(root)?;
    for index in 0..count {
        if index % 14 == 0 {
            let (parent, depth) = loop {
                let candidate = dice.pick(&directories);
                if candidate.1 < 5 {
                    break candidate.clone();
                }
            };
            let directory = parent.join(format!("dir{:05x}", index / 14));
            fs::create_dir(&directory)?;
            directories.push((directory, depth + 1));
        }
        let directory = &directories[directories.len() - 1].0;
        let len = source_file_len(&mut dice);
        let start = dice.below((text.len() - len) as u64) as usize;
        let extension = dice.pick(&["c", "h", "rs", "txt", "py", "o"]);
        fs::write(
            directory.join(format!("file{index:06x}.{extension}")),
            &text[start..start + len],
        )?;
    }
    Ok(())
}

fn source_file_len(dice: &mut Dice) -> usize {
    let (low, high) = match dice.below(100) {
        0 => return 0,
        1..=24 => (64, 1024),
        25..=49 => (1024, 4096),
        50..=79 => (4096, 16 * 1024),
        80..=95 => (16 * 1024, 40 * 1024),
        96..=98 => (40 * 1024, 128 * 1024),
        _ => (128 * 1024, 512 * 1024),
    };
    (low + dice.below(high - low)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_code_has_the_promised_mix() {
        let folder = tempfile::tempdir().unwrap();
        source_code(folder.path(), 7, 2000).unwrap();
        let mut lens: Vec<u64> = walkdir::WalkDir::new(folder.path())
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.metadata().unwrap().len())
            .collect();
        lens.sort_unstable();
        assert_eq!(lens.len(), 2000);
        let mean = lens.iter().sum::<u64>() / 2000;
        assert!((3000..6000).contains(&lens[1000]), "median {}", lens[1000]);
        assert!((9000..16000).contains(&mean), "mean {mean}");
    }
}
