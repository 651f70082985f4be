use std::net::UdpSocket;
use std::thread;

use super::*;

/// A name server on an address of the loopback network that nothing else uses; port 53 because `resolv.conf` has no
/// ports. It knows one name with an IPv4 and an IPv6 address, and answers `number` queries.
fn name_server(address: &str, number: usize) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    thread::spawn(move || {
        for _ in 0..number {
            let mut query = [0; 512];
            let (length, client) = socket.recv_from(&mut query).unwrap();
            socket.send_to(&answer(&query[..length]), client).unwrap();
        }
    });
}

fn answer(query: &[u8]) -> Vec<u8> {
    let name = b"\x05plane\x07example\0";
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let known = query[12..].to_ascii_lowercase().starts_with(name);
    let kind = query[end - 3];
    let data: &[u8] = match (known, kind) {
        (true, 1) => &[192, 0, 2, 7],
        (true, 28) => &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        _ => &[],
    };
    let (flags, count) = if known {
        ([0x85, 0x80], u8::from(!data.is_empty()))
    } else {
        ([0x85, 0x83], 0)
    };
    let mut answer = [
        &query[..2],
        &flags[..],
        &[0, 1, 0, count, 0, 0, 0, 0],
        &query[12..end],
    ]
    .concat();
    if count == 1 {
        answer.extend([
            0xc0,
            12,
            0,
            kind,
            0,
            1,
            0,
            0,
            0,
            60,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        answer.extend(data);
    }
    answer
}

fn files(hosts: &str, resolv_conf: &str) -> (tempfile::TempDir, Resolver) {
    let folder = tempfile::tempdir().unwrap();
    let (hosts_file, conf) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
    fs::write(&hosts_file, hosts).unwrap();
    fs::write(&conf, resolv_conf).unwrap();
    (folder, Resolver::with_files(hosts_file, conf))
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn literals_need_no_files() {
    let resolver = Resolver::with_files("/nonexistent/hosts", "/nonexistent/resolv.conf");
    for text in ["192.0.2.1", "::1", "[2001:db8::1]"] {
        assert_eq!(
            resolver.resolve(text).await.unwrap(),
            addresses(&[text.trim_matches(['[', ']'])])
        );
    }
    assert_eq!(
        resolver.resolve("localhost").await.unwrap(),
        addresses(&["127.0.0.1", "::1"])
    );
    let error = resolver.resolve("plane.example").await.unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/resolv.conf") && error.contains("/etc/hosts"),
        "{error}"
    );
}

#[tokio::test]
async fn the_hosts_file_comes_before_the_name_servers() {
    let hosts = "# comment\n2001:db8::5 Plane.Example # other\n192.0.2.5\tx plane.example.\n192.0.2.5 plane.example\nbad plane.example\n";
    let (_folder, resolver) = files(hosts, "");
    assert_eq!(
        resolver.resolve("PLANE.example").await.unwrap(),
        addresses(&["192.0.2.5", "2001:db8::5"])
    );
}

#[tokio::test]
async fn name_servers_are_asked_for_both_families() {
    name_server("127.83.17.9", 8);
    let (_folder, resolver) = files(
        "127.0.0.1 localhost\n",
        "nameserver 127.83.17.9\noptions timeout:2 attempts:1\n",
    );
    let found = resolver.resolve_with_port("plane.example.", 443).await.unwrap();
    let wanted: Vec<SocketAddr> = vec![
        "192.0.2.7:443".parse().unwrap(),
        "[2001:db8::7]:443".parse().unwrap(),
    ];
    assert_eq!(found, wanted);
    let error = resolver.resolve("other.example.").await.unwrap_err();
    assert!(matches!(error, ResolveError::Lookup { .. }), "{error}");
    assert_eq!(error.host(), "other.example.");
}
