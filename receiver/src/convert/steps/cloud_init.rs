//! cloud-init takes a machine with a new instance id for a new machine: it sets host name, users, SSH keys, package
//! sources and addresses afresh. A migrated system keeps its own, so one file tells cloud-init to leave them alone.
//! Installing it needs packages from the network and is not done here.

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::options::{CloudInitMode, Kept, NetworkMode, Purpose};
use crate::convert::step::{Command, Context, Findings, Step};

/// Keeps cloud-init from changing what was migrated.
pub struct CloudInit;

const PRESERVE: &str = "/etc/cloud/cloud.cfg.d/99-go2cloud.cfg";
const DISABLED: &str = "/etc/cloud/cloud-init.disabled";

impl Step for CloudInit {
    fn name(&self) -> &'static str {
        "cloud-init"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        if !context.facts.cloud_init {
            return Ok(Vec::new());
        }
        match context.options.cloud_init {
            CloudInitMode::Leave => {}
            CloudInitMode::Disable => {
                draft.write(
                    DISABLED,
                    b"Disabled when this system was migrated.\n",
                    None,
                    "cloud-init is not wanted",
                )?;
            }
            CloudInitMode::Preserve => {
                let sources = pinned_sources(draft)?;
                if let Some(pinned) = &sources {
                    findings.note(format!(
                        "cloud-init looked for {pinned} only; it now looks for any local source"
                    ));
                }
                draft.write(
                    PRESERVE,
                    preserve_text(context, sources.is_some()).as_bytes(),
                    None,
                    "cloud-init keeps what was migrated",
                )?;
            }
        }
        Ok(Vec::new())
    }
}

fn preserve_text(context: &Context<'_>, sources_pinned: bool) -> String {
    let options = context.options;
    let mut text = String::from(
        "# This system was migrated: cloud-init leaves its identity alone.\npreserve_hostname: true\nmanage_etc_hosts: \
         false\n",
    );
    if options.purpose == Purpose::Move {
        text.push_str("ssh_deletekeys: false\nssh_genkeytypes: []\n");
    }
    text.push_str(
        "disable_root: false\nusers: []\napt:\n  preserve_sources_list: true\nntp:\n  enabled: false\n",
    );
    text.push_str("growpart:\n  mode: \"off\"\nresize_rootfs: false\n");
    if options.disable_cloud_init_network || options.network == NetworkMode::Keep {
        text.push_str("network:\n  config: disabled\n");
    }
    if options.keep.contains(&Kept::Dns) {
        text.push_str("manage_resolv_conf: false\n");
    }
    if sources_pinned {
        text.push_str("datasource_list: [NoCloud, ConfigDrive, OpenStack, None]\n");
    }
    text
}

/// A pin to the source of another cloud makes every boot wait for a metadata service that never answers.
fn pinned_sources(draft: &Draft<'_>) -> Result<Option<String>> {
    let mut files = vec!["/etc/cloud/cloud.cfg".to_owned()];
    files.extend(draft.files("/etc/cloud/cloud.cfg.d", ".cfg"));
    let mut pinned = None;
    for file in files.iter().filter(|file| file.as_str() != PRESERVE) {
        let text = draft.text(file)?.unwrap_or_default();
        for line in text.lines() {
            let Some(list) = line.strip_prefix("datasource_list:") else {
                continue;
            };
            let list = list.trim().trim_matches(['[', ']']).trim();
            let elsewhere = [
                "Ec2",
                "GCE",
                "Azure",
                "AliYun",
                "Oracle",
                "VMware",
                "OVF",
                "DigitalOcean",
                "UpCloud",
            ];
            let names: Vec<&str> = list.split(',').map(str::trim).collect();
            let all_elsewhere = names
                .iter()
                .all(|name| elsewhere.contains(name) || *name == "None");
            pinned = (all_elsewhere && !list.is_empty()).then(|| list.to_owned());
        }
    }
    Ok(pinned)
}
