//! What kind of system the guest is, found by looking at its files, not at its package database: a database may be
//! broken or foreign, the files are what boots.

use std::path::{Path, PathBuf};

use serde::Serialize;
use transfer::{Error, Kind, Result};

use super::draft::Draft;

/// Distribution families that differ in where things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Debian, Ubuntu and descendants.
    Debian,
    /// Red Hat, CentOS, Rocky, Alma, Oracle, Fedora, openEuler, Anolis, TencentOS and descendants.
    RedHat,
    /// SUSE Linux Enterprise and openSUSE.
    Suse,
    /// Any other.
    Other,
}

/// What makes the guest's initial RAM file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// dracut.
    Dracut,
    /// update-initramfs.
    InitramfsTools,
    /// mkinitcpio.
    Mkinitcpio,
}

/// Processor the guest's programs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[serde(rename = "aarch64")]
    Aarch64,
    /// Something else, by its ELF number.
    Other(u16),
}

impl Architecture {
    /// The processor this program runs on.
    pub fn ours() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::X86_64,
            "aarch64" => Self::Aarch64,
            _ => Self::Other(0),
        }
    }
}

/// How SELinux is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selinux {
    /// Not installed or disabled.
    Off,
    /// Labels are kept, violations logged.
    Permissive,
    /// Labels decide.
    Enforcing,
}

/// A kernel that the guest could boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Release, as `uname -r` will say.
    pub release: String,
    /// The image below `/boot`.
    pub image: PathBuf,
    /// Its initial RAM file system, where the guest's generator puts it; need not exist.
    pub initramfs: PathBuf,
    /// Its modules.
    pub modules: PathBuf,
}

/// The guest's GRUB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grub {
    /// `/boot/grub` or `/boot/grub2`.
    pub folder: PathBuf,
    /// `grub-mkconfig` under the guest's name for it, when installed.
    pub mkconfig: Option<PathBuf>,
    /// `grub-install` under the guest's name for it, when installed.
    pub install: Option<PathBuf>,
    /// Whether menu entries are files of `/boot/loader/entries` (Boot Loader Specification).
    pub entries_are_files: bool,
}

/// All that detection finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// For people: `PRETTY_NAME`.
    pub name: String,
    /// `ID` of os-release.
    pub id: String,
    /// `VERSION_ID` of os-release.
    pub version: String,
    /// Family.
    pub family: Family,
    /// Whether systemd is PID 1.
    pub systemd: bool,
    /// Processor.
    pub architecture: Architecture,
    /// Kernels, newest first.
    pub kernels: Vec<Kernel>,
    /// What makes initial RAM file systems.
    pub generator: Option<Generator>,
    /// GRUB 2, when that boots the guest.
    pub grub: Option<Grub>,
    /// A boot loader that the conversion does not know.
    pub foreign_loader: Option<String>,
    /// SELinux.
    pub selinux: Selinux,
    /// Whether cloud-init is installed.
    pub cloud_init: bool,
}

impl Facts {
    /// Looks at the guest.
    ///
    /// # Errors
    /// There is no Linux system, or a file cannot be read.
    pub fn detect(draft: &Draft<'_>) -> Result<Self> {
        let release = os_release(draft)?;
        let value = |key: &str| {
            release
                .iter()
                .find(|(name, _)| name == key)
                .map_or("", |(_, value)| value)
                .to_owned()
        };
        let init = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
        if release.is_empty()
            || !init
                .iter()
                .any(|path| draft.guest().metadata(Path::new(path)).is_some())
        {
            return Err(Error::new(Kind::Usage, "find a Linux system")
                .on(draft.guest().root())
                .remedy(
                    "name the directory that holds its /etc and /sbin; with --disk, name all its disks",
                ));
        }
        let family = family(&value("ID"), &value("ID_LIKE"));
        let generator = generator(draft);
        Ok(Self {
            name: value("PRETTY_NAME"),
            id: value("ID"),
            version: value("VERSION_ID"),
            family,
            systemd: init[1..].iter().any(|path| draft.exists(path)),
            architecture: architecture(draft)?,
            kernels: kernels(draft, family),
            generator,
            grub: grub(draft)?,
            foreign_loader: foreign_loader(draft),
            selinux: selinux(draft)?,
            cloud_init: draft.exists("/usr/bin/cloud-init") || draft.exists("/etc/cloud/cloud.cfg"),
        })
    }
}

