//! Project ids, through `lsattr`: an outside program, and no ioctl to get wrong here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Paths asked about in one call; with [`PATHS_LEN_MAX`] well below what the kernel lets an argument list hold.
const PATHS_MAX: usize = 2000;

/// Bytes of paths in one call.
const PATHS_LEN_MAX: usize = 512 * 1024;

/// Longest path that is asked about: `lsattr` gives a whole path to the kernel, which takes PATH_MAX (4096) at most.
const PATH_LEN_MAX: usize = 4000;

/// Paths gathered until there are enough of them for one call.
pub(super) struct Projects {
    source: PathBuf,
    target: PathBuf,
    paths: Vec<Vec<u8>>,
    paths_len: usize,
}

impl Projects {
    pub(super) fn new(source: &Path, target: &Path) -> Self {
        Self {
            source: source.to_owned(),
            target: target.to_owned(),
            paths: Vec::new(),
            paths_len: 0,
        }
    }

    /// Adds the path of a file or directory; returns whether it is time to ask.
    pub(super) fn add(&mut self, path: &[u8]) -> bool {
        if path.len() <= PATH_LEN_MAX {
            self.paths_len += path.len();
            self.paths.push(path.to_vec());
        }
        self.paths.len() >= PATHS_MAX || self.paths_len >= PATHS_LEN_MAX
    }

    /// The paths whose ids differ, with both ids. Forgets all paths.
    pub(super) fn differences(&mut self) -> Vec<(Vec<u8>, String, String)> {
        let paths = std::mem::take(&mut self.paths);
        self.paths_len = 0;
        if paths.is_empty() {
            return Vec::new();
        }
        let ids = |root: &Path| ids(root, &paths);
        let (source, target) = (ids(&self.source), ids(&self.target));
        let pairs = paths.iter().zip(source.into_iter().zip(target));
        pairs
            .filter(|(_, (source, target))| source != target)
            .map(|(path, (source, target))| (path.clone(), source, target))
            .collect()
    }
}

/// One id for each path, `0` where the file system has none. `lsattr` answers in the order of its arguments and leaves
/// out what it cannot tell, so each answer is looked for behind the last.
fn ids(root: &Path, paths: &[Vec<u8>]) -> Vec<String> {
    let argument = |path: &Vec<u8>| [b"./", &path[..]].concat();
    let output = Command::new("lsattr")
        .args(["-pd", "--"])
        .args(
            paths
                .iter()
                .map(&argument)
                .map(|path| OsStr::from_bytes(&path).to_owned()),
        )
        .current_dir(root)
        .env("LC_ALL", "C")
        .output();
    let stdout = match output {
        Ok(output) => output.stdout,
        Err(error) => return vec![format!("unknown: cannot run lsattr: {error}"); paths.len()],
    };
    let mut rest = &stdout[..];
    paths
        .iter()
        .map(|path| {
            let end = [b" ", &argument(path)[..], b"\n"].concat();
            match answer(rest, &end) {
                Some((id, behind)) => {
                    rest = behind;
                    id
                }
                None => "0".into(),
            }
        })
        .collect()
}

/// Reads `  <id> <flags> ./<path>\n` off the front when it is about the path that `end` holds.
fn answer<'a>(rest: &'a [u8], end: &[u8]) -> Option<(String, &'a [u8])> {
    let id_start = rest.iter().position(|byte| *byte != b' ')?;
    let id_len = rest[id_start..].iter().position(|byte| *byte == b' ')?;
    let flags = &rest[id_start + id_len + 1..];
    let flags_len = flags.iter().position(|byte| *byte == b' ')?;
    let behind = flags[flags_len..].strip_prefix(end)?;
    let id = String::from_utf8_lossy(&rest[id_start..id_start + id_len]);
    Some((id.into_owned(), behind))
}
