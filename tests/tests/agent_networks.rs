//! The network modes, each in networks where nothing but what it needs is possible: a control plane, a source, a target
//! and what lies between them, each in a network namespace of its own.

use go2cloud_tests::bed::{Bed, Receiver};
use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::hooks::Place;
use go2cloud_tests::host::Host;
use go2cloud_tests::network::Network;
use go2cloud_tests::proxy::{PASSWORD, Proxy, USER};
use serde_json::{Value, json};

/// Where the control plane is.
const API: &str = "198.51.100.2";
/// The target's public address.
const TARGET: &str = "203.0.113.2";
/// The target's private address.
const TARGET_LAN: &str = "10.2.0.2";
/// Everywhere, by a host's only way out.
const ANYWHERE: &[&str] = &["default"];

/// Hosts around a router. The control plane is linked already; what the others reach is decided by their links.
fn around_a_router(others: &[&str]) -> Network {
    let mut hosts = vec!["router", "api"];
    hosts.extend(others);
    let network = Network::new(&hosts);
    network.forward("router");
    network.attach(("api", "wan", "198.51.100.2/24"), "198.51.100.1/24", ANYWHERE);
    network
}

/// A control plane and instances, whose receivers listen on one of the target's addresses.
fn cloud(network: &Network, listen: &str) -> Cloud {
    let place = Place {
        namespace: Some(network.namespace("target")),
        listen: listen.to_owned(),
        ip: TARGET.to_owned(),
        lan_ip: TARGET_LAN.to_owned(),
    };
    let control = (network.namespace("api"), &*format!("{API}:8443"));
    Cloud::in_network(control, network.namespace("source"), &place)
}

/// A source without internet, linked to the target's private network and to that of a third host.
fn private_networks(network: &Network) {
    let private = &["10.0.0.0/8"];
    network.attach(("source", "lan", "10.1.0.2/24"), "10.1.0.1/24", private);
    network.attach(("target", "lan", "10.2.0.2/24"), "10.2.0.1/24", private);
}

#[test]
fn mode_0_needs_public_networks_only() {
    let network = around_a_router(&["source", "target"]);
    network.attach(("source", "wan", "192.0.2.2/24"), "192.0.2.1/24", ANYWHERE);
    network.attach(("target", "wan", "203.0.113.2/24"), "203.0.113.1/24", ANYWHERE);
    let cloud = cloud(&network, TARGET);
    cloud.fill_source(40, 2);
    let instance = cloud.create_instance("");
    cloud.run_well(&format!("-console -instance-id {instance}"));
    assert!(
        cloud.said().contains(&format!("connecting to {TARGET}:")),
        "{}",
        cloud.said()
    );
    cloud.assert_arrived(&instance);
}

#[test]
fn mode_2_sends_data_over_the_private_network() {
    let network = around_a_router(&["source", "target"]);
    private_networks(&network);
    network.attach(("source", "wan", "192.0.2.2/24"), "192.0.2.1/24", ANYWHERE);
    let cloud = cloud(&network, TARGET_LAN);
    cloud.fill_source(42, 2);
    let instance = cloud.create_instance("");
    // A job from the console, whose mode counts and not the agent's.
    let _agent = cloud.start("");
    let source = cloud.wait_for_source();
    let job = cloud.start_job(&source, &format!("--instance {instance} --mode 2"));
    cloud.wait_for(&job, "SUCCESS");
    assert!(
        cloud.said().contains(&format!("connecting to {TARGET_LAN}:")),
        "{}",
        cloud.said()
    );
    cloud.assert_arrived(&instance);
    assert!(
        !network.connects("target", API, 8443),
        "the target needs no internet"
    );
}

#[test]
fn mode_3_reaches_the_api_by_a_proxy_with_a_password_and_not_otherwise() {
    let network = around_a_router(&["source", "target", "proxy"]);
    private_networks(&network);
    network.attach(("proxy", "lan", "10.3.0.2/24"), "10.3.0.1/24", &["10.0.0.0/8"]);
    network.attach(("proxy", "wan", "192.0.2.2/24"), "192.0.2.1/24", ANYWHERE);
    let cloud = cloud(&network, TARGET_LAN);
    cloud.fill_source(43, 2);
    let inside = network.namespace("proxy");
    let address: std::net::IpAddr = "10.3.0.2".parse().expect("an address");
    let proxy = Proxy::start(&cloud.path("tool"), Some(&inside), address);
    assert!(
        !network.connects("source", API, 8443),
        "there is a way past the proxy"
    );
    let instance = cloud.create_instance("");
    let direct = cloud.run(&format!("-console -instance-id {instance} -mode 2"));
    assert_eq!(direct.status.code(), Some(3), "{direct:?}");
    let line = format!(
        "-console -instance-id {instance} -mode 3 -proxy-ip {address} -proxy-port {} -proxy-user {USER}",
        proxy.port
    );
    let refused = cloud.run(&format!("{line} -proxy-password wrong"));
    assert_eq!(
        refused.status.code(),
        Some(3),
        "the check before the migration fails: {refused:?}"
    );
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(said.contains("proxy"), "{refused:?}");
    // The right one, as the documented configuration file has it.
    let settings = json!({"Ip": address, "Port": proxy.port.to_string(), "User": USER, "Password": PASSWORD});
    let client = json!({"Client": {"Net": {"Proxy": settings}}});
    cloud.configure("client.json", &client.to_string());
    cloud.run_well(&format!("-console -instance-id {instance} -mode 3"));
    cloud.assert_arrived(&instance);
    let log = proxy.log();
    assert!(log.contains(&format!("{API}:8443")), "{log}");
    assert!(!log.contains(TARGET_LAN), "data went through the proxy: {log}");
}