fn os_release(draft: &Draft<'_>) -> Result<Vec<(String, String)>> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = draft.text(path)? {
            return Ok(text.lines().filter_map(assignment).collect());
        }
    }
    for (path, id) in [
        ("/etc/redhat-release", "rhel"),
        ("/etc/SuSE-release", "sles"),
        ("/etc/debian_version", "debian"),
    ] {
        if let Some(text) = draft.text(path)? {
            let first = text.lines().next().unwrap_or_default().trim().to_owned();
            let version = first
                .split(' ')
                .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            let version = version.unwrap_or_default().to_owned();
            return Ok(vec![
                ("ID".to_owned(), id.to_owned()),
                ("VERSION_ID".to_owned(), version),
                ("PRETTY_NAME".to_owned(), first),
            ]);
        }
    }
    Ok(Vec::new())
}

/// `NAME=value` of a shell-like file, quotes removed.
pub(crate) fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=')?;
    let value = value.trim();
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.or_else(|| value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')));
    (!name.starts_with('#')).then(|| (name.trim().to_owned(), inner.unwrap_or(value).to_owned()))
}

fn family(id: &str, like: &str) -> Family {
    const RED_HAT: &[&str] = &[
        "rhel",
        "centos",
        "fedora",
        "rocky",
        "almalinux",
        "ol",
        "openEuler",
        "anolis",
        "tencentos",
        "opencloudos",
        "kylin",
        "amzn",
        "alinux",
        "hce",
    ];
    for word in std::iter::once(id).chain(like.split(' ')) {
        match word {
            "debian" | "ubuntu" => return Family::Debian,
            "suse" | "sles" | "sled" | "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => {
                return Family::Suse;
            }
            word if RED_HAT.contains(&word) => return Family::RedHat,
            _ => {}
        }
    }
    Family::Other
}

fn first_program(draft: &Draft<'_>, names: &[&str]) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let candidates = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| format!("{folder}/{name}")));
    candidates
        .map(PathBuf::from)
        .find(|path| draft.guest().metadata(path).is_some_and(|found| found.is_file()))
}

/// By the tool that is there: a distribution may offer several, and users change them.
fn generator(draft: &Draft<'_>) -> Option<Generator> {
    let order = [
        ("dracut", Generator::Dracut),
        ("update-initramfs", Generator::InitramfsTools),
        ("mkinitcpio", Generator::Mkinitcpio),
    ];
    order
        .into_iter()
        .find(|(tool, _)| first_program(draft, &[tool]).is_some())
        .map(|(_, generator)| generator)
}

fn architecture(draft: &Draft<'_>) -> Result<Architecture> {
    let programs = ["/bin/sh", "/sbin/init", "/usr/lib/systemd/systemd"];
    for program in programs {
        let Some(bytes) = draft.read(program)? else {
            continue;
        };
        if let (Some(b"\x7fELF"), Some(machine)) = (bytes.get(..4), bytes.get(18..20)) {
            return Ok(match u16::from_le_bytes([machine[0], machine[1]]) {
                62 => Architecture::X86_64,
                183 => Architecture::Aarch64,
                other => Architecture::Other(other),
            });
        }
    }
    Ok(Architecture::ours())
}

fn kernels(draft: &Draft<'_>, family: Family) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for name in draft.list("/boot") {
        let release = ["vmlinuz-", "vmlinux-", "Image-"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix));
        let Some(release) = release.filter(|release| !release.contains("rescue")) else {
            continue;
        };
        let modules = ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .map(|root| Path::new(root).join(release));
        let Some(modules) = modules.into_iter().find(|path| draft.guest().is_dir(path)) else {
            continue;
        };
        let names = match family {
            Family::Debian => [
                format!("initrd.img-{release}"),
                format!("initramfs-{release}.img"),
            ],
            Family::Suse => [format!("initrd-{release}"), format!("initramfs-{release}.img")],
            _ => [
                format!("initramfs-{release}.img"),
                format!("initrd-{release}.img"),
            ],
        };
        let paths = names.map(|name| Path::new("/boot").join(name));
        let present = paths
            .iter()
            .find(|path| draft.exists(path))
            .unwrap_or(&paths[0])
            .clone();
        kernels.push(Kernel {
            release: release.to_owned(),
            image: Path::new("/boot").join(&name),
            initramfs: present,
            modules,
        });
    }
    kernels.sort_by_key(|kernel| std::cmp::Reverse(version_key(&kernel.release)));
    kernels
}

