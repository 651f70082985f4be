//! An identifier of the machine that survives new network cards, new names, reboots and updates of the tool.
//!
//! It is a digest of what identifies machine and installation: the firmware's UUID and systemd's machine id. Clones of a
//! virtual machine share the second but not the first. A machine with neither gets a random one, stored once.

use std::fs;
use std::io::{self, Read as _};

use super::Machine;

/// Where the identifier of a machine without an identity is kept.
const STORED: &str = "/var/lib/go2cloud/identifier";

/// Firmware that does not know its UUID says one of these.
const MEANINGLESS: [&str; 3] = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
];

/// The identifier: 64 hexadecimal digits.
pub(super) fn identifier(machine: &Machine) -> io::Result<String> {
    let uuid = machine
        .text("/sys/class/dmi/id/product_uuid")
        .map(|uuid| uuid.to_ascii_lowercase())
        .filter(|uuid| !MEANINGLESS.contains(&uuid.as_str()));
    let installation = machine
        .text("/etc/machine-id")
        .or_else(|| machine.text("/var/lib/dbus/machine-id"))
        .filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if uuid.is_none() && installation.is_none() {
        return stored(machine);
    }
    let mut hasher = blake3::Hasher::new_derive_key("go2cloud 2026 source identifier");
    for part in [uuid, installation] {
        hasher.update(part.unwrap_or_default().as_bytes());
        hasher.update(&[0]);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The identifier of a directory or of some disks of the machine: a source of its own.
pub(super) fn of_part(machine: &str, part: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("go2cloud 2026 source identifier of a part");
    hasher.update(machine.as_bytes());
    hasher.update(part);
    hasher.finalize().to_hex().to_string()
}

fn stored(machine: &Machine) -> io::Result<String> {
    let valid = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(text) = machine.text(STORED).filter(valid) {
        return Ok(text);
    }
    let mut random = [0u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let text = blake3::hash(&random).to_hex().to_string();
    let path = machine.path(STORED);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, &text)?;
    Ok(text)
}
