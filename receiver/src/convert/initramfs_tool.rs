//! Decompression that this program leaves to tools: xz, LZ4, bzip2. Ours is taken when it is installed, else the
//! guest's, which must have it: the image was made with it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use transfer::{Error, Kind, Result};

use super::enclosure::Enclosure;
use super::initramfs_image::Compression;
use crate::limits::INITRAMFS_LEN_MAX;

/// Decompresses with our tool, else with the guest's.
///
/// # Errors
/// Neither has the tool, or the bytes are damaged.
pub fn decompress(enclosure: &Enclosure<'_>, compression: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
    if let Some(result) = here(compression, bytes)? {
        return Ok(result);
    }
    let argv: Vec<String> = words(compression).into_iter().map(str::to_owned).collect();
    let outcome = enclosure.run(&argv, Some(bytes.to_vec()))?;
    if outcome.success {
        Ok(outcome.stdout)
    } else {
        Err(failed(compression).because(outcome.tail))
    }
}

/// Decompresses with our tool; `None` when it is not installed.
///
/// # Errors
/// The bytes are damaged.
pub fn here(compression: Compression, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let words = words(compression);
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed(compression));
    };
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(compression).because(error)),
    };
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut result = Vec::new();
    let read = std::thread::scope(|scope| {
        // Writing ends early when the tool has seen the end of its stream; what follows is padding.
        scope.spawn(move || input.map(|mut input| input.write_all(bytes)));
        output.map_or(Ok(0), |output| {
            output.take(INITRAMFS_LEN_MAX).read_to_end(&mut result)
        })
    });
    let status = child.wait().map_err(|error| failed(compression).because(error))?;
    read.map_err(|error| failed(compression).because(error))?;
    // Padding after the stream makes some tools complain after everything has come out.
    if status.success() || result.ends_with(&[0; 4]) {
        Ok(Some(result))
    } else {
        Err(failed(compression))
    }
}

fn words(compression: Compression) -> Vec<&'static str> {
    compression
        .tool()
        .into_iter()
        .flatten()
        .flat_map(|words| words.split(' '))
        .collect()
}

fn failed(compression: Compression) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("decompress the initial RAM file system ({compression:?})"),
    )
    .remedy("install xz, lz4 or bzip2 here or in the guest, and check the image")
}
