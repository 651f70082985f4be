//! The target of a job: found, judged, brought into migration mode, reached, and released.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use csm::client::Error;
use csm::types::instance::{DescribeInstances, Instance};
use csm::types::live_migrate::{
    ExitLiveMigrateInstance, ExitLiveMigrateLhInstance, LiveMigrateInstance, LiveMigrateInstanceResponse,
    LiveMigrateLhInstance,
};
use transfer::progress::StopFlag;
use transfer::secret::Secret;

use super::api::{Api, chain};
use super::failure::{Code, Ended, Failure};
use super::plan::{Mode, Network};
use super::source::CLIENT_VERSION;
use crate::inventory::Inventory;
use crate::resolve::PORT_DEFAULT;
use crate::state::State;

/// The API's GB.
const GB: u64 = 1 << 30;
/// One attempt to reach the target.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts: a target that has just entered migration mode needs a while; with the pauses two minutes in all.
const CONNECT_ATTEMPTS: u32 = 20;
/// Pause between attempts.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Step names, as the API reports them.
const ENTER: &str = "LiveMigrateInstance";
const CONNECT: &str = "Connect";

/// A target in migration mode.
#[derive(Debug)]
pub struct Entered {
    /// Where its receiver listens.
    pub address: SocketAddr,
    /// What both sides know.
    pub secret: Secret,
}

/// What makes a target fit or not.
pub struct Wanted<'a> {
    /// The source.
    pub inventory: &'a Inventory,
    /// How data goes.
    pub network: &'a Network,
    /// The mode of the job.
    pub mode: Mode,
    /// Whether smaller disks are allowed.
    pub minify: bool,
}

/// Judges the instance by what the API tells about it. Gives its IPv6 address, if it has one.
///
/// # Errors
/// The first thing that makes it unfit.
pub fn judge(
    api: &Api,
    instance_id: &str,
    wanted: &Wanted<'_>,
    stop: &StopFlag,
) -> Result<Option<Ipv6Addr>, Ended> {
    if instance_id.starts_with("lhins-") {
        return Ok(None);
    }
    let request = DescribeInstances {
        instance_ids: vec![instance_id.to_owned()],
        ..Default::default()
    };
    let answer = api
        .insist(&request, stop)
        .map_err(|error| refused(&error, stop, "DescribeInstances"))?;
    let Some(instance) = answer.instance_set.into_iter().next() else {
        let text = format!("the target {instance_id} does not exist");
        return Err(Failure::new(Code::InstanceStatus, "DescribeInstances", text).into());
    };
    match unfit(&instance, wanted, &own_addresses(), &own_uuid()) {
        None => Ok(instance.ipv6_addresses.iter().find_map(|text| text.parse().ok())),
        Some((code, text)) => Err(Failure::new(code, "CheckTarget", text).into()),
    }
}

fn unfit(
    instance: &Instance,
    wanted: &Wanted<'_>,
    own_addresses: &BTreeSet<IpAddr>,
    own_uuid: &str,
) -> Option<(Code, String)> {
    let id = instance.instance_id.as_deref().unwrap_or_default();
    let state = instance.instance_state.as_deref().unwrap_or("RUNNING");
    // A target that is in migration mode already is one whose migration goes on.
    if !["RUNNING", "STOPPED"].contains(&state) && !state.contains("LIVE_MIGRATE") {
        return Some((
            Code::InstanceStatus,
            format!("the target {id} is in state {state}"),
        ));
    }
    if !own_uuid.is_empty() && instance.uuid.eq_ignore_ascii_case(own_uuid) {
        return Some((Code::SameInstance, format!("this machine is the target {id}")));
    }
    if instance
        .os_name
        .as_deref()
        .is_some_and(|name| name.to_ascii_lowercase().contains("windows"))
    {
        return Some((
            Code::OsNotMatch,
            format!("the target {id} runs Windows, this machine Linux"),
        ));
    }
    // A target that names no address at all has none before it is in migration mode: then the answer to that decides.
    let is_silent = instance.public_ip_addresses.is_empty() && instance.private_ip_addresses.is_empty();
    if wanted.network.ipv6 && instance.ipv6_addresses.is_empty() && !is_silent {
        return Some((Code::NoIpv6, format!("the target {id} has no IPv6 address")));
    }
    if matches!(wanted.mode, Mode::Private | Mode::Proxy) && !wanted.network.skip_ip_check {
        let same = |text: &&String| text.parse().is_ok_and(|ip: IpAddr| own_addresses.contains(&ip));
        let mut addresses = instance
            .private_ip_addresses
            .iter()
            .chain(&instance.ipv6_addresses);
        if let Some(ip) = addresses.find(same) {
            return Some((
                Code::SameIp,
                format!("this machine and the target {id} both have the address {ip}"),
            ));
        }
    }
    if wanted.minify {
        None
    } else {
        too_small(instance, wanted.inventory)
    }
}

