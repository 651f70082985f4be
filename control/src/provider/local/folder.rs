//! The folders of instances and images: made, copied, turned into one another, removed.
//!
//! What is being made has `.partial` in its name until it is whole.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{ProviderError, failed};

const GIB: u64 = 1 << 30;

/// Runs file work on a thread of its own.
pub(super) async fn blocking(
    work: impl FnOnce() -> Result<(), ProviderError> + Send + 'static,
) -> Result<(), ProviderError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(ProviderError::Failed(format!(
            "the file work ended early: {error}"
        )))
    })
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path
        .file_name()
        .unwrap_or_else(|| OsStr::new("folder"))
        .to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn make_parent(path: &Path) -> Result<(), ProviderError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|error| failed("create", parent, &error))
}

fn sync_parent(path: &Path) -> Result<(), ProviderError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|error| failed("write", parent, &error))
}

/// Makes the folder of an instance, with empty disks.
pub(super) fn make(folder: &Path, kind: &str, system_gb: u64, data_gb: &[u64]) -> Result<(), ProviderError> {
    if kind == "directory" {
        let disk = folder.join("disk");
        return fs::create_dir_all(&disk).map_err(|error| failed("create", &disk, &error));
    }
    fs::create_dir_all(folder).map_err(|error| failed("create", folder, &error))?;
    for (index, size) in std::iter::once(&system_gb).chain(data_gb).enumerate() {
        let disk = folder.join(format!("disk{index}.img"));
        let made = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&disk);
        made.and_then(|file| file.set_len(size * GIB))
            .map_err(|error| failed("create", &disk, &error))?;
    }
    Ok(())
}

/// Removes a folder and its unfinished twin; one that is not there is removed already.
pub(super) fn remove(folder: &Path) -> Result<(), ProviderError> {
    for path in [partial(folder), folder.to_owned()] {
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &path, &error)),
        }
    }
    Ok(())
}

/// The disks in a folder.
fn disks(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "disk" || (name.starts_with("disk") && name.ends_with(".img")) {
            disks.push(entry.path());
        }
    }
    disks.sort();
    Ok(disks)
}

/// Moves an instance's disks into a new image. Interrupted, it can be called again, and loses nothing.
pub(super) fn turn_into_image(instance: &Path, image: &Path) -> Result<(), ProviderError> {
    if image.exists() {
        return Ok(());
    }
    let partial = partial(image);
    fs::create_dir_all(&partial).map_err(|error| failed("create", &partial, &error))?;
    let moving = match disks(instance) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    for disk in moving.map_err(|error| failed("read", instance, &error))? {
        let name = disk.file_name().unwrap_or_default();
        fs::rename(&disk, partial.join(name)).map_err(|error| failed("move", &disk, &error))?;
    }
    let moved = disks(&partial).map_err(|error| failed("read", &partial, &error))?;
    if moved.is_empty() {
        return Err(failed(
            "make an image of",
            instance,
            &Error::from(ErrorKind::NotFound),
        ));
    }
    fs::rename(&partial, image).map_err(|error| failed("finish", image, &error))?;
    sync_parent(image)
}

/// Copies the disks of an instance or image into a new folder, sharing blocks where the file system can.
pub(super) async fn copy(from: &Path, to: &Path) -> Result<(), ProviderError> {
    let partial = partial(to);
    let sources = {
        make_parent(to)?;
        remove(&partial)?;
        fs::create_dir(&partial).map_err(|error| failed("create", &partial, &error))?;
        disks(from).map_err(|error| failed("read", from, &error))?
    };
    if sources.is_empty() {
        return Err(failed("copy", from, &Error::from(ErrorKind::NotFound)));
    }
    let mut arguments = sources;
    arguments.push(partial.clone());
    run_copy(&arguments).await?;
    let to = to.to_owned();
    blocking(move || finish(&partial, &to)).await
}

/// Copies one raw image file into a new image.
pub(super) async fn copy_file(from: &Path, to: &Path) -> Result<(), ProviderError> {
    let partial = partial(to);
    make_parent(to)?;
    remove(&partial)?;
    fs::create_dir(&partial).map_err(|error| failed("create", &partial, &error))?;
    run_copy(&[from.to_owned(), partial.join("disk0.img")]).await?;
    let to = to.to_owned();
    blocking(move || finish(&partial, &to)).await
}

fn finish(partial: &Path, to: &Path) -> Result<(), ProviderError> {
    let folder = File::open(partial).map_err(|error| failed("open", partial, &error))?;
    nix::unistd::syncfs(&folder).map_err(|error| failed("write", partial, &error.into()))?;
    fs::rename(partial, to).map_err(|error| failed("finish", to, &error))?;
    sync_parent(to)
}

async fn run_copy(arguments: &[PathBuf]) -> Result<(), ProviderError> {
    let output = Command::new("cp")
        .args(["-a", "--sparse=auto", "--reflink=auto", "--"])
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed("run", Path::new("cp"), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(ProviderError::Failed(
        complaint.lines().next().unwrap_or("cp failed").to_owned(),
    ))
}
