//! Kernel command lines: words separated by blanks, quotes keep blanks together. Only words that must change are
//! changed; order and spacing of the others stay.

use super::machine::{Machine, Resolution, Volume};

/// What a command line should be like on the target.
pub struct Policy<'a> {
    /// The target.
    pub machine: &'a Machine,
    /// Serial console to add, such as `ttyS0`.
    pub console: Option<&'a str>,
}

/// Consoles that exist under the old hypervisor only.
const DEAD_CONSOLES: &[&str] = &["console=hvc0", "console=xvc0", "console=ttyAMA0"];

impl Policy<'_> {
    /// Corrects `root=`, `resume=` and consoles of another hypervisor; adds nothing.
    pub fn correct(&self, line: &str) -> String {
        let mut result = String::with_capacity(line.len());
        let mut drop_blank = false;
        for word in words(line) {
            if word.trim().is_empty() {
                if !drop_blank {
                    result.push_str(word);
                }
                drop_blank = false;
                continue;
            }
            match self.word(word) {
                Some(kept) => {
                    result.push_str(&kept);
                    drop_blank = false;
                }
                // The blank before goes with the word, or at the start the one after it.
                None => {
                    let len = result.trim_end().len();
                    drop_blank = len == 0;
                    result.truncate(len);
                }
            }
        }
        result
    }

    /// Corrects, and adds the serial console when it is missing. The last console is the one `/dev/console` stands
    /// for, so the serial one comes last.
    pub fn complete(&self, line: &str) -> String {
        let mut line = self.correct(line);
        // Inside a quote that never ends, nothing can be added.
        let Some(console) = self
            .console
            .filter(|_| line.matches('"').count().is_multiple_of(2))
        else {
            return line;
        };
        let wanted = format!("console={console}");
        let present = words(&line).any(|word| word == wanted || word.starts_with(&format!("{wanted},")));
        if present {
            return line;
        }
        let tail = line.len() - line.trim_end().len();
        line.truncate(line.len() - tail);
        let screen = if words(&line).any(|word| word == "console=tty0") {
            ""
        } else {
            "console=tty0 "
        };
        let gap = if line.is_empty() { "" } else { " " };
        format!("{line}{gap}{screen}{wanted},115200n8")
    }

    /// What is wrong with a line that should already be correct.
    pub fn fault(&self, line: &str) -> Option<String> {
        for word in words(line) {
            let Some((key @ ("root" | "resume"), name)) = word.split_once('=') else {
                continue;
            };
            match self.machine.resolve(name) {
                Resolution::Missing => return Some(format!("{key}={name} is not at the target")),
                Resolution::Unstable(_) => return Some(format!("{key}={name} depends on the hardware")),
                Resolution::Stable(_) | Resolution::Unknown => {}
            }
        }
        None
    }

    fn word(&self, word: &str) -> Option<String> {
        let is_dead_console = DEAD_CONSOLES.contains(&word.split(',').next().unwrap_or_default());
        if is_dead_console && std::env::consts::ARCH == "x86_64" {
            return None;
        }
        match word.split_once('=') {
            Some(("root", name)) => Some(
                self.root(name)
                    .map_or_else(|| word.to_owned(), |name| format!("root={name}")),
            ),
            Some(("resume", name)) => match self.machine.resolve(name) {
                Resolution::Stable(_) | Resolution::Unknown => Some(word.to_owned()),
                Resolution::Unstable(volume) if volume.kind == "swap" => {
                    volume.stable_name().map(|name| format!("resume={name}"))
                }
                Resolution::Unstable(_) | Resolution::Missing => None,
            },
            // An offset counts in a swap file as it lay on the source's disk.
            Some(("resume_offset", _)) => None,
            _ => Some(word.to_owned()),
        }
    }

    /// A better name for the root device, when there is one.
    fn root(&self, name: &str) -> Option<String> {
        let mounted = self.machine.mounted_at("/");
        match self.machine.resolve(name) {
            Resolution::Stable(_) | Resolution::Unknown => None,
            Resolution::Unstable(volume) => mounted.unwrap_or(volume).stable_name(),
            Resolution::Missing => mounted.and_then(Volume::stable_name),
        }
    }
}

