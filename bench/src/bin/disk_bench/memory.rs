//! Memory of both sides on a disk of a TiB whose file system is as fragmented as a map may be.
//!
//! A sparse file behind the disk makes it cheap; what is measured is not: every TiB-sized structure is there in full (marks
//! of the kernel's tracker, sets of chunks, digests), the map of free space is at its bound, and one run makes a full round,
//! tracked rounds with changes all over the disk, a cutover and a verification of both media.

use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::bed::{Bed, Place, call};
use crate::measure::{goal, say};

const MIB: u64 = 1 << 20;
/// Pieces of the file that are left between the holes, of 64 KiB: almost as many gaps as a map keeps (512 Ki).
const PIECES: u64 = 500 * 1024;
/// Blocks that are changed all over the disk before the freeze.
const CHANGES: u64 = 20_000;
/// What is promised: a base, and so much for each TiB.
const BASE_MIB: f64 = 128.0;
const PER_TIB_MIB: f64 = 16.0;

/// Runs it, and prints what both sides took at most.
pub(crate) fn memory(place: &Place, mib: u64) -> Result<()> {
    let bed = Bed::mounted(
        place,
        mib,
        &["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"],
    )?;
    let point = bed.mount.as_ref().context("not mounted")?;
    let file = point.join("fragmented");
    let begin = Instant::now();
    // Seven eighths of the disk, so that there is room for the file system's own tables.
    let period = bed.len / 8 * 7 / PIECES / 4096 * 4096;
    let script = format!(
        "import ctypes,os,random,sys\n\
         libc=ctypes.CDLL(None,use_errno=True)\n\
         def change(mode,at,n):\n \
          if libc.fallocate(f,mode,ctypes.c_long(at),ctypes.c_long(n)): raise OSError(ctypes.get_errno(),'fallocate')\n\
         f=os.open('{path}',os.O_RDWR|os.O_CREAT)\n\
         if sys.argv[1]=='make':\n \
          change(0,0,{period}*{PIECES})\n \
          for i in range({PIECES}): change(3,i*{period}+65536,{period}-65536)\n\
         else:\n \
          for i in random.sample(range({PIECES}),{CHANGES}): os.pwrite(f,os.urandom(4096),i*{period})\n\
         os.fsync(f)\n",
        path = file.display(),
    );
    let path = bed.folder.path().join("fragments.py");
    std::fs::File::create(&path)?.write_all(script.as_bytes())?;
    call(Command::new("python3").arg(&path).arg("make"))?;
    let made = begin.elapsed().as_secs();
    let change = format!("python3 {} change", path.display());
    let run = bed.sync(&[
        "--checksum",
        "--freeze",
        "--freeze-max",
        "60",
        "--pre-freeze",
        &change,
    ])?;
    say(&format!(
        "\n{} GiB, mounted ext4 of {} used pieces: made in {made} s, copied in {:.0} s ({} MiB read), {} chunks sent, rounds \
         of {:.1?} s, frozen for {} ms.\n",
        bed.len >> 30,
        PIECES,
        run.seconds,
        run.number("bytes_read") / MIB,
        run.number("sent"),
        run.rounds,
        run.number("frozen_ms"),
    ));
    let promised = BASE_MIB + PER_TIB_MIB * bed.len as f64 / (MIB * MIB) as f64;
    for (side, usage) in [("source", run.source), ("target", run.target)] {
        let taken = usage.memory as f64 / MIB as f64;
        goal(
            &format!("memory of the {side}, MiB"),
            taken,
            taken <= promised,
            &format!("at most {promised:.0}"),
        );
    }
    Ok(())
}
