//! Changes to a mounted file system, from a seed: as a busy server makes them, and ruder.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sys::aligned::AlignedBuffer;

/// Small and good enough: splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; len];
        for part in bytes.chunks_mut(8) {
            let word = self.roll().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
        bytes
    }
}

/// What goes on on one file system.
pub(crate) struct Workload {
    root: PathBuf,
    dice: Dice,
}

impl Workload {
    pub(crate) fn new(root: &Path, seed: u64) -> Self {
        Self {
            root: root.to_owned(),
            dice: Dice::new(seed),
        }
    }

    /// Writes files of random content, in all about `bytes`.
    pub(crate) fn fill(root: &Path, seed: u64, bytes: u64) {
        let mut workload = Self::new(root, seed);
        let mut written = 0;
        while written < bytes {
            let len = [100, 5000, 70_000, 600_000][workload.dice.below(4) as usize];
            let name = workload.name();
            let content = workload.dice.bytes(len);
            std::fs::create_dir_all(name.parent().unwrap()).unwrap();
            if std::fs::write(&name, content).is_err() {
                break;
            }
            written += len as u64;
        }
        rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
    }

    fn name(&mut self) -> PathBuf {
        let folder = self.dice.below(8);
        let file = self.dice.below(60);
        self.root
            .join(format!("folder{folder}"))
            .join(format!("file{file}"))
    }

    /// One random operation. Failures (no space, not there) are part of life.
    pub(crate) fn step(&mut self) {
        let name = self.name();
        let other = self.name();
        let _ = std::fs::create_dir_all(name.parent().unwrap());
        let _ = match self.dice.below(12) {
            0..3 => self.overwrite(&name),
            3 => self.append(&name),
            4 => std::fs::remove_file(&name),
            5 => std::fs::rename(&name, &other),
            6 => File::options().write(true).open(&name).and_then(|file| {
                let len = self.dice.below(200_000);
                file.set_len(len)
            }),
            7 => self.punch(&name),
            8 => self.direct(&name),
            9 => self.mapped(&name),
            10 => std::os::unix::fs::symlink(&other, &name),
            _ => std::fs::hard_link(&name, &other),
        };
        if self.dice.below(40) == 0 {
            let _ = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        }
        if self.dice.below(150) == 0 {
            // What is free is discarded; a file system that cannot says so.
            let _ = std::process::Command::new("fstrim").arg(&self.root).output();
        }
    }

    fn overwrite(&mut self, name: &Path) -> std::io::Result<()> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(name)?;
        let len = self.dice.below(100_000) as usize + 1;
        let offset = self.dice.below(300_000);
        file.write_all_at(&self.dice.bytes(len), offset)
    }

    fn append(&mut self, name: &Path) -> std::io::Result<()> {
        use std::io::Write;
        let mut file = File::options().append(true).create(true).open(name)?;
        let len = self.dice.below(10_000) as usize;
        file.write_all(&self.dice.bytes(len))
    }

    fn punch(&mut self, name: &Path) -> std::io::Result<()> {
        use rustix::fs::FallocateFlags as F;
        let file = File::options().write(true).open(name)?;
        let offset = self.dice.below(50) * 4096;
        rustix::fs::fallocate(&file, F::PUNCH_HOLE | F::KEEP_SIZE, offset, 65_536)?;
        Ok(())
    }

    fn direct(&mut self, name: &Path) -> std::io::Result<()> {
        const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(O_DIRECT)
            .open(name)?;
        let mut buffer = AlignedBuffer::zeroed(16_384);
        let content = self.dice.bytes(16_384);
        buffer.copy_from_slice(&content);
        let offset = self.dice.below(40) * 4096;
        file.write_all_at(&buffer, offset)
    }

    /// Stores through a shared mapping, in a process of its own: Python is everywhere, unsafe code is not.
    fn mapped(&mut self, name: &Path) -> std::io::Result<()> {
        let seed = self.dice.roll();
        let script = "import mmap,os,sys,random\n\
            f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n\
            os.ftruncate(f,max(os.fstat(f).st_size,65536))\n\
            m=mmap.mmap(f,0)\n\
            r=random.Random(int(sys.argv[2]))\n\
            for i in range(20):\n\
            \x20o=r.randrange(len(m)-64)\n\
            \x20m[o:o+64]=r.randbytes(64)\n";
        if self.dice.below(6) > 0 {
            return Ok(()); // starting Python is slow: one in six
        }
        std::process::Command::new("python3")
            .args(["-c", script])
            .arg(name)
            .arg(seed.to_string())
            .output()
            .map(drop)
    }

    /// Steps until told to stop; counts them.
    pub(crate) fn run(mut self, stop: &AtomicBool, steps: &AtomicU64) {
        while !stop.load(Ordering::Acquire) {
            self.step();
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes to a partition without a file system, past and through the page cache, until told to stop; then through.
pub(crate) fn scribble(device: PathBuf, seed: u64, stop: &AtomicBool) {
    const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut dice = Dice::new(seed);
    let through_cache = File::options().write(true).open(&device).unwrap();
    let past_cache = File::options()
        .write(true)
        .custom_flags(DIRECT)
        .open(&device)
        .unwrap();
    let blocks = rustix::fs::seek(&through_cache, rustix::fs::SeekFrom::End(0)).unwrap() / 4096;
    let mut block = AlignedBuffer::zeroed(4096);
    while !stop.load(Ordering::Acquire) {
        block.copy_from_slice(&dice.bytes(4096));
        // Each half in one way only: the two do not see each other.
        let at = dice.below(blocks / 2);
        past_cache.write_all_at(&block, at * 4096).unwrap();
        through_cache
            .write_all_at(&block, (at + blocks / 2) * 4096)
            .unwrap();
    }
    through_cache.sync_all().unwrap();
}

/// Slots of the counting file, each a block.
const SLOTS: u64 = 32;
const SLOTS_NAME: &str = "counted";

/// Writes 1, 2, 3 … with direct I/O into slots, one after the other, until told to stop: at every moment the medium
/// holds the last numbers without a gap.
pub(crate) fn count(root: &Path, stop: &AtomicBool) {
    const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
    let path = root.join(SLOTS_NAME);
    std::fs::write(&path, vec![0u8; SLOTS as usize * 4096]).unwrap();
    let file = File::options()
        .write(true)
        .custom_flags(DIRECT)
        .open(&path)
        .unwrap();
    file.sync_all().unwrap();
    let mut block = AlignedBuffer::zeroed(4096);
    let mut number = 0u64;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all_at(&block, number % SLOTS * 4096).unwrap();
    }
}

/// Proves that the slots are those of one moment.
pub(crate) fn assert_counted(root: &Path, what: &str) {
    let bytes = std::fs::read(root.join(SLOTS_NAME)).unwrap();
    let numbers = bytes
        .chunks(4096)
        .map(|slot| u64::from_le_bytes(*slot.first_chunk().unwrap()));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    let last = *numbers.last().unwrap();
    let expected: Vec<u64> = (0..SLOTS)
        .map(|back| last.saturating_sub(SLOTS - 1 - back))
        .collect();
    assert_eq!(numbers, expected, "{what}: not of one moment");
}
