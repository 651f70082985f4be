//! Every recorded request of the vendor's client is signed again, byte for byte, and verified as a server would; every
//! mutation of one is refused.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use ring::digest;
use serde::Deserialize;

use super::*;
use crate::form;
use crate::secret::Secret;

#[derive(Deserialize)]
struct File {
    reference_vectors: Vec<serde_json::Value>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    sign_method: String,
    input: Input,
    wire: Wire,
    expected: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Input {
    service: String,
    endpoint_host_header: String,
    timestamp: i64,
    secret_id: String,
    secret_key: String,
    unsigned_payload: bool,
}

#[derive(Deserialize)]
struct Wire {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    body_utf8: Option<String>,
    body_hex: Option<String>,
}

fn file() -> File {
    serde_json::from_str(include_str!("../../tests/data/vectors.json")).unwrap()
}

fn vectors(v3: bool) -> Vec<Vector> {
    let chosen: Vec<Vector> = file()
        .vectors
        .into_iter()
        .filter(|vector| (vector.sign_method == tc3::ALGORITHM) == v3)
        .collect();
    assert!(chosen.len() >= 5);
    chosen
}

impl Vector {
    fn expected(&self, name: &str) -> &str {
        self.expected[name].as_str().unwrap()
    }
    fn key(&self) -> Secret {
        Secret::new(&*self.input.secret_key)
    }
    fn query(&self) -> &str {
        self.wire.target.split_once('?').map_or("", |(_, query)| query)
    }
    fn body(&self) -> Vec<u8> {
        match (&self.wire.body_utf8, &self.wire.body_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(hex)) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
            (None, None) => Vec::new(),
        }
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.wire
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
    fn request<'a>(&'a self, payload: &'a [u8]) -> tc3::Request<'a> {
        tc3::Request {
            method: &self.wire.method,
            query: self.query(),
            payload: if self.input.unsigned_payload {
                tc3::UNSIGNED_PAYLOAD.as_bytes()
            } else {
                payload
            },
            timestamp: self.input.timestamp,
            service: &self.input.service,
        }
    }
    fn parameters(&self) -> Vec<(String, String)> {
        let text = if self.wire.method == "GET" {
            self.query().to_owned()
        } else {
            String::from_utf8(self.body()).unwrap()
        };
        form::decode(text.as_bytes()).unwrap()
    }
}

#[test]
fn tc3_gives_each_recorded_step_and_signature() {
    for vector in vectors(true) {
        let body = vector.body();
        let request = vector.request(&body);
        let content_type = vector.header("content-type").unwrap();
        let headers = [
            ("content-type".to_owned(), content_type),
            ("host".to_owned(), vector.header("host").unwrap()),
        ];
        let canonical = tc3::canonical_request(&request, &headers, tc3::HeaderCase::Lower);
        assert_eq!(canonical, vector.expected("canonical_request"), "{}", vector.name);
        assert_eq!(
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()),
            vector.expected("hashed_canonical_request")
        );
        let date = tc3::utc_date(vector.input.timestamp).unwrap();
        assert_eq!(
            tc3::string_to_sign(&request, &date, &canonical),
            vector.expected("string_to_sign")
        );
        let keys = tc3::derived_keys(&vector.key(), &date, &vector.input.service);
        let names = ["secret_date_hex", "secret_service_hex", "secret_signing_hex"];
        for (name, key) in names.into_iter().zip(&keys) {
            assert_eq!(hex(&**key), vector.expected(name), "{} {name}", vector.name);
        }
        let headers = [
            ("Host", vector.header("host").unwrap()),
            ("Content-Type", content_type),
        ];
        let signed = tc3::sign(&request, &headers, &vector.input.secret_id, &vector.key()).unwrap();
        assert_eq!(signed, vector.expected("authorization"), "{}", vector.name);
    }
}

fn verify(
    vector: &Vector,
    request: &tc3::Request<'_>,
    authorization: &str,
    key: &Secret,
) -> Result<(), Mismatch> {
    let authorization = tc3::Authorization::parse(authorization)?;
    tc3::verify(&authorization, request, |name| vector.header(name), key)
}

