//! Checked arguments: what `serve` can rely on. All refusals are found before anything is opened for writing.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use transfer::secret::Secret;
use transfer::target::{DiskTarget, ServePlan, TargetVolume};
use transfer::{Error, Kind, Result};

use crate::cli::ServeArgs;

/// Where journals live unless the user says otherwise.
const JOURNAL_ROOT: &str = "/var/lib/go2cloud/receiver";

/// What will be served, checked.
pub struct Plan {
    /// Handed to the data plane.
    pub serve: ServePlan,
}

impl Plan {
    /// Checks arguments against the world.
    ///
    /// # Errors
    /// The first refusal, when there is one; all of them in one message, when there are several.
    pub fn check(args: ServeArgs) -> Result<Self> {
        let mut refusals = Vec::new();
        let secret = keep(&mut refusals, read_secret(&args.secret_file));
        let volume = keep(&mut refusals, check_volume(&args));
        let journal = volume.as_ref().and_then(|(_, path)| {
            keep(
                &mut refusals,
                check_journal(args.journal.as_deref(), path, args.into.is_some()),
            )
        });
        match (secret, volume, journal) {
            (Some(secret), Some((volume, _)), Some(journal)) => {
                let listen: SocketAddr = args.listen;
                Ok(Self {
                    serve: ServePlan {
                        listen,
                        secret,
                        volume,
                        journal,
                    },
                })
            }
            _ => Err(join(refusals)),
        }
    }
}

fn read_secret(path: &Path) -> Result<Secret> {
    Secret::from_file(path).map_err(|error| match error.kind() {
        Kind::Usage => error,
        _ => Error::new(Kind::Usage, "start without the secret")
            .because(error)
            .remedy("name its file with --secret-file; create one with: openssl rand -hex 32"),
    })
}

fn keep<T>(refusals: &mut Vec<Error>, result: Result<T>) -> Option<T> {
    result.map_err(|error| refusals.push(error)).ok()
}

fn join(mut refusals: Vec<Error>) -> Error {
    if refusals.len() == 1 {
        return refusals.remove(0);
    }
    let lines: Vec<String> = refusals.iter().map(|error| crate::chain(error)).collect();
    Error::new(Kind::Usage, "start")
        .because(lines.join("\n  and "))
        .remedy("correct what follows")
}

/// The volume and the canonical path that names it.
fn check_volume(args: &ServeArgs) -> Result<(TargetVolume, PathBuf)> {
    if let Some(root) = &args.into {
        let root = check_directory(root)?;
        return Ok((TargetVolume::Tree { root: root.clone() }, root));
    }
    let mut disks: Vec<DiskTarget> = Vec::new();
    for disk in &args.into_disk {
        let path = check_disk(disk)?;
        if disks.iter().any(|other| other.path == path) {
            return Err(Error::new(Kind::Usage, "receive two disks into one").on(path));
        }
        disks.push(DiskTarget {
            path,
            overwrite: args.overwrite,
        });
    }
    // All of them name the journal: a target with another second disk is another target.
    let names: Vec<_> = disks.iter().map(|disk| disk.path.as_os_str()).collect();
    let name = PathBuf::from(names.join(OsStr::new("\0")));
    Ok((TargetVolume::Disks(disks), name))
}

fn check_directory(root: &Path) -> Result<PathBuf> {
    let unusable = |remedy: &str| {
        Error::new(Kind::Usage, "use the target directory")
            .on(root)
            .remedy(remedy.to_owned())
    };
    let metadata = fs::metadata(root)
        .map_err(|error| unusable("create it first, or mount the target file system there").because(error))?;
    if !metadata.is_dir() {
        return Err(unusable(
            "--into takes a directory; a disk or an image file goes to --into-disk",
        ));
    }
    fs::canonicalize(root).map_err(|error| unusable("check the path").because(error))
}

