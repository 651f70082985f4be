//! Arrays and volume groups on disks of a system that does not run: put together so that what is in them can be used,
//! and taken apart again. Nothing is made, repaired or removed.

use std::path::{Path, PathBuf};

use transfer::Result;

use super::machine::Volume;
use super::probe::{self, tool, volume_group};

/// What was put together here.
#[derive(Debug, Default)]
pub struct Containers {
    /// Nodes of arrays.
    arrays: Vec<PathBuf>,
    /// Names of volume groups.
    groups: Vec<String>,
}

impl Containers {
    /// Assembles all arrays on `disks`, none of which is active, and activates all volume groups, those inside arrays
    /// included. What cannot be assembled is left alone.
    ///
    /// # Errors
    /// A disk cannot be read, or a tool fails.
    pub fn open(disks: &[PathBuf]) -> Result<Self> {
        let mut containers = Self::default();
        match containers.open_all(disks) {
            Ok(()) => Ok(containers),
            Err(error) => {
                containers.close();
                Err(error)
            }
        }
    }

    fn open_all(&mut self, disks: &[PathBuf]) -> Result<()> {
        let volumes = probe::volumes(disks)?;
        let mut seen: Vec<&str> = Vec::new();
        for member in of_kind(&volumes, "linux_raid_member") {
            let Some(uuid) = member.uuid.as_deref().filter(|uuid| !seen.contains(uuid)) else {
                continue;
            };
            seen.push(uuid);
            let is_it = |other: &&Volume| other.uuid.as_deref() == Some(uuid);
            let members: Vec<&Volume> = of_kind(&volumes, "linux_raid_member").filter(is_it).collect();
            self.assemble(&members)?;
        }
        let volumes = probe::volumes(disks)?;
        for member in of_kind(&volumes, "LVM2_member") {
            let device = member.device.display().to_string();
            let name = volume_group("pvs", &device)?;
            if !name.is_empty() && !self.groups.contains(&name) {
                tool("lvm", &["vgchange", "--activate", "y", &name], None)?;
                self.groups.push(name);
            }
        }
        Ok(())
    }

    fn assemble(&mut self, members: &[&Volume]) -> Result<()> {
        let nodes: Vec<String> = members
            .iter()
            .map(|member| member.device.display().to_string())
            .collect();
        let Some(first) = nodes.first() else { return Ok(()) };
        let text = tool("mdadm", &["--examine", "--brief", first], None)?.unwrap_or_default();
        let node = free_node(own_number(&text), &|name| {
            Path::new("/sys/block").join(name).exists()
        });
        let mut arguments = vec!["--assemble", "--run", &node];
        arguments.extend(nodes.iter().map(String::as_str));
        match tool("mdadm", &arguments, None) {
            Ok(_) => self.arrays.push(PathBuf::from(&node)),
            // The remains of another system, or an array some of whose disks are not here: what needs it will not be found.
            Err(error) => {
                tracing::warn!("{}", crate::chain(&error));
                let _ = tool("mdadm", &["--stop", &node], None);
            }
        }
        Ok(())
    }

    /// Takes apart what [`Containers::open`] has put together.
    pub fn close(&mut self) {
        for group in self.groups.drain(..) {
            let _ = tool("lvm", &["vgchange", "--activate", "n", &group], None);
        }
        for array in self.arrays.drain(..) {
            if let Err(error) = tool("mdadm", &["--stop", &array.display().to_string()], None) {
                tracing::warn!("{}", crate::chain(&error));
            }
        }
    }
}

fn of_kind<'a>(volumes: &'a [Volume], kind: &'static str) -> impl Iterator<Item = &'a Volume> {
    volumes.iter().filter(move |volume| volume.kind == kind)
}

/// The number that an array has at home, from `ARRAY /dev/md/0 …` or, of version 0.90, `ARRAY /dev/md0 …`.
fn own_number(brief: &str) -> Option<u32> {
    let node = brief.lines().find_map(|line| line.strip_prefix("ARRAY "))?;
    let name = node.split_whitespace().next()?.strip_prefix("/dev/md")?;
    name.trim_start_matches('/').parse().ok()
}

/// A node that no array has: the array's own one where that is free, because the system on it may refer to it by that.
fn free_node(number: Option<u32>, is_taken: &dyn Fn(&str) -> bool) -> String {
    let names = number
        .into_iter()
        .chain((0..128).rev())
        .map(|number| format!("md{number}"));
    let free = names.into_iter().find(|name| !is_taken(name));
    format!("/dev/{}", free.unwrap_or_else(|| "md128".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_get_their_own_number_where_it_is_free() {
        for (text, number) in [
            (
                "ARRAY /dev/md/0  metadata=1.2 UUID=a:b:c:d name=host:0\n",
                Some(0),
            ),
            ("ARRAY /dev/md7 UUID=a:b:c:d\n", Some(7)),
            (
                "ARRAY /dev/md/root  metadata=1.2 UUID=a:b:c:d name=host:root\n",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(own_number(text), number, "{text}");
        }
        assert_eq!(free_node(Some(0), &|_| false), "/dev/md0");
        assert_eq!(free_node(Some(0), &|name| name == "md0"), "/dev/md127");
        assert_eq!(free_node(None, &|name| name == "md127"), "/dev/md126");
    }
}
