//! `/etc/fstab`, `/etc/crypttab` and `mdadm.conf`: every name that depends on the source's hardware becomes one that
//! does not, and nothing that is missing at the target keeps it from booting. Lines that need no change stay as they
//! are, byte for byte.

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::machine::{Machine, Resolution, Volume};
use crate::convert::step::{Command, Context, Findings, Step};

/// Makes mount tables independent of the source's hardware.
pub struct Fstab;

const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "sshfs",
    "fuse.sshfs",
    "glusterfs",
    "ceph",
    "lustre",
    "davfs",
    "ncpfs",
];
const HYPERVISOR: &[&str] = &[
    "vboxsf",
    "vmhgfs",
    "fuse.vmhgfs-fuse",
    "hgfs",
    "prl_fs",
    "9p",
    "virtiofs",
];
/// Mark of a line that was switched off.
const OFF: &str = "# switched off by go2cloud: ";

impl Step for Fstab {
    fn name(&self) -> &'static str {
        "fstab"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        if !draft.exists("/etc/fstab") {
            findings.warn(
                "there is no /etc/fstab",
                "check that the root file system is mounted writable",
            );
        }
        let table = Table {
            machine: context.machine,
            systemd: context.facts.systemd,
        };
        draft.edit("/etc/fstab", "names that stay right on the target", |text| {
            each_line(text, |line| table.fstab_line(line, findings))
        })?;
        draft.edit("/etc/crypttab", "names that stay right on the target", |text| {
            each_line(text, |line| table.crypttab_line(line, findings))
        })?;
        for path in ["/etc/mdadm.conf", "/etc/mdadm/mdadm.conf"] {
            draft.edit(path, "arrays are found by their UUID", |text| {
                each_line(text, array_line)
            })?;
        }
        Ok(Vec::new())
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        let text = draft.text("/etc/fstab")?.unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some(fields) = fields(line) else { continue };
            let optional = fields.has_option("nofail") || fields.has_option("noauto");
            if !optional && context.machine.resolve(fields.name) == Resolution::Missing {
                findings.fatal(
                    format!(
                        "/etc/fstab needs {} for {}, which the target does not have",
                        fields.name, fields.at
                    ),
                    "add the missing volume, or add the option nofail to the line",
                );
            }
        }
        Ok(())
    }
}

/// Applies `change` to every line and keeps line ends as they are.
pub(crate) fn each_line(text: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let content = line.strip_suffix('\n').unwrap_or(line);
            match change(content) {
                Some(changed) if line.ends_with('\n') => changed + "\n",
                Some(changed) => changed,
                None => line.to_owned(),
            }
        })
        .collect()
}

/// The fields of a line; all are slices of it.
struct Fields<'a> {
    line: &'a str,
    name: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn fields(line: &str) -> Option<Fields<'_>> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let (name, at, kind) = (words.next()?, words.next()?, words.next()?);
    Some(Fields {
        line,
        name,
        at,
        kind,
        options: words.next().unwrap_or_default(),
    })
}

impl Fields<'_> {
    fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|present| present == option)
    }

    /// The line with `new` in place of `field`, which is one of its slices.
    fn replace(&self, field: &str, new: &str) -> String {
        let start = field.as_ptr() as usize - self.line.as_ptr() as usize;
        format!(
            "{}{new}{}",
            &self.line[..start],
            &self.line[start + field.len()..]
        )
    }

    /// The line with options added that are not there yet; `None` when all are.
    fn with_options(&self, options: &[&str]) -> Option<String> {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        let present: Vec<String> = self.options.split(',').map(name).collect();
        let missing: Vec<&str> = options
            .iter()
            .filter(|option| !present.contains(&name(option)))
            .copied()
            .collect();
        if missing.is_empty() {
            return None;
        }
        if self.options.is_empty() {
            return Some(format!("{} defaults,{}", self.line.trim_end(), missing.join(",")));
        }
        Some(self.replace(self.options, &format!("{},{}", self.options, missing.join(","))))
    }
}

struct Table<'a> {
    machine: &'a Machine,
    systemd: bool,
}

