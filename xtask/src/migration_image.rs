//! Builds the migration image: Debian's kernel, and an initial RAM file system of the static receiver, disk tools and
//! drivers. Needs no root: packages are unpacked, not installed; file systems are written by mtools.
//!
//! Output: `vmlinuz` and `initrd.zst` for direct boot, PXE or kexec, and `disk.img`, which boots by BIOS and by UEFI.

mod archive;
mod disk;
mod drivers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use archive::Archive;

/// Kernel package: small, with every driver of virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Programs of the image. Names that are links to one program are kept as links: they look at their own name.
const TOOLS: &[&str] = &[
    "sfdisk",
    "wipefs",
    "blkid",
    "partx",
    "losetup",
    "blockdev",
    "mkswap",
    "mount",
    "umount",
    "mke2fs",
    "e2fsck",
    "resize2fs",
    "tune2fs",
    "dumpe2fs",
    "mkfs.xfs",
    "xfs_repair",
    "xfs_growfs",
    "xfs_db",
    "mkfs.vfat",
    "mkfs.btrfs",
    "btrfs",
    "lvm",
    "mdadm",
    "xz",
    "lz4",
];
/// Applets of the static busybox.
const APPLETS: &[&str] = &["sh", "ip", "udhcpc", "cat", "ls", "dmesg", "sleep"];

/// What udhcpc calls: addresses and routes are added, never removed while a migration runs.
const DHCP_SCRIPT: &str = "#!/bin/sh\n\
    case \"$1\" in\n\
    bound|renew)\n\
      ip addr replace \"$ip/${mask:-24}\" dev \"$interface\"\n\
      for gateway in $router; do\n\
        ip route replace default via \"$gateway\" dev \"$interface\" && break\n\
        ip route replace \"$gateway\" dev \"$interface\" && ip route replace default via \"$gateway\" dev \"$interface\" && break\n\
      done ;;\n\
    esac\n";

/// Where things come from and go to.
struct Request {
    /// Folder for the results.
    output: PathBuf,
    /// The receiver, statically linked.
    receiver: PathBuf,
    /// Settings to append, if any.
    settings: Option<PathBuf>,
    /// Level of zstd.
    level: u8,
}

/// The chore, from its arguments.
pub(crate) fn chore(mut arguments: impl Iterator<Item = String>) -> Result<String> {
    let mut output = PathBuf::from("target/migration-image");
    let (mut receiver, mut settings, mut level) = (None, None, 19);
    while let Some(word) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{word} takes a value"))?;
        match word.as_str() {
            "--output" => output = PathBuf::from(value),
            "--receiver" => receiver = Some(PathBuf::from(value)),
            "--settings" => settings = Some(PathBuf::from(value)),
            "--level" => level = value.parse().context("--level takes 1 to 19")?,
            _ => bail!("there is no option {word:?}; see cargo xtask help"),
        }
    }
    let receiver = receiver.map_or_else(build_receiver, Ok)?;
    build(&Request {
        output,
        receiver,
        settings,
        level,
    })
}

fn build_receiver() -> Result<PathBuf> {
    run(Command::new("cargo").args(["build", "--release", "--package", "receiver"]))?;
    Ok(PathBuf::from(
        "target/x86_64-unknown-linux-gnu/release/go2cloud-receiver",
    ))
}

/// Builds the image and reports sizes.
fn build(request: &Request) -> Result<String> {
    fs::create_dir_all(&request.output).with_context(|| format!("make {}", request.output.display()))?;
    let kernel = unpack_kernel(&request.output)?;
    let (image, modules) = (find_kernel(&kernel)?, kernel.join("lib/modules"));
    let mut archive = Archive::new();
    archive.folders(&[
        "dev", "proc", "sys", "run", "tmp", "etc", "root", "target", "var/tmp", "lib", "usr/bin",
    ]);
    // The kernel opens the console before anything is mounted.
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("init", stripped(&request.receiver, &request.output)?, 0o755);
    add_tools(&mut archive)?;
    let count = drivers::add(&mut archive, &modules)?;
    archive.file("etc/udhcpc.script", DHCP_SCRIPT.into(), 0o755);
    archive.link("etc/mtab", "/proc/self/mounts");
    if let Ok(defaults) = fs::read("/etc/mke2fs.conf") {
        archive.file("etc/mke2fs.conf", defaults, 0o644);
    }
    let raw = archive.finish();
    let mut initrd = compress(&raw, &request.output, request.level)?;
    if let Some(settings) = &request.settings {
        let text = fs::read(settings).with_context(|| format!("read {}", settings.display()))?;
        // The kernel finds a further archive only where it may begin.
        initrd.resize(initrd.len().next_multiple_of(archive::ALIGNMENT), 0);
        initrd.extend(appended(text));
    }
    fs::copy(&image, request.output.join("vmlinuz")).context("copy the kernel")?;
    fs::write(request.output.join("initrd.zst"), &initrd).context("write the initial RAM file system")?;
    disk::write(&request.output).context("write the disk image")?;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    Ok(format!(
        "{}: initrd.zst {:.1} MiB ({:.1} MiB unpacked, {count} drivers), vmlinuz {:.1} MiB, disk.img for BIOS and UEFI",
        request.output.display(),
        mib(initrd.len()),
        mib(raw.len()),
        mib(usize::try_from(fs::metadata(image)?.len())?)
    ))
}

