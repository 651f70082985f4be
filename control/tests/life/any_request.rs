//! Whatever is sent, the control plane answers: HTTP 200, the exact content type, a RequestId, and, when it refuses, a
//! code that the reference documents. Never a 5xx, never silence, never an end of the program.

mod generated;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use csm::envelope::CONTENT_TYPE;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::plane::{Plane, job_to};
use generated::World;
use wire::{Got, Sent};

/// Requests of one run: about half a minute on one slow core.
const CASES: u32 = 2000;

/// Targets longer than this are no longer HTTP for the server's library, which says so itself. The API's own limit, half
/// of that, has its code.
const TARGET_BYTES_MAX: usize = 65_000;

/// Keys that requests are spread over, so that the limit of 20 a second for each does not hide what lies behind it.
const KEYS: usize = 12;

/// Puts something of everything there.
fn furnished(plane: &Plane) -> World {
    let mut ids = Vec::new();
    for mark in ['0', '1', '2'] {
        let (source, instance) = (plane.source(mark), plane.instance());
        let mut request = job_to(&source, &instance);
        request["RunMode"] = if mark == '0' { "Delayed" } else { "Immediate" }.into();
        let job = plane.csm("CreateMigrationJob", request)["JobId"].clone();
        ids.extend([source, instance, job.as_str().unwrap().to_owned()]);
    }
    World {
        address: plane.address.clone(),
        keys: (0..KEYS).map(|_| plane.new_key()).collect(),
        ids,
    }
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

/// The code of the answer, or `ok`; an error when the answer is not one of the API.
fn judged(got: &Got) -> Result<String, String> {
    if got.status != 200 {
        return Err(format!("status {}", got.status));
    }
    if got.content_types != [CONTENT_TYPE] {
        return Err(format!("content types {:?}", got.content_types));
    }
    let document: Value = serde_json::from_slice(&got.body).map_err(|error| format!("body: {error}"))?;
    let response = &document["Response"];
    let request_id = response["RequestId"].as_str().unwrap_or_default();
    let is_uuid = request_id.len() == 36
        && request_id
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_uuid {
        return Err(format!("RequestId {request_id:?}"));
    }
    let Some(code) = response.get("Error").map(|error| &error["Code"]) else {
        return Ok("ok".to_owned());
    };
    let code = code.as_str().unwrap_or_default();
    let message = response["Error"]["Message"].as_str().unwrap_or_default();
    if !csm::code::is_documented(code) || message.is_empty() {
        return Err(format!("code {code:?}, message {message:?}"));
    }
    if code.starts_with("InternalError") || code.starts_with("InternalServerError") {
        return Err(format!("{code}: {message}"));
    }
    Ok(code.to_owned())
}

fn check(address: &str, sent: &Sent) -> Result<String, TestCaseError> {
    let got = wire::send(address, sent).map_err(|error| TestCaseError::fail(format!("{error}: {sent:?}")))?;
    if sent.target.len() > TARGET_BYTES_MAX && got.status == 414 {
        return Ok("refused by HTTP".to_owned());
    }
    judged(&got).map_err(|wrong| TestCaseError::fail(format!("{wrong}\nsent {sent:?}\ngot {got:?}")))
}

#[test]
fn any_request_is_answered_by_a_documented_code() {
    let mut plane = Plane::start(&[]);
    let world = Arc::new(furnished(&plane));
    let codes: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let outcome = runner(CASES).run(&generated::request(&world), |drawn| {
        let code = check(&world.address, &drawn.to_send(&world, now()))?;
        *codes.lock().unwrap().entry(code).or_default() += 1;
        Ok(())
    });
    let codes = codes.into_inner().unwrap();
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    assert!(plane.is_running());
    println!("{codes:#?}");
    // The requests must get far enough to mean something: deep refusals and successes of many kinds.
    assert!(
        codes.get("ok").is_some_and(|number| *number > CASES / 50),
        "{codes:?}"
    );
    for depth in [
        "AuthFailure.SignatureFailure",
        "InvalidAction",
        "MissingParameter",
        "UnknownParameter",
        "InvalidParameter",
    ] {
        assert!(codes.contains_key(depth), "{depth} never came up: {codes:?}");
    }
    assert!(codes.len() >= 20, "{codes:?}");
}

#[test]
fn bytes_that_are_not_http_do_no_harm() {
    let mut plane = Plane::start(&[]);
    let address = plane.address.clone();
    let garbage = prop_oneof![
        vec(any::<u8>(), 0..200),
        "(GET|POST) /[ -~]{0,50} HTTP/1\\.[019]\r\n([A-Za-z-]{0,12}:[ -~]{0,20}\r\n){0,5}(\r\n)?"
            .prop_map(String::into_bytes),
    ];
    let outcome = runner(300).run(&garbage, |bytes| {
        // Silence is an answer to what is not a request; a server error is not.
        if let Ok(got) = wire::send_bytes(&address, &bytes) {
            prop_assert!(got.status < 500, "{got:?}");
        }
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    assert!(plane.is_running());
    furnished(&plane);
}

#[test]
fn bodies_over_the_limits_are_refused_with_a_code() {
    let plane = Plane::start(&[]);
    let host = ("Host".to_owned(), plane.address.clone().into_bytes());
    let form = (
        "Content-Type".to_owned(),
        b"application/x-www-form-urlencoded".to_vec(),
    );
    let json = ("Content-Type".to_owned(), CONTENT_TYPE.as_bytes().to_vec());
    let post = |kind: &(String, Vec<u8>), length: usize| {
        let headers = vec![host.clone(), kind.clone()];
        Sent {
            method: "POST".into(),
            target: "/".into(),
            headers,
            body: vec![b'a'; length],
        }
    };
    let query = "a".repeat(33 * 1024);
    let long_get = Sent {
        method: "GET".into(),
        target: format!("/?{query}"),
        headers: vec![host.clone()],
        body: Vec::new(),
    };
    for sent in [
        post(&json, 10 * 1024 * 1024 + 1),
        post(&form, 1024 * 1024 + 1),
        long_get,
    ] {
        let got = wire::send(&plane.address, &sent).unwrap();
        let code = judged(&got).unwrap();
        assert_ne!(code, "ok", "{} {}", sent.method, sent.body.len());
    }
}
