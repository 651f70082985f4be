//! The operating system.

use super::Machine;

/// The operating system of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Os {
    /// Full name, such as `CentOS Linux release 7.2 (Final)`.
    pub name: String,
    /// Family, such as `CentOS`.
    pub kind: String,
    /// Version, such as `7.2`.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Host name.
    pub host_name: String,
    /// `x86_64`, `x86_32` or `arm64`.
    pub architecture: String,
}

/// Families by the `ID` of os-release.
const KINDS: [(&str, &str); 15] = [
    ("almalinux", "AlmaLinux"),
    ("amzn", "Amazon Linux"),
    ("anolis", "Anolis"),
    ("centos", "CentOS"),
    ("debian", "Debian"),
    ("fedora", "Fedora"),
    ("kylin", "Kylin"),
    ("ol", "Oracle Linux"),
    ("opensuse", "openSUSE"),
    ("openEuler", "openEuler"),
    ("rhel", "Red Hat"),
    ("rocky", "Rocky Linux"),
    ("sles", "SUSE"),
    ("tencentos", "TencentOS"),
    ("ubuntu", "Ubuntu"),
];

/// Files of systems older than os-release, and how their text begins.
const OLD_RELEASES: [&str; 4] = [
    "/etc/centos-release",
    "/etc/oracle-release",
    "/etc/redhat-release",
    "/etc/SuSE-release",
];

pub(super) fn os(machine: &Machine) -> Os {
    let mut os = release(machine);
    os.kernel = machine.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    os.host_name = machine.text("/proc/sys/kernel/hostname").unwrap_or_default();
    os.architecture = architecture().to_owned();
    os
}

fn release(machine: &Machine) -> Os {
    let text = machine
        .text("/etc/os-release")
        .or_else(|| machine.text("/usr/lib/os-release"));
    if let Some(text) = text {
        return from_os_release(&text);
    }
    for path in OLD_RELEASES {
        if let Some(line) = machine
            .text(path)
            .and_then(|text| Some(text.lines().next()?.to_owned()))
        {
            return from_line(&line);
        }
    }
    match machine.text("/etc/debian_version") {
        Some(version) => from_line(&format!("Debian GNU/Linux {version}")),
        None => from_line("Linux"),
    }
}

fn from_os_release(text: &str) -> Os {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.trim().split_once('=')?;
            (name == key).then(|| value.trim_matches(['"', '\'']).to_owned())
        })
    };
    let id = value("ID").unwrap_or_default();
    let name = value("NAME").unwrap_or_else(|| "Linux".to_owned());
    let family = |(known, _): &&(&str, &str)| {
        id.eq_ignore_ascii_case(known) || id.strip_prefix(known).is_some_and(|rest| rest.starts_with('-'))
    };
    let kind = KINDS.iter().find(family).map(|(_, kind)| (*kind).to_owned());
    Os {
        kind: kind.unwrap_or_else(|| first_word(&name)),
        name: value("PRETTY_NAME").unwrap_or(name),
        version: value("VERSION_ID").unwrap_or_default(),
        ..Os::default()
    }
}

fn from_line(line: &str) -> Os {
    let version = line
        .split_whitespace()
        .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()));
    let kind = if line.starts_with("Red Hat") {
        "Red Hat".to_owned()
    } else if line.starts_with("Oracle") {
        "Oracle Linux".to_owned()
    } else {
        first_word(line)
    };
    Os {
        name: line.to_owned(),
        kind,
        version: version.unwrap_or_default().to_owned(),
        ..Os::default()
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or("Linux").to_owned()
}

/// The machine's architecture in the words of the API.
fn architecture() -> &'static str {
    let system = rustix::system::uname();
    match system.machine().to_bytes() {
        b"x86_64" => "x86_64",
        b"i386" | b"i486" | b"i586" | b"i686" => "x86_32",
        b"aarch64" => "arm64",
        _ => "unknown",
    }
}
