//! Reads what GRUB would offer: menu entries of `grub.cfg` and files of the Boot Loader Specification. GRUB's language
//! is a shell; only literal kernel, initrd and argument words are read, which is what `grub-mkconfig` writes.

use transfer::Result;

use super::draft::Draft;
use super::kernel_command_line::words;

/// One bootable entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Title.
    pub title: String,
    /// The command that loads the kernel: `linux`, `linux16`, `linuxefi`.
    pub loader: String,
    /// Path of the kernel as GRUB sees it.
    pub kernel: String,
    /// Its command line.
    pub options: String,
    /// Paths of initial RAM file systems as GRUB sees them.
    pub initrds: Vec<String>,
}

/// Entries of a `grub.cfg`.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut title = String::new();
    for line in text.lines() {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "menuentry" => title = quoted(rest),
            "linux" | "linux16" | "linuxefi" => {
                let (kernel, options) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                entries.push(Entry {
                    title: title.clone(),
                    loader: command.to_owned(),
                    kernel: kernel.to_owned(),
                    options: options.trim().to_owned(),
                    initrds: Vec::new(),
                });
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(entry) = entries.last_mut() {
                    entry.initrds = words(rest)
                        .filter(|word| !word.trim().is_empty())
                        .map(str::to_owned)
                        .collect();
                }
            }
            _ => {}
        }
    }
    entries
}

fn quoted(text: &str) -> String {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    quote
        .and_then(|quote| text[1..].split(quote).next())
        .unwrap_or(text)
        .to_owned()
}

/// Entries of `/boot/loader/entries`.
///
/// # Errors
/// A file cannot be read.
pub fn entry_files(draft: &Draft<'_>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in draft.files("/boot/loader/entries", ".conf") {
        let text = draft.text(&file)?.unwrap_or_default();
        let mut entry = Entry {
            loader: "linux".to_owned(),
            ..Entry::default()
        };
        for line in text.lines() {
            let (key, value) = line
                .trim()
                .split_once(char::is_whitespace)
                .unwrap_or((line.trim(), ""));
            let value = value.trim();
            match key {
                "title" => value.clone_into(&mut entry.title),
                "linux" => value.clone_into(&mut entry.kernel),
                "options" => value.clone_into(&mut entry.options),
                "initrd" => entry.initrds.extend(value.split_whitespace().map(str::to_owned)),
                _ => {}
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Where a path of GRUB's lies in the guest: GRUB counts from the root of a file system, which may be `/boot`'s own, or
/// above the subvolume that the guest mounts.
pub fn in_guest(draft: &Draft<'_>, path: &str) -> Option<String> {
    if path.contains('$') {
        return None;
    }
    let path = path.split_once(')').map_or(path, |(_, rest)| rest);
    let mut candidates = vec![path.to_owned(), format!("/boot{path}")];
    let mut rest = path;
    while let Some((_, tail)) = rest.trim_start_matches('/').split_once('/') {
        candidates.push(format!("/{tail}"));
        rest = tail;
    }
    candidates.into_iter().find(|candidate| draft.exists(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = r#"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-x' {
	load_video
	insmod part_gpt
	search --no-floppy --fs-uuid --set=root x
	echo	'Loading Linux 6.1.0-50-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-50-amd64 root=UUID=x ro  quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-50-amd64
}
submenu 'Advanced options' {
	menuentry "Second" {
		linuxefi /vmlinuz-2 root=/dev/sda2
		initrdefi /microcode.img /initrd-2
	}
}
"#;

    #[test]
    fn entries_are_found_in_submenus_too() {
        let entries = parse(DEBIAN);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].title, "Debian GNU/Linux");
        assert_eq!(entries[0].kernel, "/boot/vmlinuz-6.1.0-50-amd64");
        assert_eq!(entries[0].options, "root=UUID=x ro  quiet");
        assert_eq!(entries[1].loader, "linuxefi");
        assert_eq!(entries[1].initrds, ["/microcode.img", "/initrd-2"]);
    }
}
