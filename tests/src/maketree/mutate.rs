//! What happens to a tree between two rounds.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, lsetxattr};

use super::everything::{open_for_change, set_times};
use crate::dice::Dice;

/// One change that was made.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// What was done.
    pub what: &'static str,
    /// To what; its new name where it has one.
    pub path: PathBuf,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.what, self.path)
    }
}

/// Makes `count` random changes below `root`: creates, writes in the middle, appends, truncates, punches holes, renames
/// files and directories, links, replaces one type by another, deletes, and changes metadata alone. Entries that refuse
/// (immutable ones) are left alone and not counted. Returns the changes in order.
///
/// # Errors
/// The tree cannot be read, or nothing in it can be changed.
pub fn mutate(root: &Path, seed: u64, count: usize) -> io::Result<Vec<Mutation>> {
    let mut dice = Dice::new(seed);
    let mut paths = list(root)?;
    let mut done: Vec<Mutation> = Vec::new();
    let mut refusals = 0;
    while done.len() < count {
        let path = match paths.len() {
            0 => root.to_owned(),
            len => paths[dice.below(len as u64) as usize].clone(),
        };
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            // A change before this one moved or deleted it.
            paths.retain(|known| *known != path);
            continue;
        };
        let tag = format!("m{}-{}", seed % 1_000_000, done.len());
        let change = if metadata.is_file() && !dice.one_in(3) {
            change_file(&mut dice, &path, metadata.len())
        } else {
            change_entry(&mut dice, root, &path, &metadata, &tag)
        };
        match change {
            Ok(Some(mutation)) => {
                paths.push(mutation.path.clone());
                done.push(mutation);
            }
            Ok(None) => {}
            Err(error) if refusals > 100 * count + 1000 => return Err(error),
            Err(_) => refusals += 1,
        }
    }
    Ok(done)
}

/// All paths below `root` that the kernel takes whole.
fn list(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let mut children = fs::read_dir(&directory)?.collect::<io::Result<Vec<_>>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let path = child.path();
            if path.as_os_str().len() > 3500 {
                continue;
            }
            if child.file_type()?.is_dir() {
                pending.push(path.clone());
            }
            paths.push(path);
        }
    }
    Ok(paths)
}

fn change_file(dice: &mut Dice, path: &Path, len: u64) -> io::Result<Option<Mutation>> {
    let file = open_for_change(path)?;
    let mut piece = vec![0; 1 + dice.below(20_000) as usize];
    dice.fill(&mut piece);
    let what = match dice.below(5) {
        0 => {
            file.write_all_at(&piece, dice.below(len))?;
            "write"
        }
        1 => {
            file.write_all_at(&piece, len)?;
            "append"
        }
        2 => {
            file.set_len(dice.below(len + 10_000))?;
            "truncate"
        }
        3 if len > 8192 => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, dice.below(len / 2), 1 + len / 4)?;
            "punch a hole"
        }
        _ if len == 0 => return Ok(None),
        _ => {
            // As sqlite does: other bytes, same size, old time.
            let before = file.metadata()?;
            let place = dice.below(len.saturating_sub(piece.len() as u64));
            piece.truncate(len as usize);
            file.write_all_at(&piece, place)?;
            drop(file);
            set_times(path, before.mtime(), before.mtime_nsec())?;
            "rewrite and set the time back"
        }
    };
    Ok(Some(Mutation {
        what,
        path: path.to_owned(),
    }))
}

fn change_entry(
    dice: &mut Dice,
    root: &Path,
    path: &Path,
    metadata: &fs::Metadata,
    tag: &str,
) -> io::Result<Option<Mutation>> {
    let parent = path.parent().unwrap_or(root);
    let beside = parent.join(tag);
    let is_plain = metadata.is_file() || metadata.is_symlink() || metadata.file_type().is_fifo();
    let (what, path) = match dice.below(12) {
        0..=1 if metadata.is_dir() => {
            let inside = path.join(tag);
            fs::write(&inside, dice.text(5000))?;
            ("create", inside)
        }
        0..=1 => {
            fs::create_dir(&beside)?;
            ("make a directory", beside)
        }
        2..=3 if path != root => {
            fs::rename(path, &beside)?;
            ("rename", beside)
        }
        4 if is_plain => {
            fs::hard_link(path, &beside)?;
            ("link", beside)
        }
        5 if is_plain => {
            fs::remove_file(path)?;
            fs::create_dir(path)?;
            ("replace by a directory", path.to_owned())
        }
        6 if is_plain => {
            fs::remove_file(path)?;
            symlink(tag, path)?;
            ("replace by a link", path.to_owned())
        }
        7 if is_plain => {
            fs::remove_file(path)?;
            ("delete", parent.to_owned())
        }
        7 if metadata.is_dir() && path != root && dice.one_in(3) => {
            fs::remove_dir_all(path)?;
            ("delete a directory", parent.to_owned())
        }
        8 if !metadata.is_symlink() => {
            fs::set_permissions(path, fs::Permissions::from_mode(dice.below(0o10000) as u32))?;
            ("chmod", path.to_owned())
        }
        9 => {
            lchown(
                path,
                Some(dice.below(70_000) as u32),
                Some(dice.below(70_000) as u32),
            )?;
            ("chown", path.to_owned())
        }
        10 if metadata.is_file() || metadata.is_dir() => {
            lsetxattr(path, "user.mutated", tag.as_bytes(), XattrFlags::empty())?;
            ("set an attribute", path.to_owned())
        }
        11 => {
            set_times(
                path,
                dice.below(2_000_000_000) as i64,
                dice.below(1_000_000_000) as i64,
            )?;
            ("set times", path.to_owned())
        }
        _ => return Ok(None),
    };
    Ok(Some(Mutation { what, path }))
}