/// Numbers compare as numbers, the rest as text.
fn version_key(release: &str) -> Vec<(u64, String)> {
    release
        .split(['.', '-', '+', '_'])
        .map(|part| {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            (part[..digits].parse().unwrap_or(0), part[digits..].to_owned())
        })
        .collect()
}

fn grub(draft: &Draft<'_>) -> Result<Option<Grub>> {
    let folders = ["/boot/grub2", "/boot/grub"];
    let has_config = |folder: &&&str| draft.exists(format!("{folder}/grub.cfg"));
    let mkconfig = first_program(draft, &["grub2-mkconfig", "grub-mkconfig"]);
    let folder = folders.iter().find(has_config).or_else(|| {
        mkconfig.as_ref()?;
        folders
            .iter()
            .find(|folder| draft.guest().is_dir(Path::new(folder)))
    });
    let Some(folder) = folder else { return Ok(None) };
    let config = draft.text(format!("{folder}/grub.cfg"))?.unwrap_or_default();
    let has_entries = draft
        .list("/boot/loader/entries")
        .iter()
        .any(|name| name.ends_with(".conf"));
    let reads_entries = config
        .lines()
        .any(|line| matches!(line.split_whitespace().next(), Some("blscfg")));
    Ok(Some(Grub {
        folder: PathBuf::from(folder),
        mkconfig,
        install: first_program(draft, &["grub2-install", "grub-install"]),
        entries_are_files: has_entries && reads_entries,
    }))
}

fn foreign_loader(draft: &Draft<'_>) -> Option<String> {
    let known = [
        ("/etc/lilo.conf", "LILO"),
        ("/etc/elilo.conf", "ELILO"),
        ("/boot/extlinux/extlinux.conf", "extlinux"),
        ("/boot/grub/menu.lst", "GRUB Legacy"),
        ("/boot/grub/grub.conf", "GRUB Legacy"),
        ("/boot/efi/loader/loader.conf", "systemd-boot"),
        ("/boot/loader/loader.conf", "systemd-boot"),
        ("/efi/loader/loader.conf", "systemd-boot"),
    ];
    known
        .iter()
        .find(|(path, _)| draft.exists(path))
        .map(|(_, name)| (*name).to_owned())
}

fn selinux(draft: &Draft<'_>) -> Result<Selinux> {
    let Some(text) = draft.text("/etc/selinux/config")? else {
        return Ok(Selinux::Off);
    };
    let mode = text
        .lines()
        .filter_map(assignment)
        .rfind(|(name, _)| name == "SELINUX")
        .map(|(_, mode)| mode);
    Ok(match mode.as_deref() {
        Some("enforcing") => Selinux::Enforcing,
        Some("permissive") => Selinux::Permissive,
        _ => Selinux::Off,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_sort_as_versions() {
        assert!(version_key("5.14.0-427.13.1.el9") > version_key("5.14.0-70.13.1.el9"));
        assert!(version_key("6.1.0-50-cloud-amd64") > version_key("6.1.0-9-cloud-amd64"));
    }

    #[test]
    fn families_follow_id_and_likeness() {
        assert_eq!(family("ubuntu", "debian"), Family::Debian);
        assert_eq!(family("rocky", "rhel centos fedora"), Family::RedHat);
        assert_eq!(family("opensuse-leap", "suse opensuse"), Family::Suse);
        assert_eq!(family("linuxmint", "ubuntu debian"), Family::Debian);
        assert_eq!(family("void", ""), Family::Other);
    }

    #[test]
    fn quotes_of_os_release_are_removed() {
        assert_eq!(
            assignment("NAME=\"A b\""),
            Some(("NAME".to_owned(), "A b".to_owned()))
        );
        assert_eq!(assignment("X='y'"), Some(("X".to_owned(), "y".to_owned())));
        assert_eq!(assignment("#X=y"), None);
    }
}
