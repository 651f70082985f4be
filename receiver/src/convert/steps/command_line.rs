//! The kernel command line, wherever a distribution keeps it: `/etc/default/grub`, entries of the Boot Loader
//! Specification, `kernelopts` in GRUB's environment, `/etc/kernel/cmdline`. `root=` must not depend on the hardware,
//! `resume=` must not wait for a device that is gone, and the serial console, often the only one in a cloud, is added.

use transfer::Result;

use super::fstab::each_line;
use crate::convert::draft::Draft;
use crate::convert::kernel_command_line::Policy;
use crate::convert::step::{Command, Context, Findings, Step};

/// Sets `root=`, `resume=` and `console=` everywhere.
pub struct CommandLine;

/// Size of GRUB's environment block: GRUB writes it in place and never grows it.
const ENVIRONMENT_LEN: usize = 1024;
const ENTRIES: &str = "/boot/loader/entries";

impl Step for CommandLine {
    fn name(&self) -> &'static str {
        "command-line"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        let policy = Policy {
            machine: context.machine,
            console: context.options.serial_console(),
        };
        plan_defaults(draft, &policy)?;
        for path in ["/etc/kernel/cmdline", "/usr/lib/kernel/cmdline"] {
            draft.edit(path, "kernel command line", |text| {
                each_line(text, |line| Some(policy.complete(line)))
            })?;
        }
        for entry in draft.files(ENTRIES, ".conf") {
            draft.edit(&entry, "kernel command line", |text| {
                each_line(text, |line| entry_line(line, &policy))
            })?;
        }
        for path in [
            "/boot/grub2/grubenv",
            "/boot/efi/EFI/redhat/grubenv",
            "/boot/efi/EFI/centos/grubenv",
        ] {
            plan_environment(draft, path, &policy, findings)?;
        }
        Ok(Vec::new())
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        let policy = Policy {
            machine: context.machine,
            console: None,
        };
        for entry in draft.files(ENTRIES, ".conf") {
            let text = draft.text(&entry)?.unwrap_or_default();
            let options = text.lines().filter_map(|line| line.strip_prefix("options"));
            for fault in options.filter_map(|line| policy.fault(line)) {
                findings.fatal(format!("{entry}: {fault}"), "correct its options line");
            }
        }
        Ok(())
    }
}

/// An `options` line of a boot entry. Entries that refer to `$kernelopts` get theirs from the environment.
fn entry_line(line: &str, policy: &Policy<'_>) -> Option<String> {
    let rest = line.strip_prefix("options")?;
    let start = rest.len() - rest.trim_start().len();
    let (gap, options) = rest.split_at(start);
    if gap.is_empty() {
        return None;
    }
    if options.contains("$kernelopts") || options.contains("${kernelopts}") {
        return Some(format!("options{gap}{}", policy.correct(options)));
    }
    Some(format!("options{gap}{}", policy.complete(options)))
}

/// `/etc/default/grub` and the files beside it that override it.
fn plan_defaults(draft: &mut Draft<'_>, policy: &Policy<'_>) -> Result<()> {
    const MAIN: &str = "/etc/default/grub";
    let mut files = vec![MAIN.to_owned()];
    files.extend(draft.files("/etc/default/grub.d", ".cfg"));
    let mut all = String::new();
    for file in &files {
        all.push_str(&draft.text(file)?.unwrap_or_default());
    }
    for file in &files {
        draft.edit(file, "kernel command line", |text| {
            each_line(text, |line| default_line(line, &|value| policy.correct(value)))
        })?;
    }
    let Some(console) = policy.console else {
        return Ok(());
    };
    let is_there = all
        .lines()
        .any(|line| line.starts_with("GRUB_CMDLINE_LINUX") && line.contains(&format!("console={console}")));
    if !is_there {
        draft.edit(MAIN, "serial console", |text| with_console(text, policy))?;
    }
    if !all.lines().any(|line| line.starts_with("GRUB_TERMINAL")) {
        draft.edit(MAIN, "boot menu on the serial console", |text| {
            with_terminal(text, console)
        })?;
    }
    Ok(())
}

/// Applies `change` to the value of a `GRUB_CMDLINE_LINUX…` assignment.
fn default_line(line: &str, change: &dyn Fn(&str) -> String) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    if !name.starts_with("GRUB_CMDLINE_LINUX") || name.contains(char::is_whitespace) {
        return None;
    }
    let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
    let Some(quote) = quote else {
        // Without quotes the value is one word; more words need quotes.
        let changed = change(value);
        let quoted = if changed.contains(' ') {
            format!("\"{changed}\"")
        } else {
            changed
        };
        return Some(format!("{name}={quoted}"));
    };
    let end = value[1..].rfind(quote)? + 1;
    Some(format!(
        "{name}={quote}{}{}",
        change(&value[1..end]),
        &value[end..]
    ))
}

fn with_console(text: &str, policy: &Policy<'_>) -> String {
    let is_main = |line: &str| line.starts_with("GRUB_CMDLINE_LINUX=");
    if text.lines().any(is_main) {
        return each_line(text, |line| {
            if is_main(line) {
                default_line(line, &|value| policy.complete(value))
            } else {
                None
            }
        });
    }
    format!(
        "{}GRUB_CMDLINE_LINUX=\"{}\"\n",
        ended(text),
        policy.complete("").trim()
    )
}

fn with_terminal(text: &str, console: &str) -> String {
    let unit = console.strip_prefix("ttyS").unwrap_or("0");
    format!(
        "{}GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --unit={unit} --speed=115200\"\n",
        ended(text)
    )
}

fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

/// `kernelopts` in GRUB's environment block, which keeps its size.
fn plan_environment(
    draft: &mut Draft<'_>,
    path: &str,
    policy: &Policy<'_>,
    findings: &mut Findings,
) -> Result<()> {
    let Some(bytes) = draft.read(path)? else {
        return Ok(());
    };
    if bytes.len() != ENVIRONMENT_LEN {
        findings.warn(
            format!("{path} is no environment block of GRUB ({} bytes)", bytes.len()),
            "run: grub2-editenv create",
        );
        return Ok(());
    }
    let mut is_too_long = false;
    draft.edit(path, "kernel command line", |text| {
        let changed = each_line(text.trim_end_matches('#'), |line| {
            line.strip_prefix("kernelopts=")
                .map(|options| format!("kernelopts={}", policy.complete(options)))
        });
        is_too_long = changed.len() > ENVIRONMENT_LEN;
        if is_too_long {
            text.to_owned()
        } else {
            format!("{changed:#<ENVIRONMENT_LEN$}")
        }
    })?;
    if is_too_long {
        findings.warn(
            format!("{path} has no room for the serial console"),
            "shorten kernelopts by hand",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