/// The canonical path of a disk or an image; an image need not exist yet.
fn check_disk(disk: &Path) -> Result<PathBuf> {
    let unusable = |remedy: &str| {
        Error::new(Kind::Usage, "use the target disk")
            .on(disk)
            .remedy(remedy.to_owned())
    };
    match fs::metadata(disk) {
        Ok(metadata) if metadata.file_type().is_block_device() || metadata.is_file() => {
            fs::canonicalize(disk).map_err(|error| unusable("check the path").because(error))
        }
        Ok(_) => Err(unusable("--into-disk takes a block device or a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !disk.starts_with("/dev") => {
            let disk = absolute(disk)?;
            match disk.parent().map(fs::canonicalize) {
                Some(Ok(folder)) => Ok(folder.join(disk.file_name().unwrap_or_default())),
                _ => Err(unusable("make the folder of the image file first").because(error)),
            }
        }
        Err(error) => Err(unusable("name an existing block device, or an image file").because(error)),
    }
}

/// The journal's folder. One below a target tree would be deleted as foreign.
fn check_journal(asked: Option<&Path>, volume: &Path, tree: bool) -> Result<PathBuf> {
    let journal = match asked {
        Some(journal) => absolute(journal)?,
        None => {
            let digest = blake3::hash(volume.as_os_str().as_bytes()).to_hex();
            Path::new(JOURNAL_ROOT).join(&digest.as_str()[..16])
        }
    };
    if tree && canonical_prefix(&journal).starts_with(volume) {
        return Err(
            Error::new(Kind::Usage, "keep the journal inside the target directory")
                .on(journal)
                .remedy("choose a folder outside of it with --journal"),
        );
    }
    Ok(journal)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find the journal folder", path, error))
}

/// The path with its longest existing part made canonical: a link must not hide that it leads into the target.
fn canonical_prefix(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("tree")).unwrap();
            fs::write(folder.path().join("key"), "0123456789abcdef0123456789abcdef\n").unwrap();
            Self { folder }
        }

        fn args(&self) -> ServeArgs {
            ServeArgs {
                listen: "127.0.0.1:0".parse().unwrap(),
                secret_file: self.folder.path().join("key"),
                into: Some(self.folder.path().join("tree")),
                into_disk: Vec::new(),
                overwrite: false,
                journal: None,
                json: false,
            }
        }
    }

    fn refusal(args: ServeArgs) -> String {
        let error = Plan::check(args).err().expect("refused");
        assert_eq!(error.kind(), Kind::Usage);
        crate::chain(&error)
    }

    #[test]
    fn the_default_journal_is_outside_the_tree_and_stable() {
        let place = Place::new();
        let first = Plan::check(place.args()).unwrap_or_else(|error| panic!("{error}"));
        let second = Plan::check(place.args()).unwrap_or_else(|error| panic!("{error}"));
        assert!(first.serve.journal.starts_with(JOURNAL_ROOT));
        assert_eq!(first.serve.journal, second.serve.journal);
    }

    #[test]
    fn a_journal_inside_the_tree_is_refused_even_behind_a_link() {
        let place = Place::new();
        let mut args = place.args();
        args.journal = Some(place.folder.path().join("tree/journal"));
        assert!(refusal(args).contains("--journal"));
        std::os::unix::fs::symlink(place.folder.path().join("tree"), place.folder.path().join("link"))
            .unwrap();
        let mut args = place.args();
        args.journal = Some(place.folder.path().join("link/deep/journal"));
        assert!(refusal(args).contains("--journal"));
    }

    #[test]
    fn all_refusals_come_at_once() {
        let place = Place::new();
        fs::write(place.folder.path().join("key"), "short").unwrap();
        let mut args = place.args();
        args.into = Some(place.folder.path().join("absent"));
        let text = refusal(args);
        assert!(text.contains("5 bytes") && text.contains("absent"), "{text}");
    }

    #[test]
    fn a_file_is_no_target_directory() {
        let place = Place::new();
        let mut args = place.args();
        args.into = Some(place.folder.path().join("key"));
        assert!(refusal(args).contains("--into-disk"));
    }
}