/// Words and the blanks between them, in order; together they are the line.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let mut quoted = false;
        let end = rest.find(|character: char| {
            let was_quoted = quoted;
            quoted ^= character == '"';
            !was_quoted && character.is_ascii_whitespace() != first.is_ascii_whitespace()
        });
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::machine::Firmware;

    fn machine() -> Machine {
        let volume = |device: &str, kind: &str, uuid: &str, number, at: Option<&str>| Volume {
            device: device.into(),
            kind: kind.to_owned(),
            uuid: Some(uuid.to_owned()),
            position: Some((0, number)),
            mounted_at: at.map(str::to_owned),
            ..Volume::default()
        };
        Machine {
            volumes: Some(vec![
                volume("/dev/vda1", "ext4", "boot-uuid", 1, Some("/boot")),
                volume("/dev/vda2", "ext4", "root-uuid", 2, Some("/")),
                volume("/dev/vda3", "swap", "swap-uuid", 3, None),
            ]),
            boot_disk: None,
            firmware: Firmware::Bios,
            pins: Vec::new(),
        }
    }

    #[test]
    fn only_words_that_must_change_are_changed() {
        let machine = machine();
        let policy = Policy {
            machine: &machine,
            console: Some("ttyS0"),
        };
        for (before, after) in [
            ("root=UUID=root-uuid ro  quiet", "root=UUID=root-uuid ro  quiet"),
            ("root=/dev/sda2 ro quiet", "root=UUID=root-uuid ro quiet"),
            ("ro root=/dev/xvda1", "ro root=UUID=root-uuid"),
            ("root=UUID=of-another-disk ro", "root=UUID=root-uuid ro"),
            ("ro resume=UUID=gone quiet", "ro quiet"),
            ("resume=/dev/sda9 quiet", "quiet"),
            ("resume=/dev/sda3 quiet", "resume=UUID=swap-uuid quiet"),
            (
                "resume=UUID=swap-uuid resume_offset=2048 quiet",
                "resume=UUID=swap-uuid quiet",
            ),
            ("console=hvc0 ro", "ro"),
            (
                "dyndbg=\"file a.c +p; file b.c +p\" ro",
                "dyndbg=\"file a.c +p; file b.c +p\" ro",
            ),
            ("", ""),
        ] {
            assert_eq!(policy.correct(before), after);
        }
    }

    #[test]
    fn the_serial_console_is_added_once_and_last() {
        let machine = machine();
        let policy = Policy {
            machine: &machine,
            console: Some("ttyS0"),
        };
        assert_eq!(
            policy.complete("ro quiet"),
            "ro quiet console=tty0 console=ttyS0,115200n8"
        );
        assert_eq!(
            policy.complete("ro console=tty0 "),
            "ro console=tty0 console=ttyS0,115200n8"
        );
        assert_eq!(policy.complete("console=ttyS0,9600 ro"), "console=ttyS0,9600 ro");
        assert_eq!(policy.complete(""), "console=tty0 console=ttyS0,115200n8");
    }

    #[test]
    fn faults_are_found() {
        let machine = machine();
        let policy = Policy {
            machine: &machine,
            console: None,
        };
        assert_eq!(policy.fault(" root=UUID=root-uuid ro"), None);
        assert!(policy.fault("root=/dev/vda2").unwrap().contains("hardware"));
        assert!(
            policy
                .fault("ro resume=UUID=gone")
                .unwrap()
                .contains("not at the target")
        );
    }

    proptest! {
        #[test]
        fn words_lose_nothing_and_a_second_run_changes_nothing(line in "[a-z=\" ]{0,40}") {
            prop_assert_eq!(words(&line).collect::<String>(), line.clone());
            let machine = machine();
            let policy = Policy { machine: &machine, console: Some("ttyS0") };
            let once = policy.complete(&line);
            prop_assert_eq!(policy.complete(&once), once.clone());
        }
    }
}
