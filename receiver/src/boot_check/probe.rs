//! The probe: a unit added to the overlay that says, once the system is up, what it is like inside, through a serial
//! port of its own: the console belongs to the system.

use std::path::Path;

use serde::Serialize;
use transfer::Result;

use crate::convert::guest::Guest;

/// Name of the port inside.
pub(super) const PORT: &str = "go2cloud";
const UNIT: &str = "/etc/systemd/system/go2cloud-boot-check.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/go2cloud-boot-check.service";
const SCRIPT: &str = "/etc/go2cloud-boot-check.sh";

const UNIT_TEXT: &str = "[Unit]\nDescription=Tells the boot check what this system is like\nAfter=multi-user.target\n\n\
                         [Service]\nType=simple\nExecStart=/bin/sh /etc/go2cloud-boot-check.sh\n";
const SCRIPT_TEXT: &str = "modprobe virtio_console 2>/dev/null\n\
    timeout 180 systemctl is-system-running --wait >/dev/null 2>&1\n\
    port=/dev/virtio-ports/go2cloud\n\
    for attempt in 1 2 3 4 5 6 7 8 9 10; do [ -e $port ] && break; sleep 1; done\n\
    {\n\
      echo BEGIN\n\
      echo \"kernel $(uname -r)\"\n\
      echo \"root $(findmnt -n -o SOURCE,FSTYPE /)\"\n\
      echo \"hostname $(cat /proc/sys/kernel/hostname)\"\n\
      systemctl --failed --no-legend --plain --full | while read -r unit rest; do\n\
        case \"$(systemctl show -p Options --value $unit)\" in *_netdev*) echo \"remote $unit\";; *) echo \"failed $unit\";; esac\n\
      done\n\
      ip -o addr show scope global 2>/dev/null | while read -r number name family address rest; do echo \"address $name $address\"; done\n\
      echo END\n\
    } >$port\n";

/// What the probe said.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Words {
    /// Release of the running kernel.
    pub kernel: String,
    /// Device and type of the root file system.
    pub root: String,
    /// Host name.
    pub hostname: String,
    /// Units that failed.
    pub failed_units: Vec<String>,
    /// Mounts from the network that failed, as they must: the machine has none.
    pub remote_units: Vec<String>,
    /// Interfaces and addresses.
    pub addresses: Vec<String>,
}

impl Words {
    /// Whether the system came up as it should.
    pub(super) fn is_up(&self) -> bool {
        !self.kernel.is_empty() && !self.root.is_empty() && self.failed_units.is_empty()
    }
}

/// Adds the probe to the overlay.
pub(super) fn add(guest: &Guest) -> Result<()> {
    guest.write(Path::new(UNIT), UNIT_TEXT.as_bytes(), None)?;
    guest.write(Path::new(SCRIPT), SCRIPT_TEXT.as_bytes(), None)?;
    guest.write_link(Path::new(WANTED), Path::new(UNIT))
}

/// Reads what the probe has said, once it has said all.
pub(super) fn read(path: &Path) -> Option<Words> {
    parse(&String::from_utf8_lossy(&std::fs::read(path).ok()?))
}

fn parse(text: &str) -> Option<Words> {
    let (_, rest) = text.split_once("BEGIN\n")?;
    let (inside, _) = rest.split_once("END\n")?;
    let mut words = Words::default();
    for line in inside.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        match key {
            "kernel" => words.kernel = value,
            "root" => words.root = value,
            "hostname" => words.hostname = value,
            "failed" => words.failed_units.push(value),
            "remote" => words.remote_units.push(value),
            "address" => words.addresses.push(value),
            _ => {}
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_when_they_are_complete() {
        let text = "BEGIN\nkernel 6.1.0\nroot /dev/vda2   ext4\nhostname old\nfailed x.service\nremote srv.mount\naddress ens192 10.0.2.15/24\n";
        assert_eq!(parse(text), None);
        let words = parse(&format!("{text}END\n")).unwrap();
        assert_eq!(
            (words.kernel.as_str(), words.root.as_str()),
            ("6.1.0", "/dev/vda2 ext4")
        );
        assert_eq!(words.failed_units, ["x.service"]);
        assert_eq!(words.remote_units, ["srv.mount"]);
        assert!(!words.is_up());
        assert!(parse("BEGIN\nkernel 1\nroot x y\nEND\n").unwrap().is_up());
    }
}