fn too_small(instance: &Instance, inventory: &Inventory) -> Option<(Code, String)> {
    let positive = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok());
    let needed = |bytes: u64| bytes.div_ceil(GB);
    let system = instance
        .system_disk
        .as_ref()
        .and_then(|disk| positive(disk.disk_size));
    if let (Some(have), Some(disk)) = (system, inventory.disks.first())
        && have < needed(disk.bytes)
    {
        let text = format!(
            "the target's system disk has {have} GB, {} has {} GB",
            disk.device,
            needed(disk.bytes)
        );
        return Some((Code::SystemDiskSize, text));
    }
    let data = inventory.disks.get(1..).unwrap_or_default();
    if instance.data_disks.len() < data.len() {
        let text = format!(
            "the target has {} data disks, this machine {}",
            instance.data_disks.len(),
            data.len()
        );
        return Some((Code::AddMoreDisk, text));
    }
    data.iter().zip(&instance.data_disks).find_map(|(disk, have)| {
        let have = positive(Some(have.disk_size))?;
        (have < needed(disk.bytes)).then(|| {
            let text = format!(
                "a data disk of the target has {have} GB, {} has {} GB",
                disk.device,
                needed(disk.bytes)
            );
            (Code::AddMoreDisk, text)
        })
    })
}

/// Brings the target into migration mode, or finds it there.
///
/// # Errors
/// It does not enter, or has no address for the mode.
pub fn enter(
    api: &Api,
    instance_id: &str,
    wanted: &Wanted<'_>,
    ipv6: Option<Ipv6Addr>,
    extra: String,
    stop: &StopFlag,
) -> Result<Entered, Ended> {
    let sys_info = Some(wanted.inventory.client_info(extra));
    let client_version = Some(CLIENT_VERSION.to_owned());
    let answer = if instance_id.starts_with("lhins-") {
        let request = LiveMigrateLhInstance {
            instance_id: instance_id.to_owned(),
            client_version,
            sys_info,
        };
        api.insist(&request, stop)
            .map(|answer| LiveMigrateInstanceResponse {
                ip: answer.ip,
                password: answer.password,
                lan_ip: answer.lan_ip,
                port: answer.port,
            })
    } else {
        let request = LiveMigrateInstance {
            instance_id: instance_id.to_owned(),
            client_version,
            sys_info,
            ..Default::default()
        };
        api.insist(&request, stop)
    };
    let answer = answer.map_err(|error| refused(&error, stop, ENTER))?;
    let address = address(&answer, wanted, ipv6)?;
    let secret = Secret::parse(answer.password.reveal().as_bytes())
        .map_err(|error| Failure::new(Code::EnterMigrateMode, ENTER, error.to_string()))?;
    Ok(Entered { address, secret })
}

