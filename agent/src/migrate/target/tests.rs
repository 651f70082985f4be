use csm::types::instance::{DataDisk, SystemDisk};

use super::*;
use crate::inventory::{Disk, Machine};

fn disk(gb: u64) -> Disk {
    Disk {
        bytes: gb * GB,
        ..crate::inventory::of_directory(std::path::Path::new("/sys/fs")).unwrap()
    }
}

fn inventory(disks: &[u64]) -> Inventory {
    let mut inventory = Inventory::take(&Machine::here()).unwrap();
    inventory.disks = disks.iter().map(|gb| disk(*gb)).collect();
    inventory
}

fn instance(system: i64, data: &[i64]) -> Instance {
    Instance {
        instance_id: Some("ins-1".into()),
        instance_state: Some("RUNNING".into()),
        uuid: "11111111-2222".into(),
        private_ip_addresses: vec!["10.0.0.5".into()],
        public_ip_addresses: vec!["203.0.113.5".into()],
        system_disk: Some(SystemDisk {
            disk_size: Some(system),
            ..Default::default()
        }),
        data_disks: data
            .iter()
            .map(|size| DataDisk {
                disk_size: *size,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn verdict(instance: &Instance, network: &Network, mode: Mode, minify: bool) -> Option<Code> {
    let inventory = inventory(&[50, 100]);
    let wanted = Wanted {
        inventory: &inventory,
        network,
        mode,
        minify,
    };
    let own = BTreeSet::from(["10.0.0.5".parse().unwrap()]);
    unfit(instance, &wanted, &own, "aaaa-BBBB").map(|(code, _)| code)
}

#[test]
fn each_unfit_target_has_its_code() {
    let plain = Network::default();
    let good = instance(50, &[100]);
    assert_eq!(verdict(&good, &plain, Mode::Public, false), None);
    let with = |change: &dyn Fn(&mut Instance)| {
        let mut instance = good.clone();
        change(&mut instance);
        verdict(&instance, &plain, Mode::Public, false)
    };
    assert_eq!(
        with(&|target| target.instance_state = Some("REBOOTING".into())),
        Some(Code::InstanceStatus)
    );
    assert_eq!(
        with(&|target| target.instance_state = Some("STOPPED".into())),
        None
    );
    assert_eq!(
        with(&|target| target.uuid = "AAAA-bbbb".into()),
        Some(Code::SameInstance)
    );
    assert_eq!(
        with(&|target| target.os_name = Some("Windows Server 2022".into())),
        Some(Code::OsNotMatch)
    );
    let ipv6 = Network {
        ipv6: true,
        ..Network::default()
    };
    assert_eq!(verdict(&good, &ipv6, Mode::Public, false), Some(Code::NoIpv6));
    assert_eq!(verdict(&good, &plain, Mode::Private, false), Some(Code::SameIp));
    let skip = Network {
        skip_ip_check: true,
        ..Network::default()
    };
    assert_eq!(verdict(&good, &skip, Mode::Private, false), None);
}

#[test]
fn disks_must_be_enough_unless_smaller_ones_are_allowed() {
    let plain = Network::default();
    assert_eq!(
        verdict(&instance(49, &[100]), &plain, Mode::Public, false),
        Some(Code::SystemDiskSize)
    );
    assert_eq!(
        verdict(&instance(50, &[]), &plain, Mode::Public, false),
        Some(Code::AddMoreDisk)
    );
    assert_eq!(
        verdict(&instance(50, &[99]), &plain, Mode::Public, false),
        Some(Code::AddMoreDisk)
    );
    assert_eq!(verdict(&instance(49, &[]), &plain, Mode::Public, true), None);
}

#[test]
fn the_mode_decides_which_address_is_used() {
    let inventory = inventory(&[1]);
    let answer = |ip: &str, port| LiveMigrateInstanceResponse {
        ip: ip.into(),
        lan_ip: "10.0.0.5".into(),
        port,
        ..Default::default()
    };
    let found = |network: &Network, mode, answer: &LiveMigrateInstanceResponse| {
        let wanted = Wanted {
            inventory: &inventory,
            network,
            mode,
            minify: false,
        };
        address(answer, &wanted, Some("2001:db8::5".parse().unwrap()))
            .map(|address| address.to_string())
            .map_err(|failure| failure.code)
    };
    let plain = Network::default();
    assert_eq!(
        found(&plain, Mode::Public, &answer("203.0.113.5", Some(8443))),
        Ok("203.0.113.5:8443".into())
    );
    assert_eq!(
        found(&plain, Mode::Private, &answer("", None)),
        Ok("10.0.0.5:443".into())
    );
    assert_eq!(
        found(&plain, Mode::Public, &answer("", None)),
        Err(Code::NoPublicIp)
    );
    let ipv6 = Network {
        ipv6: true,
        ..Network::default()
    };
    assert_eq!(
        found(&ipv6, Mode::Public, &answer("203.0.113.5", None)),
        Ok("[2001:db8::5]:443".into())
    );
    let given = Network {
        remote_ip: Some("::1".parse().unwrap()),
        remote_port: Some(99),
        ..Network::default()
    };
    assert_eq!(
        found(&given, Mode::Public, &answer("", Some(8443))),
        Ok("[::1]:99".into())
    );
}

#[test]
fn an_unreachable_target_ends_when_asked_to_stop() {
    let stop = StopFlag::default();
    stop.stop();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(reach(closed, &stop), Err(Ended::Interrupted));
}
