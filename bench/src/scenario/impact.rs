//! What a copy does to the page cache of the source: half of the files are in it, and should stay; the others should
//! not come in.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::fs::{Advice, fadvise};

use super::{empty, job, scaled};
use crate::RunArgs;
use crate::data::{Content, big_file};
use crate::site::Site;
use crate::table::fact;

const FILES: u64 = 64;
const LEN: u64 = 16 << 20;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let source = site.empty("source")?;
    ensure!(
        !is_in_memory(&source)?,
        "{} lies on a file system in memory, whose files always are in the page cache: name another folder with --work",
        source.display()
    );
    let len = scaled(args, LEN);
    for index in 0..FILES {
        big_file(&source.join(format!("{index}")), len, Content::Random, index)?;
    }
    site.settle()?;
    for tool in super::tools(args, site.link) {
        for index in 0..FILES {
            let path = source.join(format!("{index}"));
            let file = fs::File::open(&path)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            if index % 2 == 0 {
                std::io::copy(&mut &file, &mut std::io::sink())?;
            }
        }
        let before = cached(&source)?;
        let job = job(site, tool, source.clone());
        empty(site, &job)?;
        tool.copy(site, &job)?;
        let after = cached(&source)?;
        let change = (after as f64 - before as f64) / before as f64 * 100.0;
        fact(&format!(
            "{}: {} MiB of the source cached before, {} MiB after: {change:+.1} %; goal ± 5 % for go2cloud",
            tool.name(),
            before >> 20,
            after >> 20
        ))?;
        empty(site, &job)?;
    }
    Ok(())
}

/// Whether a folder lies on tmpfs or ramfs.
fn is_in_memory(folder: &Path) -> Result<bool> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type as u64 & 0xffff_ffff;
    Ok([TMPFS, RAMFS].contains(&kind))
}

/// Bytes of the files in `folder` that are in the page cache.
fn cached(folder: &Path) -> Result<u64> {
    let paths = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let output = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .args(paths)
        .output()?;
    ensure!(
        output.status.success(),
        "fincore: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| Ok(line.trim().parse::<u64>()?)).sum()
}
