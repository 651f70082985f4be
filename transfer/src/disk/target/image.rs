//! Images in the format of QEMU, made of a complete copy by QEMU's own tool.
//!
//! The copy is a sparse raw file beside the image (`NAME.qcow2.raw`), with a journal as any other; it stays for later runs.
//! The image is written aside, made durable and renamed: there is a whole image or none.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Result};

const TOOL: &str = "qemu-img";

/// Fails when the tool is missing.
///
/// # Errors
/// What to do.
pub fn check_tool(image: &Path) -> Result<()> {
    let found = Command::new(TOOL)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::new(Kind::Usage, "make an image for QEMU").on(image).remedy(
            "install qemu-img (package qemu-utils or qemu-img), or name a raw image, for instance disk.img",
        )),
    }
}

/// Makes `image` of the raw `copy`, in place of an older one.
///
/// # Errors
/// The tool fails, or the file system refuses.
pub fn convert(copy: &Path, image: &Path) -> Result<()> {
    let aside = image.with_extension("qcow2.new");
    let output = Command::new(TOOL)
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([copy, &aside])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::io("start qemu-img", image, error))?;
    if !output.status.success() {
        return Err(Error::new(Kind::Medium, "make the image")
            .on(image)
            .because(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            .remedy("check the space there; the copy beside it is complete, and the next run makes the image of it"));
    }
    let replace = || {
        File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, image)?;
        match image.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    };
    replace().map_err(|error| Error::io("put the image in its place", image, error))
}