fn address(
    answer: &LiveMigrateInstanceResponse,
    wanted: &Wanted<'_>,
    ipv6: Option<Ipv6Addr>,
) -> Result<SocketAddr, Failure> {
    let port = answer.port.and_then(|port| u16::try_from(port).ok());
    let port = wanted.network.remote_port.or(port).unwrap_or(PORT_DEFAULT);
    if let Some(ip) = wanted.network.remote_ip {
        return Ok(SocketAddr::new(ip, port));
    }
    if wanted.network.ipv6 {
        let mut named = [&answer.ip, &answer.lan_ip]
            .into_iter()
            .filter_map(|text| text.trim().parse().ok());
        return match ipv6.or_else(|| named.next()) {
            Some(ip) => Ok(SocketAddr::new(ip.into(), port)),
            None => Err(Failure::new(
                Code::NoIpv6,
                ENTER,
                "the target has no IPv6 address",
            )),
        };
    }
    let text = match wanted.mode {
        Mode::Public => &answer.ip,
        Mode::Staged | Mode::Private | Mode::Proxy => &answer.lan_ip,
    };
    match text.trim().parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) if wanted.mode == Mode::Public => Err(Failure::new(
            Code::NoPublicIp,
            ENTER,
            "the target has no public address",
        )),
        Err(_) => {
            let text = format!("the API named no private address of the target (`{text}`)");
            Err(Failure::new(Code::EnterMigrateMode, ENTER, text))
        }
    }
}

/// Waits until the target's receiver takes connections.
///
/// # Errors
/// It does not within two minutes.
pub fn reach(address: SocketAddr, stop: &StopFlag) -> Result<(), Ended> {
    let mut last = None;
    for _ in 0..CONNECT_ATTEMPTS {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        if stop.sleep(CONNECT_PAUSE) {
            return Err(Ended::Interrupted);
        }
    }
    let why = last.map(|error| error.to_string()).unwrap_or_default();
    Err(Failure::new(
        Code::Connection,
        CONNECT,
        format!("cannot reach {address}: {why}"),
    )
    .into())
}

/// Takes the target out of migration mode.
///
/// # Errors
/// The control plane refuses, or somebody asks to stop.
pub fn exit(
    api: &Api,
    id: &str,
    inventory: &Inventory,
    succeeded: bool,
    stop: &StopFlag,
) -> Result<(), Error> {
    let result = if succeeded { "succ" } else { "fail" };
    let source = Some(inventory.source_info());
    if id.starts_with("lhins-") {
        let request = ExitLiveMigrateLhInstance {
            instance_id: id.to_owned(),
            migrate_result: result.to_owned(),
            source_system_info: source,
            ..Default::default()
        };
        api.insist(&request, stop).map(drop)
    } else {
        let request = ExitLiveMigrateInstance {
            instance_id: id.to_owned(),
            migrate_result: Some(result.to_owned()),
            source_system_info: source,
        };
        api.insist(&request, stop).map(drop)
    }
}

/// Name of the file that names a target in migration mode.
const RECORD: &str = "migration-mode.json";

/// Notes that a target enters migration mode, for `--clean`.
pub fn remember(state: &State, instance_id: &str) {
    if let Err(error) = state.write(RECORD, &instance_id) {
        tracing::warn!("cannot note that {instance_id} is in migration mode: {error}");
    }
}

/// The target that is in migration mode because of this machine, as far as it knows.
pub fn remembered(state: &State) -> Option<String> {
    state.read(RECORD)
}

/// Notes that no target is in migration mode any more.
pub fn forget(state: &State) {
    if let Err(error) = state.remove(RECORD) {
        tracing::warn!("cannot remove {}: {error}", state.path(RECORD).display());
    }
}

/// What a refused call means for the migration.
pub fn refused(error: &Error, stop: &StopFlag, step: &str) -> Ended {
    if stop.is_stopped() && error.code().is_none() {
        return Ended::Interrupted;
    }
    let code = error
        .code()
        .and_then(Code::of_api)
        .unwrap_or(Code::EnterMigrateMode);
    Failure::new(code, step, chain(error)).into()
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let entries = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = entries.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    addresses.filter(|address| !address.is_loopback()).collect()
}

fn own_uuid() -> String {
    crate::inventory::Machine::here()
        .text("/sys/class/dmi/id/product_uuid")
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
