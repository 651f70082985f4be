//! The service itself: TLS, metrics, the console, its end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use csm::client::{Call, Config, Kind, Trust};
use csm::{Client, Credential};
use serde_json::json;

use crate::plane::{CSM, Plane};

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(10)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn call(plane: &Plane, trust: Trust) -> Result<(), Kind> {
    let endpoint = plane.address.parse().unwrap();
    let mut config = Config::new(endpoint, "local-1", Credential::new(&*plane.key.0, &*plane.key.1));
    config.trust = trust;
    config.attempts_max = 1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let call = Call {
        service: CSM.0,
        version: CSM.1,
        action: "DescribeMigrationJobs",
    };
    let answer =
        runtime.block_on(async { Client::new(config).unwrap().call_by_name(&call, &json!({})).await });
    answer.map(drop).map_err(|error| error.kind())
}

#[test]
fn a_self_signed_certificate_is_made_once_and_can_be_pinned() {
    let mut plane = Plane::start_as(&["--provider", "command"]);
    let fingerprint = plane.fingerprint.clone().unwrap();
    let pinned = Trust::Fingerprint(fingerprint.parse().unwrap());
    call(&plane, pinned.clone()).unwrap();
    assert!(
        call(&plane, Trust::System).is_err(),
        "no authority vouches for it"
    );
    let other = format!("sha256:{}", "0".repeat(64));
    assert!(
        call(&plane, Trust::Fingerprint(other.parse().unwrap())).is_err(),
        "another certificate"
    );
    plane.kill_and_start();
    assert_eq!(plane.fingerprint.as_ref(), Some(&fingerprint), "made once");
    call(&plane, pinned).unwrap();
    // Told by an alert, or by a reset of the connection where it closes before it has read everything.
    let answer = get(&plane.address, "/health");
    assert!(
        !answer.as_ref().is_ok_and(|answer| answer.contains("200")),
        "plain HTTP is not served beside TLS: {answer:?}"
    );
}

#[test]
fn a_given_certificate_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let options = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let plane = Plane::start_as(&options);
    call(&plane, Trust::CaFile(certificate)).unwrap();
}

#[test]
fn numbers_health_and_console_are_served() {
    let plane = Plane::start(&[]);
    let source = plane.source('a');
    plane.refused("DeleteMigrationJob", json!({"JobId": "migrate-zzzzzzzz"}));
    let metrics = get(&plane.address, "/metrics").unwrap();
    for line in [
        "go2cloud_requests_total{action=\"CreateSourceServer\",code=\"OK\"} 1",
        "go2cloud_requests_total{action=\"DeleteMigrationJob\",code=\"FailedOperation.JobIdNotExist\"} 1",
        "go2cloud_sources{status=\"ONLINE\"} 1",
        "go2cloud_request_seconds_count 2",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not among\n{metrics}"
        );
    }
    assert!(
        get(&plane.address, "/health")
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );
    let console = get(&plane.address, "/console").unwrap();
    assert!(
        console.contains("text/html") && console.contains("content-security-policy"),
        "{console}"
    );
    assert!(
        !console.contains("https://") && !console.contains("http://"),
        "it loads nothing from elsewhere"
    );
    assert!(!metrics.contains(&source), "no ids in numbers");
    let log = plane.log();
    assert!(
        log.contains("CreateSourceServer") && !log.contains(&plane.key.1),
        "{log}"
    );
}

#[test]
fn a_second_service_on_the_same_data_is_refused_and_the_first_ends_in_order() {
    let plane = Plane::start(&[]);
    let second = Command::new(env!("CARGO_BIN_EXE_go2cloud-control"))
        .args(["serve", "--plain-http", "--listen", "127.0.0.1:0", "--data"])
        .arg(plane.data())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(complaint.contains("another control plane uses it"), "{complaint}");
    // A connection that rests does not hold up the end.
    let _resting =
        TcpStream::connect_timeout(&plane.address.parse().unwrap(), Duration::from_secs(10)).unwrap();
    plane.source('a');
    plane.end();
}

#[test]
fn contradictions_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_go2cloud-control"))
        .args([
            "serve",
            "--provider",
            "command",
            "--regions",
            "Mars",
            "--client-version-min",
            "new",
            "--data",
        ])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    for word in ["--hooks", "--regions", "--client-version-min"] {
        assert!(complaint.contains(word), "{word} is not named in {complaint}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let plane = Plane::start(&["--idle-timeout", "1"]);
    for words in [
        "",
        "POST / HT",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    ] {
        let mut stream =
            TcpStream::connect_timeout(&plane.address.parse().unwrap(), Duration::from_secs(10)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Closed with or without an answer; what must not come is the time-out of this side.
        let closed = stream.read_to_end(&mut rest);
        let is_closed = closed.as_ref().map_or_else(
            |error| error.kind() == std::io::ErrorKind::ConnectionReset,
            |_| true,
        );
        assert!(is_closed, "{words:?}: {closed:?}");
    }
    plane.source('a');
}
