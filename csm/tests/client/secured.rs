//! TLS, and clocks that differ.

use std::time::{SystemTime, UNIX_EPOCH};

use csm::Client;
use csm::client::{ClockPolicy, Config, Fingerprint, Kind, Trust};

use crate::plane::{Answer, Certificate, Plane, Received, failure, success};
use crate::{config, listing};

async fn https(certificate: &Certificate) -> Plane {
    Plane::https(certificate, |_, _| success("")).await
}

fn trusting(plane: &Plane, trust: Trust) -> Client {
    Client::new(Config {
        trust,
        ..config(&plane.address.to_string())
    })
    .unwrap()
}

#[tokio::test]
async fn a_self_signed_server_needs_its_certificate_or_fingerprint() {
    let certificate = Certificate::new();
    let plane = https(&certificate).await;
    let error = trusting(&plane, Trust::System)
        .call(&listing())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "{error:?}");
    let wrong = Trust::Fingerprint(Fingerprint::of(b"another"));
    assert_eq!(
        trusting(&plane, wrong).call(&listing()).await.unwrap_err().kind(),
        Kind::Tls
    );
    assert!(plane.received().is_empty());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &certificate.pem).unwrap();
    trusting(&plane, Trust::CaFile(file))
        .call(&listing())
        .await
        .unwrap();
    trusting(&plane, Trust::Fingerprint(certificate.fingerprint()))
        .call(&listing())
        .await
        .unwrap();
    plane.received().iter().for_each(|request| request.verify("csm"));
    assert_eq!(plane.received().len(), 2);
}

#[tokio::test]
async fn a_fingerprint_holds_although_the_name_does_not_match() {
    let certificate = Certificate::new();
    let plane = https(&certificate).await;
    let endpoint = format!("localhost:{}", plane.address.port());
    let trust = Trust::Fingerprint(certificate.fingerprint());
    Client::new(Config {
        trust,
        ..config(&endpoint)
    })
    .unwrap()
    .call(&listing())
    .await
    .unwrap();
}

#[tokio::test]
async fn plain_http_where_https_is_expected_is_a_tls_error() {
    let plane = Plane::http("127.0.0.1:0", |_, _| success("")).await;
    let error = trusting(&plane, Trust::System)
        .call(&listing())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "{error:?}");
}

const AHEAD_SECONDS: i64 = 7_265;

/// A server whose clock is two hours ahead: it refuses what is more than five minutes off its own time.
fn ahead(_: usize, request: &Received) -> Answer {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
        + AHEAD_SECONDS;
    let skew = csm::signing::skew_seconds(request.timestamp(), now);
    let mut answer = if skew > csm::signing::SKEW_SECONDS_MAX {
        failure("AuthFailure.SignatureExpire")
    } else {
        success("")
    };
    let date = jiff::Timestamp::from_second(now)
        .unwrap()
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    answer.headers_mut().insert("date", date.parse().unwrap());
    answer
}

#[tokio::test]
async fn a_wrong_clock_is_explained_or_corrected_over_https_when_asked() {
    let certificate = Certificate::new();
    let plane = Plane::https(&certificate, ahead).await;
    let trust = Trust::Fingerprint(certificate.fingerprint());
    let explaining = trusting(&plane, trust.clone());
    let error = explaining.call(&listing()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Clock);
    assert!(
        (AHEAD_SECONDS - 2..=AHEAD_SECONDS + 2).contains(&error.skew().unwrap().0),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("is 2 h 1 min") && error.to_string().contains("behind"),
        "{error}"
    );
    assert_eq!(plane.received().len(), 1);

    let settings = Config {
        clock: ClockPolicy::Correct,
        ..explaining.config().clone()
    };
    let correcting = Client::new(settings).unwrap();
    correcting.call(&listing()).await.unwrap();
    assert_eq!(plane.received().len(), 3);
    correcting.call(&listing()).await.unwrap();
    assert_eq!(plane.received().len(), 4);
}

#[tokio::test]
async fn a_clock_is_never_corrected_in_the_clear() {
    let plane = Plane::http("127.0.0.1:0", ahead).await;
    let settings = Config {
        clock: ClockPolicy::Correct,
        ..config(&format!("http://{}", plane.address))
    };
    let error = Client::new(settings).unwrap().call(&listing()).await.unwrap_err();
    assert_eq!((error.kind(), plane.received().len()), (Kind::Clock, 1));
}
