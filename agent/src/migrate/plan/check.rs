//! The single checks behind [`super::Plan`].

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::block_device::BlockDevice;
use transfer::secret::Secret;
use transfer::source::Freeze;

use super::super::staged::{self, Stage};
use super::{Control, Freezes, Keep, Mode, Network, Proxy, Run, Target, Task, Transfer, Trust, keys};
use crate::bandwidth::LIMIT_MAX;
use crate::boot_check::Consequence;
use crate::cli::JobArgs;
use crate::config::Files;
use crate::output::Style;
use crate::refusal::Refusals;
use crate::resolve::PORT_DEFAULT;
use crate::state;
use crate::sync::plan::{FREEZE_MAX, FREEZE_MAX_DEFAULT, number};

/// Bounds of the incremental phase, in minutes: one hour to seven days.
const INCREMENTAL_MINUTES: std::ops::RangeInclusive<u32> = 60..=10_080;

/// Flags and files together.
pub(super) struct Checker<'a> {
    pub(super) args: &'a JobArgs,
    pub(super) files: Files,
    pub(super) folder: &'a Path,
}

impl Checker<'_> {
    /// A switch: the flag, else the file unless the flag turned it off.
    fn switch(&self, flag: bool, name: &str, file: Option<bool>) -> bool {
        flag || (file.unwrap_or(false) && !self.args.off.iter().any(|off| off == name))
    }

    fn no_console(&self) -> bool {
        self.switch(self.args.no_console, "no-console", self.files.client.no_console)
    }

    pub(super) fn network(&self, refusals: &mut Refusals) -> Network {
        let mode = self.args.mode.as_ref().or(self.files.client.mode.as_ref());
        let mode = match mode.map(String::as_str) {
            None | Some("0") => Mode::Public,
            Some("2") => Mode::Private,
            Some("3") => Mode::Proxy,
            Some("1") => Mode::Staged,
            Some(other) => {
                refusals.add(format!("`-mode {other}`: the value must be 0, 1, 2 or 3"));
                Mode::Public
            }
        };
        let remote_ip = self.args.remote_ip.as_deref().and_then(|text| {
            refusals.take(
                text.parse::<IpAddr>()
                    .map_err(|_| format!("`-remote-ip {text}`: the value must be an IP address")),
            )
        });
        Network {
            mode,
            ipv6: self.files.client.ipv6.unwrap_or(false),
            remote_ip,
            remote_port: number(&self.args.remote_port, "--remote-port", 1..=u16::MAX, refusals),
            skip_ip_check: self.args.skip_inet_ip_checker,
        }
    }

    pub(super) fn transfer(&self, refusals: &mut Refusals) -> Transfer {
        let limit = self.args.bandwidth_limit.clone();
        let limit = limit.or_else(|| self.files.client.bandwidth_limit.clone());
        Transfer {
            bandwidth_limit: number(&limit, "-bandwidth-limit", 0..=LIMIT_MAX, refusals),
            checksum: self.switch(self.args.checksum, "checksum", self.files.client.checksum),
            incremental_minutes: number(
                &self.args.incremental_time,
                "-incremental-time",
                INCREMENTAL_MINUTES,
                refusals,
            ),
            minify: self.args.minify,
            grow: self.args.grow,
            freeze: self.freeze(refusals),
            freezes: self.freezes(refusals),
            boot_check: Consequence::check(self.args.boot_check.as_deref(), refusals),
        }
    }

    fn freeze(&self, refusals: &mut Refusals) -> Freeze {
        let args = self.args;
        let max = number(&args.freeze_max, "--freeze-max", 1..=FREEZE_MAX, refusals);
        Freeze {
            max: Duration::from_secs(max.unwrap_or(FREEZE_MAX_DEFAULT)),
            before: args.pre_freeze.clone(),
            after: args.post_freeze.clone(),
        }
    }

    fn freezes(&self, refusals: &mut Refusals) -> Freezes {
        let args = self.args;
        if args.freeze && args.no_freeze {
            refusals.add("`--freeze` and `--no-freeze` exclude each other");
        }
        match (args.freeze, args.no_freeze) {
            (true, _) => Freezes::Everything,
            (false, true) => Freezes::Disks,
            (false, false) => Freezes::Systems,
        }
    }

    pub(super) fn run(&self, refusals: &mut Refusals) -> Run {
        let name = self.args.log_file.clone().unwrap_or_else(|| "log".to_owned());
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            refusals.add(format!(
                "`--log-file {name}`: give a plain file name; it lies in the folder `logs` beside the program"
            ));
        }
        let args = self.args;
        let names_target = args.instance_id.is_some()
            || args.out_image_name.is_some()
            || self.files.user.instance_id.is_some();
        Run {
            has_idle_target: names_target && !args.console,
            ignore_check: self.switch(
                self.args.ignore_check,
                "ignore-check",
                self.files.client.ignore_check,
            ),
            daemon: self.switch(self.args.daemon, "daemon", self.files.client.daemon),
            once: self.args.once,
            style: if self.args.json {
                Style::Json
            } else {
                Style::People
            },
            log_file: name,
            log_level: number(&self.args.log_level, "--log-level", 1..=3, refusals).unwrap_or(2),
        }
    }

    pub(super) fn keep(&self) -> Keep {
        Keep {
            disable_cloud_init: self.args.disable_cloud_init,
            disable_cloud_init_network: self.args.disable_cloud_init_network,
            preserve_hostname: self.args.preserve_hostname,
            preserve_hosts: self.args.preserve_hosts,
            preserve_dns: self.args.preserve_dns,
            preserve_mirrors: self.args.preserve_mirrors,
            preserve_ntp: self.args.preserve_ntp,
        }
    }

    /// The folder of what is kept between runs, absolute.
    pub(super) fn state_root(&self, refusals: &mut Refusals) -> PathBuf {
        let folder = self
            .args
            .state
            .clone()
            .unwrap_or_else(|| PathBuf::from(state::ROOT));
        let absolute = std::path::absolute(&folder);
        let absolute = absolute.map_err(|error| format!("`--state {}`: {error}", folder.display()));
        let absolute = refusals.take(absolute).unwrap_or(folder);
        std::fs::canonicalize(&absolute).unwrap_or(absolute)
    }

    pub(super) fn source_root(&self, state_root: &Path, refusals: &mut Refusals) -> Option<PathBuf> {
        let Some(root) = &self.args.source_root else {
            return Some(PathBuf::from("/"));
        };
        match std::fs::canonicalize(root) {
            Ok(root)
                if root.starts_with(state_root)
                    || crate::folder::own().is_some_and(|own| root.starts_with(own)) =>
            {
                refusals.add(format!(
                    "`--source-root {}` lies in a folder of the agent itself, which is never migrated",
                    root.display()
                ));
                None
            }
            Ok(root) if root.is_dir() => Some(root),
            Ok(_) => {
                refusals.add(format!("`--source-root {}` is not a directory", root.display()));
                None
            }
            Err(error) => {
                refusals.add(format!("`--source-root {}`: {error}", root.display()));
                None
            }
        }
    }

    pub(super) fn source_disks(&self, refusals: &mut Refusals) -> Vec<PathBuf> {
        let args = self.args;
        if !args.source_disk.is_empty() && args.source_root.is_some() {
            refusals.add("`--source-disk` and `--source-root` exclude each other");
        }
        if args.block && args.source_root.is_some() {
            refusals.add("`--block` needs disks: a directory goes file by file");
        }
        args.source_disk
            .iter()
            .filter_map(|path| {
                let found =
                    std::fs::canonicalize(path).and_then(|real| Ok((BlockDevice::look(&real)?, real)));
                match found {
                    Ok((Some(_), real)) => Some(real),
                    Ok((None, _)) => {
                        refusals.add(format!(
                            "`--source-disk {}` is not a block device",
                            path.display()
                        ));
                        None
                    }
                    Err(error) => {
                        refusals.add(format!("`--source-disk {}`: {error}", path.display()));
                        None
                    }
                }
            })
            .collect()
    }

    pub(super) fn task(&self, network: &Network, refusals: &mut Refusals) -> Option<Task> {
        self.contradictions(network, refusals);
        let args = self.args;
        if args.blocktest {
            return Some(Task::BlockTest);
        }
        if args.secret_file.is_some() && !args.check {
            let (address, secret) = self.direct(network, refusals)?;
            return Some(Task::Direct { address, secret });
        }
        if network.mode == Mode::Staged && !args.check && !args.clean {
            return self.staged(network, refusals);
        }
        let needs_control = !args.check && !args.clean;
        let known = args.endpoint.is_some() || self.files.user.endpoint.is_some();
        let control = if needs_control || known {
            self.control(network, refusals)
        } else {
            None
        };
        let instance = self.instance(refusals);
        if args.check {
            let receiver = match args.secret_file {
                Some(_) => Some(self.direct(network, refusals)?),
                None => None,
            };
            return Some(Task::Check { control, receiver });
        }
        if args.clean {
            return Some(Task::Clean(control, instance));
        }
        if self.no_console() {
            if instance.is_none() {
                refusals.add("`-no-console` needs a target: `-instance-id ins-…`, or `-remote-ip` with `--secret-file`");
            }
            return Some(Task::NoJob(control?, instance?));
        }
        let target = match (instance, &args.out_image_name) {
            (_, Some(name)) => Some(Target::Image {
                name: name.clone(),
                vpc: args.dest_vpc_id.clone(),
                subnet: args.dest_subnet_id.clone(),
                transit_image: args.transit_image_id.clone(),
            }),
            (Some(id), None) => Some(Target::Instance(id)),
            (None, None) => None,
        };
        if args.console && target.is_none() {
            refusals.add(
                "`-console` creates a job and needs to know whereto: `-instance-id` or `-out-image-name`",
            );
        }
        Some(Task::Jobs(control?, target.filter(|_| args.console)))
    }

    /// Mode 1: what the stage before has left decides what comes next.
    fn staged(&self, network: &Network, refusals: &mut Refusals) -> Option<Task> {
        if self.args.console {
            refusals.add("`-mode 1` works without a job: leave `-console` out");
        }
        Some(Task::Staged(match staged::record(self.folder) {
            Some(record) if record.finished == 1 => Stage::Data(record),
            Some(record) => Stage::Leave(self.control(network, refusals)?, record),
            None => {
                let instance = self.instance(refusals);
                if instance.is_none() && refusals.is_empty() {
                    refusals.add("`-mode 1` needs a target: `-instance-id ins-…`");
                }
                Stage::Enter(self.control(network, refusals)?, instance?)
            }
        }))
    }

    fn contradictions(&self, network: &Network, refusals: &mut Refusals) {
        let args = self.args;
        let both = |refusals: &mut Refusals, one: (bool, &str), other: (bool, &str)| {
            if one.0 && other.0 {
                refusals.add(format!("`{}` and `{}` exclude each other", one.1, other.1));
            }
        };
        both(
            refusals,
            (args.console, "-console"),
            (args.no_console, "-no-console"),
        );
        both(
            refusals,
            (args.check, "--check"),
            (args.ignore_check, "-ignore-check"),
        );
        both(refusals, (args.check, "--check"), (args.clean, "--clean"));
        both(refusals, (args.check, "--check"), (args.blocktest, "-blocktest"));
        both(refusals, (args.clean, "--clean"), (args.blocktest, "-blocktest"));
        both(refusals, (args.check, "--check"), (args.daemon, "-daemon"));
        both(
            refusals,
            (args.plain_http, "--plain-http"),
            (args.ca_file.is_some(), "--ca-file"),
        );
        both(
            refusals,
            (args.plain_http, "--plain-http"),
            (args.fingerprint.is_some(), "--fingerprint"),
        );
        both(
            refusals,
            (args.ca_file.is_some(), "--ca-file"),
            (args.fingerprint.is_some(), "--fingerprint"),
        );
        both(
            refusals,
            (args.instance_id.is_some(), "-instance-id"),
            (args.out_image_name.is_some(), "-out-image-name"),
        );
        let private = [
            (&args.dest_vpc_id, "-dest-vpc-id"),
            (&args.dest_subnet_id, "-dest-subnet-id"),
            (&args.transit_image_id, "-transit-image-id"),
        ];
        for (value, flag) in private {
            if value.is_some() && (args.out_image_name.is_none() || network.mode == Mode::Public) {
                refusals.add(format!(
                    "`{flag}` needs `-out-image-name` and a private mode (`-mode 2` or `-mode 3`)"
                ));
            }
        }
        if args.incremental_time.is_some() && !args.console {
            refusals.add(
                "`-incremental-time` belongs to a job that this program creates: add `-console`; a job from the console has its own",
            );
        }
        let proxy = args.proxy_ip.is_some() || args.proxy_port.is_some() || args.proxy_user.is_some();
        if proxy && network.mode != Mode::Proxy {
            refusals.add("the proxy flags need `-mode 3`");
        }
    }

    fn instance(&self, refusals: &mut Refusals) -> Option<String> {
        let from_file = || {
            self.files
                .user
                .instance_id
                .clone()
                .filter(|_| self.args.out_image_name.is_none())
        };
        let id = self.args.instance_id.clone().or_else(from_file)?;
        if id.starts_with("lhins-") {
            refusals.add(format!(
                "`-instance-id {id}`: Lighthouse instances are not supported as targets"
            ));
            return None;
        }
        let rest = id.strip_prefix("ins-").unwrap_or_default();
        if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            refusals.add(format!(
                "`-instance-id {id}`: the value must look like ins-1a2b3c4d"
            ));
            return None;
        }
        Some(id)
    }

    /// The receiver that `-remote-ip` and `--secret-file` name.
    fn direct(&self, network: &Network, refusals: &mut Refusals) -> Option<(SocketAddr, Secret)> {
        if !self.no_console() && !self.args.check {
            refusals.add("`--secret-file` needs `-no-console` and `-remote-ip`");
        }
        if network.remote_ip.is_none() && self.args.remote_ip.is_none() {
            refusals.add("`--secret-file` needs `-remote-ip`: where does the receiver listen?");
        }
        let path = self.args.secret_file.as_ref()?;
        let secret = Secret::from_file(path);
        let secret =
            refusals.take(secret.map_err(|error| format!("`--secret-file`: {}", crate::sync::chain(&error))));
        let port = network.remote_port.unwrap_or(PORT_DEFAULT);
        Some((SocketAddr::new(network.remote_ip?, port), secret?))
    }

    fn control(&self, network: &Network, refusals: &mut Refusals) -> Option<Control> {
        let user = &self.files.user;
        let need = |value: &Option<String>, file: &Option<String>, flag: &str, refusals: &mut Refusals| {
            let value = value.clone().or_else(|| file.clone());
            if value.as_deref().is_none_or(|value| value.trim().is_empty()) {
                refusals.add(format!(
                    "`{flag}` is missing, and user.json beside the program does not say it"
                ));
            }
            value
        };
        let endpoint = need(&self.args.endpoint, &user.endpoint, "-endpoint", refusals);
        let region = need(&self.args.region, &user.region, "-region", refusals);
        let proxy = self.proxy(network, refusals);
        let trust = self.trust(refusals);
        let credentials = keys::find(self.args, user, refusals);
        Some(Control {
            endpoint: endpoint?,
            region: region?,
            credentials: credentials?,
            proxy,
            trust,
        })
    }

    fn proxy(&self, network: &Network, refusals: &mut Refusals) -> Option<Proxy> {
        if network.mode != Mode::Proxy {
            return None;
        }
        let client = &self.files.client;
        let ip = self.args.proxy_ip.as_ref().or(client.proxy_ip.as_ref());
        let port = self.args.proxy_port.clone().or_else(|| client.proxy_port.clone());
        if ip.is_none() || port.is_none() {
            refusals.add("`-mode 3` needs `-proxy-ip` and `-proxy-port`");
        }
        let ip = ip.and_then(|text| {
            refusals.take(
                text.parse()
                    .map_err(|_| format!("`-proxy-ip {text}`: the value must be an IP address")),
            )
        });
        let port = number(&port, "-proxy-port", 1..=u16::MAX, refusals);
        let user = self.args.proxy_user.clone().or_else(|| client.proxy_user.clone());
        let password = self
            .args
            .proxy_password
            .clone()
            .or_else(|| keys::from_environment(keys::ENV_PROXY_PASSWORD))
            .or_else(|| client.proxy_password.clone());
        Some(Proxy {
            ip: ip?,
            port: port?,
            login: user.map(|user| (user, password.unwrap_or_default())),
        })
    }

    fn trust(&self, refusals: &mut Refusals) -> Trust {
        if let Some(text) = &self.args.fingerprint {
            let text = text
                .trim_start_matches("sha256:")
                .replace(':', "")
                .to_ascii_lowercase();
            if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                refusals.add("`--fingerprint`: the value must be 64 hexadecimal digits (SHA-256)");
            }
            return Trust::Fingerprint(text);
        }
        match &self.args.ca_file {
            Some(path) if !path.is_file() => {
                refusals.add(format!("`--ca-file {}` is not a file", path.display()));
                Trust::System
            }
            Some(path) => Trust::Authority(path.clone()),
            None if self.args.plain_http => Trust::Plain,
            None => Trust::System,
        }
    }
}
