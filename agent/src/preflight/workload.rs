//! What runs on the machine and minds being moved: software bound to the machine, databases, clusters.

use std::collections::BTreeSet;

use super::Finding;
use crate::inventory::Machine;

/// Traces of registrations and licences: a file or the beginning of a name in a folder, what it is, what renews it.
const BOUND: [(&str, &str, &str, &str); 7] = [
    (
        "/etc/pki/consumer",
        "cert.pem",
        "Red Hat subscription",
        "subscription-manager register --force",
    ),
    (
        "/etc/sysconfig/rhn",
        "systemid",
        "Red Hat/SUSE Manager",
        "register the target anew at the management server",
    ),
    (
        "/etc/zypp/credentials.d",
        "SCCcredentials",
        "SUSE subscription",
        "SUSEConnect --cleanup && SUSEConnect -r CODE",
    ),
    (
        "/etc/yum.repos.d",
        "rhui",
        "packages of the old cloud (RHUI)",
        "install the target cloud's own repository package",
    ),
    (
        "/etc/yum.repos.d",
        "redhat-rhui",
        "packages of the old cloud (RHUI)",
        "install the target cloud's own repository package",
    ),
    (
        "/var/lib/ubuntu-advantage/private",
        "machine-token.json",
        "Ubuntu Pro",
        "pro detach --assume-yes && pro attach TOKEN",
    ),
    (
        "/opt/quest/sbin",
        "vastool",
        "Active Directory agent",
        "join the domain again after the move",
    ),
];

/// Licence servers by process: their licences name the MAC address of this machine.
const LICENCE_SERVERS: [&str; 4] = ["lmgrd", "rlm", "lmadmin", "lserv"];

/// Databases and clusters by process, with the unit that stops them.
const BUSY: [(&str, &str, &str); 16] = [
    ("mysqld", "MySQL", "mysql"),
    ("mariadbd", "MariaDB", "mariadb"),
    ("postgres", "PostgreSQL", "postgresql"),
    ("mongod", "MongoDB", "mongod"),
    ("redis-server", "Redis", "redis-server"),
    ("oracle", "Oracle", "oracle"),
    ("db2sysc", "Db2", "db2"),
    ("sqlservr", "SQL Server", "mssql-server"),
    ("etcd", "etcd", "etcd"),
    ("corosync", "Corosync cluster", "corosync"),
    ("pacemakerd", "Pacemaker cluster", "pacemaker"),
    ("keepalived", "keepalived", "keepalived"),
    ("kubelet", "Kubernetes node", "kubelet"),
    ("dockerd", "Docker", "docker"),
    ("ceph-osd", "Ceph", "ceph.target"),
    ("glusterd", "GlusterFS", "glusterd"),
];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let running = processes(machine);
    vec![bound(machine, &running), busy(&running)]
}

/// Names of all processes, as the kernel shortens them.
fn processes(machine: &Machine) -> BTreeSet<String> {
    let numbers = machine.names("/proc");
    let numbers = numbers
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    numbers
        .filter_map(|number| machine.text(&format!("/proc/{number}/comm")))
        .collect()
}

fn bound(machine: &Machine, running: &BTreeSet<String>) -> Finding {
    let name = "licences";
    let mut found = BTreeSet::new();
    let mut remedies = BTreeSet::new();
    for (folder, start, what, remedy) in BOUND {
        if machine.names(folder).iter().any(|file| file.starts_with(start)) {
            found.insert(what);
            remedies.insert(remedy);
        }
    }
    if let Some(server) = LICENCE_SERVERS
        .into_iter()
        .find(|server| running.contains(*server))
    {
        found.insert(server);
        remedies.insert("order licences for the target's MAC address before the move");
    }
    if found.is_empty() {
        return Finding::pass(
            "P74",
            name,
            "no traces of licences that are bound to this machine",
        );
    }
    let join = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join("; ");
    Finding::warn(
        "P74",
        name,
        join(found),
        format!("after the move: {}", join(remedies)),
    )
}

fn busy(running: &BTreeSet<String>) -> Finding {
    let name = "databases and clusters";
    let found: Vec<_> = BUSY
        .into_iter()
        .filter(|(process, ..)| running.contains(*process))
        .collect();
    if found.is_empty() {
        return Finding::pass("P75", name, "none that is known");
    }
    let names: Vec<&str> = found.iter().map(|(_, name, _)| *name).collect();
    let units: Vec<&str> = found.iter().map(|(.., unit)| *unit).collect();
    let remedy = format!(
        "a whole system is frozen for the last round, and they start at the target as after a power cut; where only a directory is migrated, its files are not of one moment without --freeze: stop them before the last round (--pre-freeze 'systemctl stop {}'); take cluster members out of the cluster first",
        units.join(" ")
    );
    Finding::warn("P75", name, names.join(", "), remedy)
}
