//! A disk whose power can be cut: what was written since the last flush may be there afterwards or not, block by block.
//!
//! The disk is one file that this process serves to the kernel through `/dev/fuse` (linux/fuse.h, protocol 7), below a loop
//! device with a file system. Writes wait in memory until the file system flushes; a cut keeps some of the waiting
//! blocks, chosen by a seed, loses the others and answers nothing but errors from then on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::dice::Dice;

/// Unit in which a cut keeps or loses: smaller than any file system's block would be.
const BLOCK: usize = 4096;
/// Longest write that the kernel sends: 256 pages.
const WRITE_MAX: u32 = 1 << 20;
const IN_HEADER: usize = 40;
const ROOT: u64 = 1;

const SETATTR: u32 = 4;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const FORGET: u32 = 2;
const BATCH_FORGET: u32 = 42;

/// `FUSE_BIG_WRITES` and `FUSE_MAX_PAGES`
const INIT_FLAGS: u32 = 1 << 5 | 1 << 22;

/// A mounted file system on such a disk; unmounted when dropped, also when the test panics.
#[derive(Debug)]
pub struct Volatile {
    folder: PathBuf,
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    medium: File,
    len: u64,
    /// Blocks written since the last flush, in order.
    waiting: Vec<(u64, Box<[u8]>)>,
    /// The last of each block among them.
    newest: BTreeMap<u64, usize>,
    dead: bool,
}

