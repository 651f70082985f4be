//! Reads initial RAM file systems: cpio archives one after the other, of which the last is usually compressed. Only
//! names are wanted. The bytes come from the guest, so every length is checked.

use std::collections::BTreeSet;
use std::io::Read as _;

use transfer::{Error, Kind, Result};

use crate::limits::INITRAMFS_LEN_MAX;

/// Compression of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// The format that xz replaced.
    Lzma,
    /// LZ4 in its old frame format, as the kernel takes it.
    Lz4,
    /// bzip2.
    Bzip2,
}

impl Compression {
    /// The program that decompresses it from standard input to standard output, where this program cannot.
    pub fn tool(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Gzip | Self::Zstd => None,
            Self::Xz => Some(["xz", "-dc"]),
            Self::Lzma => Some(["xz", "-dc -F lzma"]),
            Self::Lz4 => Some(["lz4", "-dc"]),
            Self::Bzip2 => Some(["bzip2", "-dc"]),
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 7] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (&[0x02, 0x21, 0x4c, 0x18], Self::Lz4),
            (&[0x04, 0x22, 0x4d, 0x18], Self::Lz4),
            (&[0x5d, 0, 0], Self::Lzma),
            (b"BZh", Self::Bzip2),
        ];
        magics
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression)
    }
}

/// Decompresses what this program cannot: the guest's or our own tool.
pub type Decompress<'a> = dyn Fn(Compression, &[u8]) -> Result<Vec<u8>> + 'a;

/// Names of all files in an image.
///
/// # Errors
/// The image is damaged, or its compression is not known.
pub fn names(image: &[u8], decompress: &Decompress<'_>) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut rest = image;
    loop {
        rest = skip_zeros(rest);
        if rest.is_empty() {
            return Ok(names);
        }
        if rest.starts_with(b"070701") || rest.starts_with(b"070702") {
            rest = archive(rest, &mut names)?;
            continue;
        }
        let compression = Compression::of(rest).ok_or_else(|| damaged("its compression is not known"))?;
        let inner = match compression {
            Compression::Gzip => bounded(flate2::read::GzDecoder::new(rest))?,
            Compression::Zstd => bounded(
                zstd::stream::read::Decoder::new(rest)
                    .map_err(|error| damaged("zstd").because(error))?
                    .single_frame(),
            )?,
            other => decompress(other, rest)?,
        };
        let mut inner = skip_zeros(&inner);
        if !inner.starts_with(b"07070") {
            return Err(damaged("its main part is no cpio archive"));
        }
        while inner.starts_with(b"07070") {
            inner = skip_zeros(archive(inner, &mut names)?);
        }
        return Ok(names);
    }
}

fn skip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

fn bounded(reader: impl std::io::Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = INITRAMFS_LEN_MAX + 1;
    reader
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| damaged("decompression").because(error))?;
    if bytes.len() as u64 == limit {
        return Err(damaged("it is larger than any real one"));
    }
    Ok(bytes)
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("read the initial RAM file system: {what}"))
        .remedy("make it again with the guest's own tool")
}

/// Reads one archive up to its trailer and returns what follows.
fn archive<'a>(mut bytes: &'a [u8], names: &mut BTreeSet<String>) -> Result<&'a [u8]> {
    const HEADER_LEN: usize = 110;
    loop {
        let header = bytes
            .get(..HEADER_LEN)
            .ok_or_else(|| damaged("it ends inside a header"))?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return Err(damaged("a header is missing"));
        }
        let field = |index: usize| -> Result<usize> {
            let digits = &header[6 + index * 8..14 + index * 8];
            let text = std::str::from_utf8(digits).map_err(|error| damaged("a number").because(error))?;
            usize::from_str_radix(text, 16).map_err(|error| damaged("a number").because(error))
        };
        let (file_len, name_len) = (field(6)?, field(11)?);
        let name_end = HEADER_LEN.saturating_add(name_len);
        let name = bytes
            .get(HEADER_LEN..name_end)
            .ok_or_else(|| damaged("it ends inside a name"))?;
        let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
        let end = aligned(name_end).saturating_add(aligned(file_len));
        bytes = match bytes.get(end..) {
            Some(rest) => rest,
            // The last file of an archive need not be padded.
            None if aligned(name_end).saturating_add(file_len) <= bytes.len() => &[],
            None => return Err(damaged("it ends inside a file")),
        };
        if name == "TRAILER!!!" {
            return Ok(bytes);
        }
        names.insert(name);
        if bytes.is_empty() {
            return Ok(bytes);
        }
    }
}

fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// Names of kernel modules among file names, `-` written as `_`, without folder and suffix.
pub fn modules(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().filter_map(|name| module_name(name)).collect()
}

/// Name of the module in a file such as `kernel/drivers/block/virtio_blk.ko.xz`.
pub fn module_name(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let suffixes = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
    let name = suffixes.iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = b"070701".to_vec();
        let fields = [
            1,
            0o100644,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        for field in fields {
            write!(bytes, "{field:08X}").unwrap();
        }
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(aligned(bytes.len()), 0);
        bytes.extend(content);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn cpio(names: &[&str]) -> Vec<u8> {
        let mut bytes: Vec<u8> = names.iter().flat_map(|name| entry(name, b"content")).collect();
        bytes.extend(entry("TRAILER!!!", b""));
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn none(_: Compression, _: &[u8]) -> Result<Vec<u8>> {
        Err(damaged("no tool"))
    }

    fn by_tool(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
        crate::convert::initramfs_tool::here(compression, bytes)
            .transpose()
            .unwrap()
    }

    const MODULES: &[&str] = &[
        "init",
        "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.xz",
        "lib/modules/6.1/dm-mod.ko",
    ];

    fn piped(tool: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = std::process::Command::new(tool[0])
            .args(&tool[1..])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn early_microcode_and_every_compression_are_read() {
        let early = cpio(&["kernel/x86/microcode/GenuineIntel.bin"]);
        let main = cpio(MODULES);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&main).unwrap();
        let compressed = [
            main.clone(),
            gzip.finish().unwrap(),
            zstd::encode_all(&main[..], 1).unwrap(),
            piped(&["xz", "-c"], &main),
            piped(&["lz4", "-lc"], &main),
        ];
        for main in compressed {
            let image = [early.clone(), main].concat();
            let names = names(&image, &by_tool).unwrap();
            assert_eq!(names.len(), 4);
            assert_eq!(
                modules(&names).into_iter().collect::<Vec<_>>(),
                ["dm_mod", "virtio_blk"]
            );
        }
    }

    #[test]
    fn damage_is_found() {
        let image = zstd::encode_all(&cpio(MODULES)[..], 1).unwrap();
        assert!(names(&image[..image.len() / 2], &none).is_err());
        let plain = cpio(MODULES);
        assert!(names(&plain[..150], &none).is_err());
        assert!(names(b"garbage that is no image", &none).is_err());
        assert!(names(&zstd::encode_all(&b"no archive"[..], 1).unwrap(), &none).is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..3) {
            let prefix: &[u8] = [&b"070701"[..], b"0707010000000100", b""][start];
            let _ = names(&[prefix, &bytes[..]].concat(), &none);
        }
    }
}
