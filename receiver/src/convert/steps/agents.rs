//! Guest tools of the old hypervisor and agents of the old cloud: they wait for hardware that is gone, set addresses,
//! clocks and passwords, or replace SSH keys. They are masked, not removed: removing needs the package manager, its
//! database and often the network, and can be done at leisure once the system runs.

use transfer::Result;

use crate::convert::draft::Draft;
use crate::convert::options::AgentMode;
use crate::convert::step::{Command, Context, Findings, Step};

/// Masks services that belong to the place the system came from.
pub struct Agents;

/// Unit names without `.service`; a final `*` stands for any rest. The guest agent of QEMU stays: the target has it.
const SERVICES: &[&str] = &[
    "vmtoolsd",
    "vgauthd",
    "open-vm-tools",
    "vmware-tools",
    "vmware-tools-thinprint",
    "vmblock-fuse",
    "vboxadd",
    "vboxadd-service",
    "vboxadd-x11",
    "vboxservice",
    "virtualbox-guest-utils",
    "xe-daemon",
    "xe-linux-distribution",
    "xendomains",
    "hv_fcopy_daemon",
    "hv_kvp_daemon",
    "hv_vss_daemon",
    "hypervfcopyd",
    "hypervkvpd",
    "hypervvssd",
    "hv-fcopy-daemon",
    "hv-kvp-daemon",
    "hv-vss-daemon",
    "prltoolsd",
    "aliyun",
    "aliyun-service",
    "aliyun-util",
    "aegis",
    "cloudmonitor",
    "ecs_mq-service",
    "assist_daemon",
    "amazon-ssm-agent",
    "snap.amazon-ssm-agent.amazon-ssm-agent",
    "amazon-cloudwatch-agent",
    "ec2-instance-connect",
    "waagent",
    "walinuxagent",
    "google-guest-agent*",
    "google-osconfig-agent",
    "google-startup-scripts",
    "google-shutdown-scripts",
    "google-oslogin-cache",
    "google-cloud-ops-agent*",
    "google-accounts-daemon",
    "google-clock-skew-daemon",
    "google-network-daemon",
    "gce-workload-cert-refresh",
    "oracle-cloud-agent",
    "hostguard",
    "telescoped",
    "uniagent*",
    "JDCLOUD*",
    "bcm-agent",
    "hosteye*",
];
const UNIT_FOLDERS: &[&str] = &["/usr/lib/systemd/system", "/lib/systemd/system"];
const OWN_UNITS: &str = "/etc/systemd/system";
const MASK: &str = "/dev/null";

impl Step for Agents {
    fn name(&self) -> &'static str {
        "agents"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        if context.options.agents == AgentMode::Keep {
            return Ok(Vec::new());
        }
        let mut disabled = Vec::new();
        for folder in UNIT_FOLDERS {
            for unit in agent_units(draft, folder) {
                let own = format!("{OWN_UNITS}/{unit}");
                if draft
                    .link(&own)
                    .is_some_and(|target| target.to_str() == Some(MASK))
                {
                    continue;
                }
                draft.write_link(&own, MASK, "belongs to the old hypervisor or cloud")?;
                disabled.push(unit);
            }
        }
        // A unit kept in /etc itself cannot be masked: what starts it is removed.
        for unit in agent_units(draft, OWN_UNITS) {
            if draft.link(format!("{OWN_UNITS}/{unit}")).is_none() && unwant(draft, &unit)? {
                disabled.push(unit);
            }
        }
        disabled.extend(stop_boot_scripts(draft)?);
        disabled.sort();
        disabled.dedup();
        if !disabled.is_empty() {
            findings.note(format!(
                "disabled, because they belong to the old place: {}",
                disabled.join(", ")
            ));
        }
        Ok(Vec::new())
    }
}

fn agent_units(draft: &Draft<'_>, folder: &str) -> Vec<String> {
    let mut units = draft.list(folder);
    units.retain(|unit| unit.strip_suffix(".service").is_some_and(is_agent));
    units
}

fn is_agent(name: &str) -> bool {
    SERVICES.iter().any(|service| match service.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *service,
    })
}

/// Removes the links by which targets start `unit`. Says whether there were any.
fn unwant(draft: &mut Draft<'_>, unit: &str) -> Result<bool> {
    let mut found = false;
    for folder in draft.list(OWN_UNITS) {
        let link = format!("{OWN_UNITS}/{folder}/{unit}");
        let starts = folder.ends_with(".wants") || folder.ends_with(".requires");
        if starts && draft.exists(&link) {
            draft.remove(&link, "belongs to the old hypervisor or cloud")?;
            found = true;
        }
    }
    Ok(found)
}

/// Boot scripts of System V: `S20vmware-tools` and the like.
fn stop_boot_scripts(draft: &mut Draft<'_>) -> Result<Vec<String>> {
    let mut stopped = Vec::new();
    for level in ["2", "3", "4", "5", "S"] {
        for root in ["/etc", "/etc/rc.d", "/etc/init.d"] {
            let folder = format!("{root}/rc{level}.d");
            for name in draft.list(&folder) {
                let Some(script) = name.strip_prefix('S').and_then(|rest| rest.get(2..)) else {
                    continue;
                };
                if is_agent(script) {
                    draft.remove(
                        format!("{folder}/{name}"),
                        "belongs to the old hypervisor or cloud",
                    )?;
                    stopped.push(script.to_owned());
                }
            }
        }
    }
    Ok(stopped)
}
