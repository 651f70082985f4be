//! The boot menu. Where it is generated (`grub.cfg` of Debian, Ubuntu, SUSE, older Red Hat), the guest's own generator
//! makes it again; where its entries are files, they were corrected already and nothing is generated. Either way the
//! result is read: every kernel and image exists, every `root=` resolves, and the commands fit the firmware.

use transfer::Result;

use crate::convert::draft::{Derived, Draft};
use crate::convert::facts::Grub;
use crate::convert::grub_menu::{Entry, entry_files, in_guest, parse};
use crate::convert::kernel_command_line::Policy;
use crate::convert::machine::Firmware;
use crate::convert::step::{Command, Context, Findings, Step};

/// Makes and verifies the boot menu.
pub struct BootMenu;

impl Step for BootMenu {
    fn name(&self) -> &'static str {
        "boot-menu"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        let Some(grub) = &context.facts.grub else {
            if let Some(loader) = context
                .facts
                .foreign_loader
                .as_ref()
                .filter(|loader| *loader != "systemd-boot")
            {
                findings.fatal(
                    format!("{loader} starts this system"),
                    "install GRUB 2 at the source and migrate again",
                );
            }
            return Ok(Vec::new());
        };
        let stale = draft.stale().contains(&Derived::BootMenu);
        draft.made(Derived::BootMenu);
        let config = format!("{}/grub.cfg", grub.folder.display());
        let wrong = wrong_with_config(context, draft, grub)?;
        if grub.entries_are_files && draft.exists(&config) || (!stale && wrong.is_empty()) {
            return Ok(Vec::new());
        }
        for fault in wrong {
            findings.note(format!("the boot menu is made again: {fault}"));
        }
        let Some(mkconfig) = &grub.mkconfig else {
            findings.fatal(
                "the guest has no grub-mkconfig to make its boot menu",
                "install the package grub2-common or grub2-tools at the source and migrate again",
            );
            return Ok(Vec::new());
        };
        let output = std::iter::once(config).chain(firmware_configs(draft)?);
        Ok(output
            .map(|config| Command {
                argv: vec![mkconfig.display().to_string(), "-o".to_owned(), config.clone()],
                outputs: vec![config.into()],
                makes: Some(Derived::BootMenu),
                required: true,
                why: "boot menu with the new command line".to_owned(),
            })
            .collect())
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        let Some(grub) = &context.facts.grub else {
            if context.facts.foreign_loader.is_none() {
                findings.fatal(
                    "no boot loader was found below /boot",
                    "install GRUB 2 at the source and migrate again",
                );
            }
            return Ok(());
        };
        for fault in wrong_with_config(context, draft, grub)? {
            findings.fatal(
                fault,
                "correct /etc/default/grub and make the menu again with grub-mkconfig",
            );
        }
        Ok(())
    }
}

/// Red Hat 7 keeps the menu of UEFI systems on the EFI system partition.
fn firmware_configs(draft: &Draft<'_>) -> Result<Vec<String>> {
    let mut configs = Vec::new();
    for vendor in draft.list("/boot/efi/EFI") {
        let path = format!("/boot/efi/EFI/{vendor}/grub.cfg");
        let text = draft.text(&path)?.unwrap_or_default();
        if !parse(&text).is_empty() {
            configs.push(path);
        }
    }
    Ok(configs)
}

fn wrong_with_config(context: &Context<'_>, draft: &Draft<'_>, grub: &Grub) -> Result<Vec<String>> {
    let text = draft.text(grub.folder.join("grub.cfg"))?.unwrap_or_default();
    let mut entries = parse(&text);
    if grub.entries_are_files {
        entries.extend(entry_files(draft)?);
    }
    if entries.is_empty() {
        return Ok(vec!["the boot menu has no entry".to_owned()]);
    }
    let policy = Policy {
        machine: context.machine,
        console: None,
    };
    let mut faults: Vec<String> = entries
        .iter()
        .filter_map(|entry| wrong_with_entry(draft, &policy, context.machine.firmware, entry))
        .collect();
    faults.dedup();
    Ok(faults)
}

fn wrong_with_entry(
    draft: &Draft<'_>,
    policy: &Policy<'_>,
    firmware: Firmware,
    entry: &Entry,
) -> Option<String> {
    let title = &entry.title;
    for path in std::iter::once(&entry.kernel).chain(&entry.initrds) {
        if !path.contains('$') && in_guest(draft, path).is_none() {
            return Some(format!(
                "menu entry \"{title}\" loads {path}, which does not exist"
            ));
        }
    }
    match (firmware, entry.loader.as_str()) {
        (Firmware::Bios, "linuxefi") | (Firmware::Uefi, "linux16") => {
            return Some(format!(
                "menu entry \"{title}\" uses {}, which is for the other firmware",
                entry.loader
            ));
        }
        _ => {}
    }
    policy
        .fault(&entry.options)
        .map(|fault| format!("menu entry \"{title}\": {fault}"))
}
