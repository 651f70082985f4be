//! Who the machine is. A move keeps everything: machine id, SSH host keys, host name. A clone must not answer to the
//! source's name in the network, so it gets a new machine id and new host keys. Settings that lead back to the old
//! cloud (package mirrors, time servers, resolvers, host names by DHCP) are reported.

use transfer::Result;

use super::fstab::each_line;
use crate::convert::draft::Draft;
use crate::convert::options::{Kept, NetworkMode, Options, Purpose};
use crate::convert::step::{Command, Context, Findings, Step};

/// Keeps or renews the machine's identity.
pub struct Identity;

/// Names and addresses that exist in one cloud only: what they are and how they look.
const PLACES: &[(Kept, &str, &[&str])] = &[
    (
        Kept::Mirrors,
        "package mirrors",
        &[
            "mirrors.cloud.aliyuncs.com",
            "mirrors.tencentyun.com",
            "repo.huaweicloud.internal",
            ".ec2.archive.ubuntu.com",
            "azure.archive.ubuntu.com",
            ".gce.archive.ubuntu.com",
            "rhui",
            "mirrors.ivolces.com",
            "mirrors.baidubce.internal",
            "mirrors.jdcloudcs.internal",
            "mirrors.yun-idc.internal",
        ],
    ),
    (
        Kept::Ntp,
        "time servers",
        &[
            "metadata.google.internal",
            "169.254.169.123",
            ".cloud.aliyuncs.com",
            "time1.tencentyun.com",
            "ntp.myhuaweicloud.com",
            "PHC0",
            "/dev/ptp",
        ],
    ),
    (
        Kept::Dns,
        "name servers",
        &[
            "100.100.2.13",
            "169.254.169.253",
            "169.254.169.254",
            "168.63.129.16",
            "100.125.",
            "183.60.83.19",
        ],
    ),
];

impl Step for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        report_places(context.options, draft, findings)?;
        report_access(draft, findings)?;
        let clock = draft.text("/etc/adjtime")?.unwrap_or_default();
        if clock.lines().nth(2).is_some_and(|line| line.trim() == "LOCAL") {
            findings.warn(
                "the hardware clock is taken for local time; virtual machines run it in UTC",
                "run: timedatectl set-local-rtc 0",
            );
        }
        for hook in [
            "/etc/dhcp/dhclient-exit-hooks.d/google_set_hostname",
            "/etc/NetworkManager/dispatcher.d/google_hostname.sh",
        ] {
            draft.remove(hook, "sets the host name that the old cloud gave")?;
        }
        if context.options.network == NetworkMode::Dhcp {
            report_fixed_resolver(draft, findings)?;
        }
        match context.options.purpose {
            Purpose::Move => Ok(Vec::new()),
            Purpose::Clone => renew(draft, findings),
        }
    }
}

/// A new machine id at the next boot and new host keys now: not every system makes missing keys by itself.
fn renew(draft: &mut Draft<'_>, findings: &mut Findings) -> Result<Vec<Command>> {
    let id = draft.text("/etc/machine-id")?.unwrap_or_default();
    let id = id.trim().to_owned();
    let marker = "/etc/ssh/.go2cloud-keys-renewed";
    let mut commands = Vec::new();
    if id.len() == 32 {
        let entries = draft.list("/boot/loader/entries");
        if entries.iter().any(|name| name.starts_with(&id)) {
            findings.note("boot entries keep the source's machine id in their names");
        }
        draft.write("/etc/machine-id", b"", None, "a clone has its own machine id")?;
    }
    if draft.exists("/var/lib/dbus/machine-id") && draft.link("/var/lib/dbus/machine-id").is_none() {
        draft.write_link(
            "/var/lib/dbus/machine-id",
            "/etc/machine-id",
            "a clone has its own machine id",
        )?;
    }
    if draft.exists("/usr/bin/ssh-keygen") && !draft.exists(marker) {
        let mut outputs = Vec::new();
        for name in draft.list("/etc/ssh") {
            if name.starts_with("ssh_host_") {
                draft.remove(format!("/etc/ssh/{name}"), "a clone has its own host keys")?;
                outputs.push(format!("/etc/ssh/{name}").into());
            }
        }
        draft.write(
            marker,
            b"Host keys were made anew when this system was cloned.\n",
            None,
            "so that it happens once",
        )?;
        commands.push(Command {
            argv: vec!["/usr/bin/ssh-keygen".to_owned(), "-A".to_owned()],
            outputs,
            makes: None,
            required: true,
            why: "new host keys".to_owned(),
        });
    }
    Ok(commands)
}

fn report_places(options: &Options, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
    let files = [
        vec![
            "/etc/apt/sources.list".to_owned(),
            "/etc/ntp.conf".to_owned(),
            "/etc/chrony.conf".to_owned(),
            "/etc/chrony/chrony.conf".to_owned(),
            "/etc/systemd/timesyncd.conf".to_owned(),
            "/etc/resolv.conf".to_owned(),
        ],
        draft.files("/etc/apt/sources.list.d", ""),
        draft.files("/etc/yum.repos.d", ".repo"),
        draft.files("/etc/zypp/repos.d", ".repo"),
        draft.files("/etc/chrony/sources.d", ".sources"),
    ];
    for file in files.concat() {
        let text = draft.text(&file)?.unwrap_or_default();
        let active: String = each_line(&text, |line| line.trim_start().starts_with('#').then(String::new));
        for (kept, what, marks) in PLACES {
            if let Some(mark) = marks.iter().find(|mark| active.contains(*mark)) {
                if options.keep.contains(kept) {
                    findings.note(format!("{file} keeps {what} of the old place, as asked: {mark}"));
                    continue;
                }
                findings.warn(
                    format!("{file} uses {what} that exist at the old place only: {mark}"),
                    "replace them by public ones or those of the new place",
                );
            }
        }
    }
    Ok(())
}

/// A server that nobody can log in to is as lost as one that does not boot.
fn report_access(draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
    let text = draft.text("/etc/ssh/sshd_config")?.unwrap_or_default();
    let addresses: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ListenAddress"))
        .map(str::trim)
        .filter(|address| {
            !address.starts_with("0.0.0.0") && !address.starts_with("::") && !address.starts_with("[::]")
        })
        .collect();
    if !addresses.is_empty() {
        findings.warn(
            format!("the SSH server listens on {} only", addresses.join(", ")),
            "if the target has other addresses, remove ListenAddress from /etc/ssh/sshd_config",
        );
    }
    Ok(())
}

fn report_fixed_resolver(draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
    let is_link = draft.link("/etc/resolv.conf").is_some();
    let text = draft.text("/etc/resolv.conf")?.unwrap_or_default();
    if !is_link
        && text
            .lines()
            .any(|line| line.trim_start().starts_with("nameserver"))
    {
        findings.note("/etc/resolv.conf is a file; a DHCP client will overwrite it");
    }
    Ok(())
}