/// Settings as a second archive, which the kernel unpacks over the first.
fn appended(text: Vec<u8>) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("go2cloud.json", text, 0o600);
    archive.finish()
}

/// Runs a program and returns its standard output.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Downloads and unpacks Debian's newest kernel of this kind, once for each version.
fn unpack_kernel(output: &Path) -> Result<PathBuf> {
    let text = run(Command::new("apt-cache").args(["depends", "--important", KERNEL_PACKAGE]))?;
    let text = String::from_utf8(text)?;
    let package = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("apt knows no kernel package; run: apt-get update")?;
    let folder = output.join(package);
    if folder.join("boot").is_dir() {
        return Ok(folder);
    }
    run(Command::new("apt-get")
        .args(["download", package])
        .current_dir(output))?;
    let is_it = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
    };
    let file = fs::read_dir(output)?
        .flatten()
        .map(|entry| entry.path())
        .find(is_it)
        .context("find the downloaded package")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&folder))?;
    fs::remove_file(file)?;
    Ok(folder)
}

fn find_kernel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder.join("boot"))?
        .flatten()
        .map(|entry| entry.path());
    let mut images = entries.filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    });
    images.next().context("find the kernel in its package")
}

/// The program without its symbols, where a tool for that is installed.
fn stripped(program: &Path, output: &Path) -> Result<Vec<u8>> {
    let target = output.join("receiver.stripped");
    let done = Command::new("strip").arg("-o").arg(&target).arg(program).status();
    let bytes = if done.is_ok_and(|status| status.success()) {
        fs::read(&target)
    } else {
        fs::read(program)
    };
    let bytes = bytes.with_context(|| format!("read {}", program.display()))?;
    ensure!(
        !has_interpreter(&bytes),
        "{} is not statically linked",
        program.display()
    );
    Ok(bytes)
}

/// Whether an ELF program of 64 bits asks for a dynamic linker: one of its program headers is of type 3.
fn has_interpreter(bytes: &[u8]) -> bool {
    let number = |at: usize, len: usize| -> usize {
        let field = bytes.get(at..at + len).unwrap_or_default();
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let (start, len, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|index| number(start + index * len, 4) == 3)
}

fn add_tools(archive: &mut Archive) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for tool in TOOLS {
        let path = find_program(tool).with_context(|| format!("find {tool}: install its package"))?;
        let real = fs::canonicalize(&path)?;
        archive.file(&format!("usr/bin/{tool}"), fs::read(&real)?, 0o755);
        let text = run(Command::new("ldd").arg(&real))?;
        for word in String::from_utf8_lossy(&text)
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            libraries.insert(PathBuf::from(word));
        }
    }
    let busybox = find_program("busybox").context("find busybox: install busybox-static")?;
    archive.file("usr/bin/busybox", fs::read(busybox)?, 0o755);
    for applet in APPLETS {
        archive.link(&format!("usr/bin/{applet}"), "busybox");
    }
    // Process 1 has no search path: programs are looked for in /bin and /usr/bin.
    for (name, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("usr/sbin", "bin"),
        ("lib64", "lib"),
    ] {
        archive.link(name, target);
    }
    for library in libraries {
        let name = library
            .file_name()
            .context("a library has a name")?
            .to_string_lossy()
            .into_owned();
        archive.file(
            &format!("lib/{name}"),
            fs::read(fs::canonicalize(&library)?)?,
            0o755,
        );
    }
    Ok(())
}

fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

fn compress(raw: &[u8], output: &Path, level: u8) -> Result<Vec<u8>> {
    let (plain, packed) = (output.join("initrd.cpio"), output.join("initrd.cpio.zst"));
    fs::write(&plain, raw)?;
    run(Command::new("zstd")
        .args(["-q", "-f", "-T0", "--rm", &format!("-{level}"), "-o"])
        .arg(&packed)
        .arg(&plain))?;
    let bytes = fs::read(&packed)?;
    fs::remove_file(packed)?;
    Ok(bytes)
}
