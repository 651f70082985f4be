//! Workloads that are not source trees: big files, sparse files, database files.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;

/// Size of a database page in bytes.
pub(crate) const PAGE_LEN: u64 = 8192;

/// Reproducible random bytes (xorshift64*).
#[derive(Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    /// Equal seeds give equal bytes.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            piece.copy_from_slice(&bits[..piece.len()]);
        }
    }
}

/// What a big file consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Does not compress.
    Random,
    /// Compresses to about a third: log lines with random numbers.
    Text,
}

/// One file of `len` bytes.
pub(crate) fn big_file(path: &Path, len: u64, content: Content, seed: u64) -> Result<()> {
    let mut noise = Noise::new(seed);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut left = len;
    let mut piece = vec![0; 1 << 16];
    while left > 0 {
        match content {
            Content::Random => noise.fill(&mut piece),
            Content::Text => log_lines(&mut noise, &mut piece)?,
        }
        let part = left.min(piece.len() as u64);
        out.write_all(&piece[..part as usize])?;
        left -= part;
    }
    out.flush()?;
    Ok(())
}

fn log_lines(noise: &mut Noise, piece: &mut [u8]) -> Result<()> {
    const VERBS: [&str; 4] = ["accepted", "refused", "closed", "timed out"];
    let len = piece.len();
    let mut rest = piece;
    while !rest.is_empty() {
        let bits = noise.bits();
        let line = format!(
            "2026-11-21T09:{:02}:{:02}.{:03} server[{}]: connection {:x} from 10.0.{}.{} {}\n",
            bits % 60,
            bits >> 6 & 31,
            bits >> 12 & 511,
            bits >> 21 & 1023,
            bits >> 31,
            bits >> 40 & 3,
            bits >> 44 & 255,
            VERBS[(bits >> 60 & 3) as usize]
        );
        let part = line.len().min(rest.len());
        let written = rest.write(&line.as_bytes()[..part])?;
        anyhow::ensure!(written > 0, "a buffer of {len} bytes took no more");
    }
    Ok(())
}

/// `count` files of `len` bytes, each with 80 % holes: of every 640 KiB the first 128 KiB are data.
pub(crate) fn sparse_files(folder: &Path, count: u64, len: u64) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut noise = Noise::new(80);
    let mut piece = vec![0; 128 << 10];
    for index in 0..count {
        let file = File::create(folder.join(format!("sparse{index:03}")))?;
        file.set_len(len)?;
        let mut at = 0;
        while at + piece.len() as u64 <= len {
            noise.fill(&mut piece);
            file.write_all_at(&piece, at)?;
            at += 640 << 10;
        }
    }
    Ok(())
}

/// A database file: pages half of random bytes, half of zeros.
pub(crate) fn database(path: &Path, len: u64) -> Result<()> {
    let mut noise = Noise::new(8);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut page = vec![0; PAGE_LEN as usize];
    for number in 0..len / PAGE_LEN {
        page[..8].copy_from_slice(&number.to_le_bytes());
        noise.fill(&mut page[8..PAGE_LEN as usize / 2]);
        out.write_all(&page)?;
    }
    out.flush()?;
    Ok(())
}

/// Rewrites one in a hundred pages, chosen at random; returns how many.
pub(crate) fn change_pages(path: &Path, seed: u64) -> Result<u64> {
    let mut noise = Noise::new(seed ^ 0xDB);
    let file = File::options().write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE_LEN;
    let mut bytes = vec![0; PAGE_LEN as usize / 2];
    let changes = pages / 100;
    for _ in 0..changes {
        noise.fill(&mut bytes);
        file.write_all_at(&bytes, noise.bits() % pages * PAGE_LEN)?;
    }
    file.sync_all()?;
    Ok(changes)
}

/// `count` files of about 100 bytes, 100 in a directory.
pub(crate) fn tiny_files(folder: &Path, count: u64) -> Result<()> {
    for index in 0..count {
        let directory = folder
            .join(format!("{:03}", index / 10_000))
            .join(format!("{:02}", index / 100 % 100));
        if index % 100 == 0 {
            fs::create_dir_all(&directory)?;
        }
        fs::write(directory.join(format!("file{index}")), format!("{index:0>100}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn sparse_files_are_sparse_and_databases_change_in_the_promised_places() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        sparse_files(folder.path(), 1, 10 << 20).unwrap();
        let metadata = fs::metadata(folder.path().join("sparse000")).unwrap();
        let data = metadata.blocks() * 512;
        assert!((metadata.len() / 6..metadata.len() / 4).contains(&data), "{data}");

        let path = folder.path().join("database");
        database(&path, 400 * PAGE_LEN).unwrap();
        let before = fs::read(&path).unwrap();
        assert_eq!(change_pages(&path, 1).unwrap(), 4);
        let after = fs::read(&path).unwrap();
        let pages = before.chunks(8192).zip(after.chunks(8192));
        assert!((1..=4).contains(&pages.filter(|(one, other)| one != other).count()));
    }

    #[test]
    fn big_files_have_their_length() {
        let folder = tempfile::tempdir().unwrap();
        for content in [Content::Random, Content::Text] {
            let path = folder.path().join("big");
            big_file(&path, 300_001, content, 1).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 300_001);
        }
    }
}