#[test]
fn tc3_verifies_each_recorded_request_and_no_other_signature() {
    for vector in vectors(true) {
        let body = vector.body();
        let request = vector.request(&body);
        let header = vector.header("authorization").unwrap().to_owned();
        let key = vector.key();
        assert_eq!(
            verify(&vector, &request, &header, &key),
            Ok(()),
            "{}",
            vector.name
        );

        for at in header.len() - 64..header.len() {
            let mut flipped = header.clone().into_bytes();
            flipped[at] = if flipped[at] == b'0' { b'1' } else { b'0' };
            let flipped = String::from_utf8(flipped).unwrap();
            assert_eq!(
                verify(&vector, &request, &flipped, &key),
                Err(Mismatch::Signature)
            );
        }
    }
}

#[test]
fn tc3_refuses_each_recorded_request_when_what_was_signed_changed() {
    for vector in vectors(true) {
        let body = vector.body();
        let request = vector.request(&body);
        let header = vector.header("authorization").unwrap().to_owned();
        let key = vector.key();
        let query = format!("{}&Limit=11", request.query);
        let other = |request: tc3::Request<'_>| verify(&vector, &request, &header, &key);
        assert_eq!(
            other(tc3::Request {
                payload: b"{}{}",
                ..request
            }),
            Err(Mismatch::Signature)
        );
        assert_eq!(
            other(tc3::Request {
                query: &query,
                ..request
            }),
            Err(Mismatch::Signature)
        );
        assert_eq!(
            other(tc3::Request {
                method: "PUT",
                ..request
            }),
            Err(Mismatch::Signature)
        );
        assert_eq!(
            other(tc3::Request {
                service: "cbs",
                ..request
            }),
            Err(Mismatch::Service)
        );
        assert_eq!(
            other(tc3::Request {
                timestamp: request.timestamp + 86_400,
                ..request
            }),
            Err(Mismatch::Date)
        );
        assert_eq!(
            other(tc3::Request {
                timestamp: i64::MAX,
                ..request
            }),
            Err(Mismatch::Date)
        );
        assert_eq!(
            verify(&vector, &request, &header, &Secret::new("no")),
            Err(Mismatch::Signature)
        );
        for unsigned in [
            "SignedHeaders=host",
            "SignedHeaders=content-type",
            "SignedHeaders=content-type;host;x-none",
        ] {
            let header = header.replace("SignedHeaders=content-type;host", unsigned);
            assert_eq!(
                verify(&vector, &request, &header, &key),
                Err(Mismatch::SignedHeaders),
                "{unsigned}"
            );
        }
    }
}

#[test]
fn tc3_takes_header_values_signed_as_sent_and_spaces_after_commas() {
    let headers = [("content-type", "application/json"), ("host", "Csm.Example.ORG")];
    let key = Secret::new("key");
    let request = tc3::Request {
        method: "POST",
        query: "",
        payload: b"{}",
        timestamp: 1_700_000_000,
        service: "csm",
    };
    let as_sent: Vec<(String, &str)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    let canonical = tc3::canonical_request(&request, &as_sent, tc3::HeaderCase::AsSent);
    let to_sign = tc3::string_to_sign(&request, "2023-11-14", &canonical);
    let [_, _, signing] = tc3::derived_keys(&key, "2023-11-14", "csm");
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &*signing),
        to_sign.as_bytes(),
    );
    let header = format!(
        "TC3-HMAC-SHA256 Credential=AK/2023-11-14/csm/tc3_request,SignedHeaders=content-type;host,   Signature={}",
        hex(tag.as_ref())
    );
    let authorization = tc3::Authorization::parse(&header).unwrap();
    let find = |name: &str| {
        headers
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    };
    assert_eq!(tc3::verify(&authorization, &request, find, &key), Ok(()));
}

#[test]
fn malformed_authorization_headers_are_told_apart() {
    let scope = "Credential=AK/2023-11-14/csm/tc3_request";
    let signature = "0".repeat(64);
    for header in [
        String::new(),
        "TC3-HMAC-SHA256".to_owned(),
        format!("TC3-HMAC-SHA256 {scope}, SignedHeaders=host"),
        format!(
            "TC3-HMAC-SHA256 {scope}, SignedHeaders=host, Signature={}",
            &signature[1..]
        ),
        format!(
            "TC3-HMAC-SHA256 {scope}, SignedHeaders=host, Signature={}",
            "Z".repeat(64)
        ),
        format!("TC3-HMAC-SHA256 {scope}, {scope}, SignedHeaders=host, Signature={signature}"),
        format!("TC3-HMAC-SHA256 Credential=AK/csm, SignedHeaders=host, Signature={signature}"),
        format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature={signature}"),
    ] {
        assert_eq!(
            tc3::Authorization::parse(&header),
            Err(Mismatch::Malformed),
            "{header}"
        );
    }
}