#[test]
fn mode_1_needs_no_api_at_the_source_and_no_target_at_the_gateway() {
    let network = around_a_router(&["source", "target", "gateway"]);
    private_networks(&network);
    network.attach(("gateway", "wan", "192.0.2.2/24"), "192.0.2.1/24", ANYWHERE);
    let mut cloud = cloud(&network, TARGET_LAN);
    cloud.fill_source(41, 2);
    let instance = cloud.create_instance("");
    let line = format!("-mode 1 -instance-id {instance}");
    for (host, says) in [
        (
            "gateway",
            "Stage 1 is finished and please run next stage at source machine.",
        ),
        (
            "source",
            "Stage 2 is finished and please run next stage at gateway machine.",
        ),
        ("gateway", "Migrate successfully."),
    ] {
        cloud.carry_to(network.namespace(host));
        let said = cloud.run_well(&line);
        assert!(said.contains(says), "{host}: {said}");
        let port = std::fs::read_to_string(cloud.hooks().path(&instance, "port")).expect("a receiver's port");
        let port = port.trim().parse().expect("a port");
        // After the last stage nothing listens there any more.
        if says.starts_with("Stage") {
            assert_eq!(network.connects(host, TARGET_LAN, port), host == "source");
        }
        assert_eq!(network.connects(host, API, 8443), host == "gateway");
    }
    cloud.assert_arrived(&instance);
    let shown = cloud.admin(&format!("instance show {instance} --json"));
    assert!(shown.contains("\"MigrationMode\":false"), "{shown}");
    assert!(!cloud.path("tool/stage.json").exists());
}

#[test]
fn a_world_without_ipv4_is_migrated_in() {
    let network = Network::new(&["router", "api", "source", "target"]);
    network.forward("router");
    for (host, address, gateway) in [
        ("api", "2001:db8:a::2/64", "2001:db8:a::1/64"),
        ("source", "2001:db8:b::2/64", "2001:db8:b::1/64"),
        ("target", "2001:db8:c::2/64", "2001:db8:c::1/64"),
    ] {
        network.attach((host, "wan", address), gateway, ANYWHERE);
    }
    network.forget_ipv4();
    let target = "2001:db8:c::2".to_owned();
    let place = Place {
        namespace: Some(network.namespace("target")),
        listen: format!("[{target}]"),
        ip: target.clone(),
        lan_ip: target,
    };
    let control = (network.namespace("api"), "[2001:db8:a::2]:8443");
    let cloud = Cloud::in_network(control, network.namespace("source"), &place);
    cloud.fill_source(46, 2);
    cloud.configure("client.json", r#"{"Client": {"Net": {"Proxy": {"IpV6": true}}}}"#);
    let instance = cloud.create_instance("");
    cloud.run_well(&format!("-console -instance-id {instance}"));
    assert!(
        cloud.said().contains("connecting to [2001:db8:c::2]:"),
        "{}",
        cloud.said()
    );
    cloud.assert_arrived(&instance);
    let jobs = cloud.admin("job list --json");
    assert_eq!(member(&jobs, "Status"), "SUCCESS");
}

#[test]
fn a_check_finds_the_packets_that_vanish_without_a_word() {
    let network = Network::new(&["router", "source", "target"]);
    network.forward("router");
    network.attach(("source", "lan", "10.1.0.2/24"), "10.1.0.1/24", ANYWHERE);
    network.attach(("target", "lan", "10.2.0.2/24"), "10.2.0.1/24", ANYWHERE);
    // The router drops what is larger, and what it says about that never leaves it.
    network.ip("router", "link set lan-target mtu 1400");
    network.ip("router", "rule add iif lo to 10.1.0.2 blackhole");
    let bed = Bed::new();
    let key = bed.path("key");
    let receiver = Receiver::start_in(
        Some(&network.namespace("target")),
        "10.2.0.2:0",
        &key,
        &["--into".as_ref(), bed.target.as_os_str()],
        &bed.path("journal"),
    );
    let (ip, port) = receiver.address.split_once(':').expect("an address");
    let host = Host::new("192.0.2.1:1", (String::new(), String::new())).inside(network.namespace("source"));
    let check = || {
        let line = format!(
            "--check --json --source-root {} --remote-ip {ip} --remote-port {port} --secret-file {}",
            host.path("source").display(),
            key.display()
        );
        let output = host.tool(&line).output().expect("the agent runs");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let findings = report["findings"].as_array().expect("findings");
        let link = findings.iter().find(|finding| finding["id"] == "P64");
        link.expect("the check of the link").clone()
    };
    let link = check();
    let seen = link["observed"].as_str().expect("a text");
    assert_eq!(link["status"], "fail", "{link}");
    assert!(
        seen.contains("more than 1400 bytes vanish") && seen.contains("sends up to 1500"),
        "{seen}"
    );
    let remedy = link["remedy"].as_str().expect("a text");
    assert!(remedy.contains("ip link set dev NAME mtu 1400"), "{remedy}");
    // The remedy helps, and so does a router that is heard.
    network.ip("source", "link set lan mtu 1400");
    let link = check();
    assert_eq!(link["status"], "pass", "{link}");
    network.ip("source", "link set lan mtu 1500");
    network.ip("router", "rule del iif lo to 10.1.0.2 blackhole");
    let link = check();
    let seen = link["observed"].as_str().expect("a text");
    assert_eq!(link["status"], "pass", "{link}");
    assert!(seen.contains("in packets of up to 1400 bytes"), "{seen}");
}