impl Volatile {
    /// Mounts the file system in `image` with `options`, which say `loop`; `folder` is made, and holds the disk and the mount.
    ///
    /// # Errors
    /// No `/dev/fuse`, no loop device, or no such file system.
    pub fn mount(image: &Path, folder: &Path, options: &str) -> io::Result<Self> {
        let medium = File::options().read(true).write(true).open(image)?;
        let len = medium.metadata()?.len();
        let disk = Arc::new(Mutex::new(Disk {
            medium,
            len,
            waiting: Vec::new(),
            newest: BTreeMap::new(),
            dead: false,
        }));
        std::fs::create_dir_all(folder.join("mounted"))?;
        File::create(folder.join("disk"))?;
        let volatile = Self {
            folder: folder.to_owned(),
            disk: Arc::clone(&disk),
        };
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let served = format!("fd={},rootmode=100000,user_id=0,group_id=0", device.as_raw_fd());
        let served = std::ffi::CString::new(served).expect("no NUL");
        rustix::mount::mount(
            "volatile",
            folder.join("disk"),
            "fuse",
            rustix::mount::MountFlags::empty(),
            Some(served.as_c_str()),
        )?;
        std::thread::spawn(move || serve(&device, &disk));
        run(Command::new("mount")
            .args(["-o", options])
            .arg(folder.join("disk"))
            .arg(volatile.path()))?;
        Ok(volatile)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    /// Cuts the power. Returns how many of the waiting blocks were kept and how many lost.
    #[must_use]
    pub fn cut(self, dice: &mut Dice) -> (usize, usize) {
        let mut disk = lock(&self.disk);
        disk.dead = true;
        let waiting = std::mem::take(&mut disk.waiting);
        // From nearly nothing to nearly everything.
        let odds = 1 + dice.below(8);
        let mut kept = 0;
        let all = waiting.len();
        for (block, bytes) in waiting {
            if dice.below(9) < odds {
                kept += 1;
                disk.medium
                    .write_all_at(&bytes, block * BLOCK as u64)
                    .expect("the image can be written");
            }
        }
        (kept, all - kept)
    }
}

impl Drop for Volatile {
    fn drop(&mut self) {
        for mount in ["mounted", "disk"] {
            // Lazily: a dead disk cannot be written back to.
            let _ = run(Command::new("umount").arg("-l").arg(self.folder.join(mount)));
        }
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the kernel until the disk is unmounted.
fn serve(device: &File, disk: &Mutex<Disk>) {
    let mut request = vec![0u8; WRITE_MAX as usize + 64 * 1024];
    loop {
        let len = match (&mut &*device).read(&mut request) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let (header, body) = request[..len].split_at(IN_HEADER);
        let opcode = u32_at(header, 4);
        if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            continue;
        }
        let (error, answer) = match lock(disk).answer(opcode, body) {
            Ok(answer) => (0, answer),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut reply = ((16 + answer.len()) as u32).to_ne_bytes().to_vec();
        reply.extend_from_slice(&error.to_ne_bytes());
        reply.extend_from_slice(&header[8..16]);
        reply.extend_from_slice(&answer);
        // Whoever asked may have been killed meanwhile.
        let _ = (&mut &*device).write(&reply);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

impl Disk {
    fn answer(&mut self, opcode: u32, body: &[u8]) -> Result<Vec<u8>, Errno> {
        if self.dead && opcode != RELEASE {
            return Err(Errno::IO);
        }
        match opcode {
            INIT => Ok(init(u32_at(body, 8))),
            GETATTR | SETATTR => Ok(self.attributes()),
            OPEN => Ok(vec![0; 16]),
            RELEASE | FLUSH => Ok(Vec::new()),
            READ => self
                .read(u64_at(body, 8), u32_at(body, 16) as usize)
                .map_err(|_| Errno::IO),
            WRITE => {
                let len = u32_at(body, 16);
                self.write(u64_at(body, 8), &body[40..40 + len as usize])
                    .map_err(|_| Errno::IO)?;
                Ok([len.to_ne_bytes(), [0; 4]].concat())
            }
            FSYNC => self.flush().map(|()| Vec::new()).map_err(|_| Errno::IO),
            _ => Err(Errno::NOSYS),
        }
    }

    /// `struct fuse_attr_out`
    fn attributes(&self) -> Vec<u8> {
        let mut answer = Vec::new();
        for word in [1u64, 0, ROOT, self.len, self.len / 512, 0, 0, 0] {
            answer.extend_from_slice(&word.to_ne_bytes());
        }
        let mode = 0o100_600u32;
        for word in [0, 0, 0, mode, 1, 0, 0, 0, BLOCK as u32, 0] {
            answer.extend_from_slice(&word.to_ne_bytes());
        }
        answer
    }

    fn block(&self, number: u64) -> io::Result<Vec<u8>> {
        if let Some(at) = self.newest.get(&number) {
            return Ok(self.waiting[*at].1.to_vec());
        }
        let mut bytes = vec![0; BLOCK];
        self.medium.read_exact_at(&mut bytes, number * BLOCK as u64)?;
        Ok(bytes)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = (offset + len as u64).min(self.len);
        let mut answer = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let block = self.block(at / BLOCK as u64)?;
            let within = (at % BLOCK as u64) as usize;
            let count = (BLOCK - within).min((end - at) as usize);
            answer.extend_from_slice(&block[within..within + count]);
            at += count as u64;
        }
        Ok(answer)
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !data.is_empty() {
            let number = at / BLOCK as u64;
            let within = (at % BLOCK as u64) as usize;
            let count = (BLOCK - within).min(data.len());
            let mut block = if count == BLOCK {
                vec![0; BLOCK]
            } else {
                self.block(number)?
            };
            block[within..within + count].copy_from_slice(&data[..count]);
            self.newest.insert(number, self.waiting.len());
            self.waiting.push((number, block.into()));
            data = &data[count..];
            at += count as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for (number, at) in std::mem::take(&mut self.newest) {
            self.medium
                .write_all_at(&self.waiting[at].1, number * BLOCK as u64)?;
        }
        self.waiting.clear();
        Ok(())
    }
}

/// `struct fuse_init_out` of protocol 7.31
fn init(max_readahead: u32) -> Vec<u8> {
    let mut answer = Vec::new();
    for word in [7, 31, max_readahead, INIT_FLAGS] {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    // Requests in the background, and from how many on the kernel counts as congested.
    for word in [64u16, 48] {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    for word in [WRITE_MAX, 1] {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    for word in [256u16, 0] {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    answer.resize(64, 0);
    answer
}