#[test]
fn v1_gives_and_verifies_each_recorded_signature_and_no_mutation_of_it() {
    for vector in vectors(false) {
        let parameters = vector.parameters();
        let named = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let method = v1::method_from_parameter(named("SignatureMethod"));
        assert_eq!(method.name(), vector.sign_method);
        let host = vector.header("host").unwrap();
        assert_eq!(host, vector.input.endpoint_host_header);
        let (http, key) = (vector.wire.method.as_str(), vector.key());
        assert_eq!(
            v1::string_to_sign(http, host, &parameters),
            vector.expected("string_to_sign"),
            "{}",
            vector.name
        );
        assert_eq!(
            v1::sign(method, http, host, &parameters, &key),
            vector.expected("signature")
        );
        assert_eq!(named("Signature"), Some(vector.expected("signature")));
        assert_eq!(v1::verify(method, http, host, &parameters, &key), Ok(()));

        let refused = Err(Mismatch::Signature);
        assert_eq!(v1::verify(method, "PUT", host, &parameters, &key), refused);
        assert_eq!(v1::verify(method, http, "other", &parameters, &key), refused);
        assert_eq!(
            v1::verify(method, http, host, &parameters, &Secret::new("no")),
            refused
        );
        for at in 0..parameters.len() {
            let mut changed = parameters.clone();
            changed[at].1.push('0');
            assert!(
                v1::verify(method, http, host, &changed, &key).is_err(),
                "{}",
                changed[at].0
            );
        }
        let mut more = parameters.clone();
        more.push(("Limit".into(), "50".into()));
        assert_eq!(v1::verify(method, http, host, &more, &key), refused);
    }
}

#[test]
fn v1_takes_a_signature_that_leaves_empty_parameters_out() {
    let key = Secret::new("key");
    let mut parameters = vec![("Action".to_owned(), "DescribeRegions".to_owned())];
    let signature = v1::sign(SignMethod::HmacSha256, "GET", "localhost", &parameters, &key);
    parameters.push(("Region".to_owned(), String::new()));
    parameters.push(("Signature".to_owned(), signature));
    assert_eq!(
        v1::verify(SignMethod::HmacSha256, "GET", "localhost", &parameters, &key),
        Ok(())
    );
}

#[test]
fn the_references_worked_example_comes_from_its_unmasked_inputs() {
    let example = &file().reference_vectors[0];
    let text = example["string_to_sign"].as_str().unwrap();
    let (start, pairs) = text.split_once("/?").unwrap();
    let parameters: Vec<(String, String)> = pairs
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let key = Secret::new(example["true_inputs"]["secret_key"].as_str().unwrap());
    let host = start.strip_prefix("GET").unwrap();
    let signature = v1::sign(SignMethod::HmacSha1, "GET", host, &parameters, &key);
    assert_eq!(signature, example["signature"].as_str().unwrap());
}

#[test]
fn skew_is_symmetric_and_never_overflows() {
    assert_eq!(skew_seconds(1_000, 1_300), 300);
    assert_eq!(skew_seconds(1_301, 1_000), 301);
    assert_eq!(skew_seconds(i64::MIN, i64::MAX), u64::MAX);
}

proptest! {
    #[test]
    fn any_text_is_an_authorization_or_malformed(text in "(TC3-HMAC-SHA256 )?[ -~]{0,120}") {
        let _ = tc3::Authorization::parse(&text);
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else(
        query in "[ -~]{0,40}", body in vec(any::<u8>(), 0..64), key in ".{0,40}", seconds in 0_i64..253_402_300_799,
        other in vec(any::<u8>(), 0..64),
    ) {
        let key = Secret::new(key);
        let headers = [("content-type", "application/json"), ("host", "127.0.0.1:8443")];
        let request =
            tc3::Request { method: "POST", query: &query, payload: &body, timestamp: seconds, service: "csm" };
        let signed = tc3::sign(&request, &headers, "AKID", &key).unwrap();
        let authorization = tc3::Authorization::parse(&signed).unwrap();
        let find = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        prop_assert_eq!(tc3::verify(&authorization, &request, find, &key), Ok(()));
        let changed = tc3::verify(&authorization, &tc3::Request { payload: &other, ..request }, find, &key);
        prop_assert_eq!(changed.is_ok(), other == body);
    }
}
