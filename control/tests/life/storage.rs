//! What was answered survives a kill; what was accepted once is not accepted again; both databases.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use csm::Secret;
use csm::signing::{SignMethod, tc3, v1};
use serde_json::{Value, json};

use crate::plane::{CVM, Plane, job_to};

fn exchange(address: &str, request: &str) -> Value {
    let mut stream =
        TcpStream::connect_timeout(&address.parse().unwrap(), std::time::Duration::from_secs(10)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A signed request of version 3, as text.
fn version_3(plane: &Plane, action: &str, body: &str, timestamp: i64) -> String {
    let request = tc3::Request {
        method: "POST",
        query: "",
        payload: body.as_bytes(),
        timestamp,
        service: "csm",
    };
    let headers = [
        ("content-type", "application/json"),
        ("host", plane.address.as_str()),
    ];
    let authorization = tc3::sign(&request, &headers, &plane.key.0, &Secret::new(&*plane.key.1)).unwrap();
    format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nX-TC-Action: {action}\r\nX-TC-Version: 2021-09-15\r\n\
         X-TC-Region: local-1\r\nX-TC-Timestamp: {timestamp}\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        plane.address,
        body.len()
    )
}

/// A signed request of version 1, as text.
fn version_1(plane: &Plane, action: &str, nonce: u64) -> String {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut pairs = vec![
        pair("Action", action),
        pair("Version", "2021-09-15"),
        pair("Region", "local-1"),
        pair("Timestamp", &now().to_string()),
        pair("Nonce", &nonce.to_string()),
        pair("SecretId", &plane.key.0),
    ];
    let secret = Secret::new(&*plane.key.1);
    let signature = v1::sign(SignMethod::HmacSha1, "GET", &plane.address, &pairs, &secret);
    pairs.push(pair("Signature", &signature));
    let query = csm::form::encode(&pairs);
    format!(
        "GET /?{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        plane.address
    )
}

fn code(answer: &Value) -> &str {
    answer["Response"]["Error"]["Code"].as_str().unwrap_or("OK")
}

#[test]
fn a_request_is_accepted_once_even_across_a_restart() {
    let mut plane = Plane::start(&[]);
    let source = plane.source('a');
    let body = json!({"SourceServerId": source}).to_string();
    let delete = version_3(&plane, "DeleteSourceServer", &body, now());
    assert_eq!(code(&exchange(&plane.address, &delete)), "OK");
    assert_eq!(
        code(&exchange(&plane.address, &delete)),
        "AuthFailure.SignatureFailure"
    );
    plane.kill_and_start();
    assert_eq!(
        code(&exchange(&plane.address, &delete)),
        "AuthFailure.SignatureFailure"
    );
    let read = version_3(&plane, "DescribeSourceServers", "{}", now());
    assert_eq!(code(&exchange(&plane.address, &read)), "OK");
    assert_eq!(
        code(&exchange(&plane.address, &read)),
        "OK",
        "reading twice does no harm"
    );
    let once = version_1(&plane, "DescribeMigrationJobs", 7);
    assert_eq!(code(&exchange(&plane.address, &once)), "OK");
    assert_eq!(
        code(&exchange(&plane.address, &once)),
        "AuthFailure.SignatureFailure",
        "its nonce is used"
    );
    for skew in [-301, 301] {
        // When a second passes on the way, a clock that is ahead comes closer.
        let answer = loop {
            let second = now();
            let late = version_3(&plane, "DescribeSourceServers", "{}", second + skew);
            let answer = exchange(&plane.address, &late);
            if now() == second {
                break answer;
            }
        };
        assert_eq!(code(&answer), "AuthFailure.SignatureExpire");
    }
}

#[test]
fn the_twenty_first_call_of_a_second_is_refused() {
    let plane = Plane::start(&[]);
    let codes: Vec<String> = (0..60)
        .map(|_| {
            code(&exchange(
                &plane.address,
                &version_3(&plane, "DescribeRegions", "{}", now()),
            ))
            .to_owned()
        })
        .collect();
    // The action belongs to the other service: refused, but not for its number.
    assert!(codes.iter().all(|code| code == "InvalidAction"), "{codes:?}");
    let begun = std::time::Instant::now();
    let codes: Vec<String> = (0..25)
        .map(|_| {
            code(&exchange(
                &plane.address,
                &version_3(&plane, "DescribeSourceServers", "{}", now()),
            ))
            .to_owned()
        })
        .collect();
    if begun.elapsed() < std::time::Duration::from_secs(1) {
        assert!(codes[..20].iter().all(|code| code == "OK"), "{codes:?}");
        assert!(
            codes[20..].iter().all(|code| code == "RequestLimitExceeded"),
            "{codes:?}"
        );
    }
}

/// What was answered before a kill is there after it.
fn survives(options: &[&str]) {
    let mut plane = Plane::start(options);
    let (source, instance) = (plane.source('a'), plane.instance());
    let job = plane.csm("CreateMigrationJob", job_to(&source, &instance))["JobId"]
        .as_str()
        .unwrap()
        .to_owned();
    plane.csm("StartMigrationJob", json!({"JobId": job}));
    let entered = plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": instance}))
        .unwrap();
    for step in 1..=10 {
        plane.csm(
            "ModifyMigrationJob",
            json!({"JobId": job, "Progress": (step * 5).to_string()}),
        );
        if step % 5 == 0 {
            plane.kill_and_start();
        }
        assert_eq!(plane.job(&job)["Progress"], f64::from(step * 5));
    }
    let again = plane
        .call(CVM, "LiveMigrateInstance", json!({"InstanceId": instance}))
        .unwrap();
    assert_eq!(
        again["Password"], entered["Password"],
        "migration mode goes on with the same secret"
    );
    let filters = json!([{"Name": "source-server-id", "Values": [source]}]);
    let shown = plane.csm("DescribeSourceServers", json!({"Filters": filters}))["SourceServers"][0].clone();
    assert_eq!(shown["Status"], "MIGRATING");
    let secret = entered["Password"].as_str().unwrap();
    assert!(
        !plane.log().contains(secret),
        "the data plane's secret is in the log"
    );
}

#[test]
fn answers_survive_a_kill() {
    survives(&[]);
}

#[test]
fn answers_survive_a_kill_with_postgresql_over_tls() {
    let cluster = crate::cluster::Cluster::start_with_tls();
    cluster.database("life");
    let (url, certificate) = (cluster.encrypted_url("life"), cluster.certificate());
    survives(&["--database", &url, "--database-ca", certificate.to_str().unwrap()]);
}

#[test]
fn a_lost_database_connection_loses_nothing() {
    let cluster = crate::cluster::Cluster::start();
    let url = cluster.database("cut");
    let plane = Plane::start(&["--database", &url]);
    let source = plane.source('a');
    for name in ["one", "two", "three"] {
        cluster.cut_connections("cut");
        // The first change after the cut finds the connection gone; it is refused, not lost.
        let rename = json!({"SourceServerId": source, "Name": name});
        plane.until("the return of the database", || {
            match plane.call(crate::plane::CSM, "ModifySourceServer", rename.clone()) {
                Ok(_) => true,
                Err(code) => {
                    assert_eq!(code, "ResourceUnavailable");
                    false
                }
            }
        });
        let shown = plane.csm("DescribeSourceServers", json!({}));
        assert_eq!(shown["SourceServers"][0]["Name"], name);
    }
}