impl Table<'_> {
    fn fstab_line(&self, line: &str, findings: &mut Findings) -> Option<String> {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return None;
        }
        let Some(fields) = fields(line) else {
            findings.warn(
                format!("/etc/fstab has a line that is no mount: {}", line.trim()),
                "correct or remove it",
            );
            return None;
        };
        if HYPERVISOR.contains(&fields.kind) {
            findings.note(format!(
                "{} at {} exists under the old hypervisor only: switched off",
                fields.name, fields.at
            ));
            return Some(format!("{OFF}{line}"));
        }
        if NETWORK.contains(&fields.kind) {
            return fields.with_options(&["nofail", "_netdev"]);
        }
        if let Some(shorter) = without_subvolume_number(&fields) {
            return Some(self.fstab_line(&shorter, findings).unwrap_or(shorter));
        }
        if is_removable(fields.name) {
            return if fields.has_option("noauto") {
                None
            } else {
                fields.with_options(&["nofail"])
            };
        }
        match self.machine.resolve(fields.name) {
            Resolution::Stable(_) | Resolution::Unknown => None,
            Resolution::Unstable(volume) if self.fits(volume, &fields) => {
                self.by_stable_name(&fields, volume)
            }
            Resolution::Unstable(_) | Resolution::Missing => self.missing(&fields, findings),
        }
    }

    /// Whether a volume found by position can be meant: the type must agree with the line.
    fn fits(&self, volume: &Volume, fields: &Fields<'_>) -> bool {
        let same = volume.kind == fields.kind
            || fields.kind == "auto"
            || (volume.kind.starts_with("ext") && fields.kind.starts_with("ext"));
        match self.machine.mounted_at(fields.at) {
            Some(mounted) => mounted == volume,
            None => same,
        }
    }

    fn by_stable_name(&self, fields: &Fields<'_>, volume: &Volume) -> Option<String> {
        volume
            .stable_name()
            .map(|name| fields.replace(fields.name, &name))
    }

    /// The line names something that is not there. What the target has mounted at the place is taken instead; else
    /// the line must not stop the boot.
    fn missing(&self, fields: &Fields<'_>, findings: &mut Findings) -> Option<String> {
        if let Some(name) = self.machine.mounted_at(fields.at).and_then(Volume::stable_name) {
            findings.note(format!(
                "{} is not at the target: {} is {name}",
                fields.name, fields.at
            ));
            return Some(fields.replace(fields.name, &name));
        }
        if fields.kind == "swap" {
            let mut swaps = self
                .machine
                .volumes
                .iter()
                .flatten()
                .filter(|volume| volume.kind == "swap");
            if let (Some(volume), None) = (swaps.next(), swaps.next()) {
                return self.by_stable_name(fields, volume);
            }
        }
        findings.warn(
            format!(
                "{} for {} is not at the target: the line no longer stops the boot",
                fields.name, fields.at
            ),
            "migrate that volume too, or remove the line",
        );
        let timeout = "x-systemd.device-timeout=10s";
        if self.systemd {
            fields.with_options(&["nofail", timeout])
        } else {
            fields.with_options(&["nofail"])
        }
    }

    fn crypttab_line(&self, line: &str, findings: &mut Findings) -> Option<String> {
        let fields = fields(line).or_else(|| {
            let mut words = line.split_ascii_whitespace();
            let (at, name) = (words.next().filter(|word| !word.starts_with('#'))?, words.next()?);
            Some(Fields {
                line,
                name,
                at,
                kind: "",
                options: "",
            })
        })?;
        // A crypttab line names the mapping first and the device second; options are its fourth field.
        let (mapping, name) = if fields.kind.is_empty() {
            (fields.at, fields.name)
        } else {
            (fields.name, fields.at)
        };
        let fields = Fields {
            name,
            at: mapping,
            ..fields
        };
        match self.machine.resolve(fields.name) {
            Resolution::Unstable(volume) => self.by_stable_name(&fields, volume),
            Resolution::Missing if !fields.kind.is_empty() && !fields.options.is_empty() => {
                findings.warn(
                    format!(
                        "{} of {mapping} in /etc/crypttab is not at the target",
                        fields.name
                    ),
                    "migrate that volume too, or remove the line",
                );
                fields.with_options(&["nofail"])
            }
            _ => None,
        }
    }
}

/// Subvolume numbers change when subvolumes are made again; the path beside the number says the same.
fn without_subvolume_number(fields: &Fields<'_>) -> Option<String> {
    let options: Vec<&str> = fields.options.split(',').collect();
    let has_path = options.iter().any(|option| option.starts_with("subvol="));
    let rest: Vec<&str> = options
        .iter()
        .filter(|option| !option.starts_with("subvolid="))
        .copied()
        .collect();
    (fields.kind == "btrfs" && has_path && rest.len() < options.len())
        .then(|| fields.replace(fields.options, &rest.join(",")))
}

fn is_removable(name: &str) -> bool {
    ["/dev/cdrom", "/dev/dvd", "/dev/sr", "/dev/scd", "/dev/fd"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// An ARRAY line of mdadm.conf without the names of its members.
fn array_line(line: &str) -> Option<String> {
    if !line.trim_start().starts_with("ARRAY")
        || !line.contains("devices=")
        || !line.to_lowercase().contains("uuid=")
    {
        return None;
    }
    Some(
        line.split(' ')
            .filter(|word| !word.starts_with("devices="))
            .collect::<Vec<_>>()
            .join(" "),
    )
}

#[cfg(test)]
mod tests;
