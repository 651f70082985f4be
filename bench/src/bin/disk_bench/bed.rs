//! A source disk, a receiver, and runs of `go2cloud sync`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Where things lie.
pub(crate) struct Place {
    pub(crate) work: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) programs: PathBuf,
}

/// Everything that is unmade at the end.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    target: tempfile::TempDir,
    pub(crate) device: PathBuf,
    pub(crate) mount: Option<PathBuf>,
    pub(crate) len: u64,
    programs: PathBuf,
}

/// What a run of `go2cloud sync` said.
pub(crate) struct Run {
    pub(crate) summary: Value,
    pub(crate) seconds: f64,
    /// Seconds of each round.
    pub(crate) rounds: Vec<f64>,
    /// What it took of the source's and the target's process.
    pub(crate) source: Usage,
    pub(crate) target: Usage,
}

/// What a process has taken so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Memory at most, in bytes.
    pub(crate) memory: u64,
    /// Processor time in seconds.
    pub(crate) processor_seconds: f64,
}

impl Usage {
    /// Unchanged when the process has ended.
    fn look(&mut self, process: u32) {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).ok();
        let memory = read("status").and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
        });
        let ticks = read("stat").and_then(|stat| {
            let fields = stat.rsplit(')').next()?.split_whitespace().skip(11).take(2);
            fields.map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()
        });
        self.memory = memory.map_or(self.memory, |kib| kib * 1024);
        // The kernel counts in hundredths of a second here, whatever its own clock is.
        self.processor_seconds = ticks.map_or(self.processor_seconds, |ticks| ticks as f64 / 100.0);
    }
}

impl Run {
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or(0)
    }
}

impl Bed {
    /// A disk of which the first `filled` MiB hold random content.
    pub(crate) fn random(place: &Place, mib: u64, filled: u64) -> Result<Self> {
        let bed = Self::empty(place, mib)?;
        let file = File::options().write(true).open(bed.backing())?;
        let mut dice = Dice(mib);
        for at in 0..filled.min(mib) {
            file.write_all_at(&dice.bytes(MIB as usize), at * MIB)?;
        }
        file.sync_all()?;
        Ok(bed)
    }

    /// A mounted ext4 file system with the programs and documents of this machine on it.
    pub(crate) fn file_system(place: &Place, mib: u64) -> Result<Self> {
        let bed = Self::mounted(place, mib, &[])?;
        let point = bed.mount.as_ref().context("not mounted")?;
        call(
            Command::new("cp")
                .args(["-a", "/usr/bin", "/usr/share"])
                .arg(point),
        )?;
        call(Command::new("sync").arg("-f").arg(point))?;
        Ok(bed)
    }

    /// A mounted, empty ext4 file system, made with further flags.
    pub(crate) fn mounted(place: &Place, mib: u64, flags: &[&str]) -> Result<Self> {
        let mut bed = Self::empty(place, mib)?;
        call(Command::new("mkfs.ext4").arg("-q").args(flags).arg(&bed.device))?;
        let point = bed.folder.path().join("mount");
        std::fs::create_dir(&point)?;
        call(
            Command::new("mount")
                .args(["-o", "noatime"])
                .arg(&bed.device)
                .arg(&point),
        )?;
        bed.mount = Some(point);
        Ok(bed)
    }

    /// A disk of zeros.
    pub(crate) fn empty(place: &Place, mib: u64) -> Result<Self> {
        let folder = |parent: &Path| {
            tempfile::Builder::new()
                .prefix("g2c-block-bench-")
                .tempdir_in(parent)
        };
        let (folder, target) = (folder(&place.work)?, folder(&place.target)?);
        let backing = folder.path().join("source.img");
        File::create(&backing)?.set_len(mib * MIB)?;
        let output = Command::new("losetup")
            .args(["-f", "--show", "--direct-io=on"])
            .arg(&backing)
            .output()?;
        ensure!(
            output.status.success(),
            "losetup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::write(folder.path().join("key"), "0123456789abcdef0123456789abcdef\n")?;
        Ok(Self {
            device: PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()),
            folder,
            target,
            mount: None,
            len: mib * MIB,
            programs: place.programs.clone(),
        })
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("source.img")
    }

