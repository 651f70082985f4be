//! The control plane and the target: reachable, with a clock that agrees.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use csm::client::Kind;
use csm::types::instance::DescribeInstances;
use csm::types::source_server::DescribeSourceServers;

use super::{Finding, Subject};
use crate::migrate::plan::{Mode, Target, Task};

/// Ports that the target's security group opens.
const PORTS: [u16; 3] = [80, 443, 3389];
/// A packet that is answered at all is answered within this time.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = api(subject);
    findings.push(ports(subject));
    findings
}

fn api(subject: &Subject<'_>) -> Vec<Finding> {
    let (clock, reach) = ("clock", "API");
    let Some(api) = subject.api else {
        let text = "no control plane is named: give -endpoint and -region to check it, too";
        return vec![
            Finding::info("C01", clock, text),
            Finding::info("C02", reach, text),
        ];
    };
    let request = DescribeSourceServers {
        limit: Some(1),
        ..Default::default()
    };
    let Err(error) = api.call(&request) else {
        return vec![
            Finding::pass("C01", clock, "agrees with the API's"),
            Finding::pass("C02", reach, "answers, and takes the key"),
        ];
    };
    let text = crate::migrate::api::chain(&error);
    if error.kind() == Kind::Clock {
        let remedy = format!(
            "{}; for instance: chronyc makestep, or timedatectl set-ntp true",
            error.remedy()
        );
        return vec![
            Finding::fail("C01", clock, text, remedy),
            Finding::pass("C02", reach, "answers"),
        ];
    }
    vec![
        Finding::info(
            "C01",
            clock,
            "cannot be compared: the API does not answer as it should",
        ),
        Finding::fail("C02", reach, text, error.remedy()),
    ]
}

fn ports(subject: &Subject<'_>) -> Finding {
    let name = "ports of the target";
    let Some(ip) = target_address(subject) else {
        return Finding::info("C03", name, "the target is not known yet");
    };
    let blocked: Vec<String> = PORTS
        .iter()
        .filter(|port| !answers(SocketAddr::new(ip, **port)))
        .map(u16::to_string)
        .collect();
    if blocked.is_empty() {
        Finding::pass("C03", name, format!("{ip} answers on 80, 443 and 3389"))
    } else {
        let remedy =
            "open 80, 443 and 3389 for TCP in the target's security group, and on firewalls on the way";
        Finding::warn(
            "C03",
            name,
            format!("{ip} does not answer on {}", blocked.join(", ")),
            remedy,
        )
    }
}

/// Whether packets come through: a refusal is an answer, too, since nothing listens before migration mode.
fn answers(address: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&address, TIMEOUT) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

fn target_address(subject: &Subject<'_>) -> Option<IpAddr> {
    let network = &subject.plan.network;
    if network.remote_ip.is_some() {
        return network.remote_ip;
    }
    let id = match &subject.plan.task {
        Task::Jobs(_, Some(Target::Instance(id))) | Task::NoJob(_, id) => id,
        _ => return None,
    };
    let request = DescribeInstances {
        instance_ids: vec![id.clone()],
        ..Default::default()
    };
    let instance = subject
        .api?
        .call(&request)
        .ok()?
        .instance_set
        .into_iter()
        .next()?;
    let addresses = match network.mode {
        _ if network.ipv6 => instance.ipv6_addresses,
        Mode::Public => instance.public_ip_addresses,
        Mode::Staged | Mode::Private | Mode::Proxy => instance.private_ip_addresses,
    };
    addresses.first()?.parse().ok()
}
