//! SELinux labels. A transfer carries them, every edit keeps them, and a new file takes its neighbour's: then nothing is
//! left to do. Where they were lost, the guest's own policy sets them now: systemd of newer systems cannot even start
//! far enough to relabel by itself. Nothing is ever switched to permissive.

use std::path::Path;

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::facts::{Selinux, assignment};
use crate::convert::guest::attribute;
use crate::convert::options::RelabelMode;
use crate::convert::step::{Command, Context, Findings, Step};

/// Sets and verifies labels.
pub struct SelinuxLabels;

/// Files without whose labels a system does not come up or nobody can log in.
const SENTINELS: &[&str] = &[
    "/etc/passwd",
    "/usr/lib/systemd/systemd",
    "/etc/localtime",
    "/bin/sh",
    "/etc/shadow",
];

impl Step for SelinuxLabels {
    fn name(&self) -> &'static str {
        "selinux"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        let mode = context.options.relabel;
        if context.facts.selinux == Selinux::Off || mode == RelabelMode::Skip {
            return Ok(Vec::new());
        }
        let lost = unlabelled(draft);
        if lost.is_empty() && mode == RelabelMode::Auto {
            return Ok(Vec::new());
        }
        let policy = policy_name(draft)?;
        let contexts = format!("/etc/selinux/{policy}/contexts/files/file_contexts");
        let tool = ["/usr/sbin/setfiles", "/sbin/setfiles"]
            .into_iter()
            .find(|tool| draft.exists(tool));
        let (Some(tool), true) = (tool, draft.exists(&contexts)) else {
            findings.warn("labels were lost and the guest has no setfiles: the system relabels itself at the first boot", "expect a longer first boot and one restart");
            draft.write("/.autorelabel", b"", None, "labels were lost")?;
            return Ok(Vec::new());
        };
        let mut argv = vec![tool.to_owned(), "-F".to_owned(), contexts];
        argv.extend(mount_points(context));
        Ok(vec![Command {
            argv,
            outputs: Vec::new(),
            makes: None,
            required: true,
            why: if lost.is_empty() {
                "asked for".to_owned()
            } else {
                format!("no label on {}", lost.join(", "))
            },
        }])
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        let lost = unlabelled(draft);
        if lost.is_empty() || context.facts.selinux == Selinux::Off || draft.exists("/.autorelabel") {
            return Ok(());
        }
        let message = format!("no SELinux label on {}", lost.join(", "));
        let remedy = "convert again with --relabel force";
        if context.facts.selinux == Selinux::Enforcing {
            findings.fatal(message, remedy);
        } else {
            findings.warn(message, remedy);
        }
        Ok(())
    }
}

fn policy_name(draft: &Draft<'_>) -> Result<String> {
    let text = draft.text("/etc/selinux/config")?.unwrap_or_default();
    let policy = text
        .lines()
        .filter_map(assignment)
        .find(|(name, _)| name == "SELINUXTYPE");
    Ok(policy.map_or_else(|| "targeted".to_owned(), |(_, policy)| policy))
}

fn unlabelled(draft: &Draft<'_>) -> Vec<&'static str> {
    let guest = draft.guest();
    let has_label = |path: &str| {
        let Ok(place) = guest.locate(Path::new(path)) else {
            return true;
        };
        let label = attribute(&guest.ours(&place), "security.selinux").unwrap_or_default();
        let label = String::from_utf8_lossy(&label).into_owned();
        !label.is_empty() && !label.contains(":unlabeled_t") && !label.contains(":file_t")
    };
    let present = |path: &&str| guest.metadata(Path::new(path)).is_some();
    SENTINELS
        .iter()
        .copied()
        .filter(present)
        .filter(|path| !has_label(path))
        .collect()
}

/// `setfiles` stays on one file system: each is named.
fn mount_points(context: &Context<'_>) -> Vec<String> {
    let labelled = ["ext2", "ext3", "ext4", "xfs", "btrfs"];
    let mut points = vec!["/".to_owned()];
    for volume in context.machine.volumes.iter().flatten() {
        let point = volume.mounted_at.as_ref().filter(|point| *point != "/");
        points.extend(
            point
                .filter(|_| labelled.contains(&volume.kind.as_str()))
                .cloned(),
        );
    }
    points
}