    /// Forgets what is at the target and what is known of it.
    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.folder.path().join("state"));
        let _ = std::fs::remove_dir_all(self.target.path().join("journal"));
        let _ = std::fs::remove_file(self.target.path().join("target.img"));
    }

    /// Gives the target's image all of its blocks, as a disk has them: memory that is written to for the first time costs more
    /// than what a copy writes there.
    pub(crate) fn furnish(&self) -> Result<()> {
        let file = File::options().write(true).open(self.target_image()?)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.len)?;
        Ok(())
    }

    /// Writes single blocks all over the disk until `percent` of its 64 KiB chunks are changed.
    pub(crate) fn dirty_script(&self, percent: u64) -> Result<PathBuf> {
        let path = self.folder.path().join("dirty.py");
        let chunks = self.len / 65_536;
        let script = format!(
            "import os,random\nf=os.open('{}',os.O_WRONLY)\nfor c in random.sample(range({chunks}),{}):\n \
             os.pwrite(f,os.urandom(4096),c*65536+4096*random.randrange(16))\nos.fsync(f)\n",
            self.device.display(),
            chunks * percent / 100
        );
        File::create(&path)?.write_all(script.as_bytes())?;
        Ok(path)
    }

    /// The target's image, there at least: the receiver makes no files below /dev, where memory is.
    fn target_image(&self) -> Result<PathBuf> {
        let path = self.target.path().join("target.img");
        File::options().create(true).append(true).open(&path)?;
        Ok(path)
    }

    /// Runs a receiver and `go2cloud sync --disk` with further flags. Both are on one machine: without `--no-back-off` the
    /// source would give way to its own target.
    pub(crate) fn sync(&self, flags: &[&str]) -> Result<Run> {
        let path = |name: &str| self.folder.path().join(name);
        let mut receiver = Command::new(self.programs.join("go2cloud-receiver"));
        receiver
            .args(["--listen", "127.0.0.1:0", "--secret-file"])
            .arg(path("key"));
        receiver
            .arg("--into-disk")
            .arg(self.target_image()?)
            .arg("--journal")
            .arg(self.target.path().join("journal"));
        let mut receiver = Process::start(receiver.stdout(Stdio::piped()))?;
        let mut line = String::new();
        BufReader::new(receiver.0.stdout.take().context("no output")?).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let mut source = Command::new(self.programs.join("go2cloud"));
        source
            .args([
                "sync",
                "--json",
                "--no-back-off",
                "--to",
                &address,
                "--secret-file",
            ])
            .arg(path("key"));
        source
            .arg("--state")
            .arg(path("state"))
            .arg("--disk")
            .arg(&self.device)
            .args(flags);
        let begin = Instant::now();
        let mut source = Process::start(source.stdout(Stdio::piped()))?;
        let mut run = Run {
            summary: Value::Null,
            seconds: 0.0,
            rounds: Vec::new(),
            source: Usage::default(),
            target: Usage::default(),
        };
        let mut round_began = Instant::now();
        for line in BufReader::new(source.0.stdout.take().context("no output")?).lines() {
            let event: Value = serde_json::from_str(&line?)?;
            match event["event"].as_str() {
                Some("round_started") => round_began = Instant::now(),
                Some("round_finished") => run.rounds.push(round_began.elapsed().as_secs_f64()),
                Some("summary") => run.summary = event,
                _ => {}
            }
            run.source.look(source.0.id());
            run.target.look(receiver.0.id());
        }
        run.seconds = begin.elapsed().as_secs_f64();
        let status = source.0.wait()?;
        if !status.success() {
            bail!("go2cloud sync {flags:?} ended with {status}");
        }
        Ok(run)
    }

    /// An agent that holds the tracker of the disk and waits for a receiver that never comes. Returns when it has attached
    /// its programs.
    pub(crate) fn hold_tracker(&self) -> Result<Process> {
        let mut source = Command::new(self.programs.join("go2cloud"));
        source.args([
            "sync",
            "--quiet",
            "--to",
            "127.0.0.1:9",
            "--retry",
            "100000",
            "--secret-file",
        ]);
        source
            .arg(self.folder.path().join("key"))
            .arg("--state")
            .arg(self.folder.path().join("held"));
        source.arg("--disk").arg(&self.device).stderr(Stdio::null());
        let process = Process::start(&mut source)?;
        let since = Instant::now();
        while programs_of(process.0.id()).len() < PROGRAMS {
            ensure!(
                since.elapsed() < Duration::from_secs(20),
                "the agent attaches no BPF programs"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(point) = &self.mount {
            let _ = Command::new("umount").arg(point).output();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

/// BPF programs of a disk below 256 GiB: one for each kind of event.
const PROGRAMS: usize = 3;

/// What a BPF program has done: nanoseconds and runs, as far as the kernel counts them.
pub(crate) struct Program {
    pub(crate) nanoseconds: u64,
    pub(crate) runs: u64,
}

/// The BPF programs that a process has open.
fn programs_of(process: u32) -> Vec<Program> {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fdinfo"));
    let of_program = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse().ok()
        };
        Some(Program {
            nanoseconds: number("run_time_ns:")?,
            runs: number("run_cnt:")?,
        })
    };
    descriptors
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(of_program)
        .collect()
}

/// A process that ends with this value.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a command.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Its BPF programs.
    pub(crate) fn programs(&self) -> Vec<Program> {
        programs_of(self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command that must succeed.
pub(crate) fn call(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Random bytes from a seed: splitmix64.
struct Dice(u64);

impl Dice {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ z >> 31).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
