//! The client against a real server, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod plane;
mod proxied;
mod repeated;
mod secured;

use csm::client::{Config, Kind};
use csm::dns::Resolver;
use csm::signing::SignMethod;
use csm::types::{CreateMigrationJob, DescribeInstances, DescribeMigrationJobs, Filter, ModifySourceServer};
use csm::{Client, Credential};

use plane::{Plane, SECRET_ID, SECRET_KEY, failure, status, success};

/// Settings for a server of these tests.
pub(crate) fn config(endpoint: &str) -> Config {
    Config::new(
        endpoint.parse().unwrap(),
        "local-1",
        Credential::new(SECRET_ID, SECRET_KEY),
    )
}

pub(crate) fn client(plane: &Plane) -> Client {
    Client::new(config(&format!("http://{}", plane.address))).unwrap()
}

pub(crate) fn listing() -> DescribeMigrationJobs {
    let filter = Filter {
        name: "status".into(),
        values: vec!["RUNNING".into(), "迁移 &=+".into()],
    };
    DescribeMigrationJobs {
        limit: Some(5),
        filters: vec![filter],
        ..Default::default()
    }
}

#[tokio::test]
async fn each_way_to_sign_is_verified_and_the_answer_is_read() {
    let jobs = r#""TotalCount":1,"MigrationJobs":[{"JobId":"migrate-1","Progress":1.5,"Novelty":{"x":1}}],"Extra":null"#;
    let plane = Plane::http("127.0.0.1:0", move |_, _| success(jobs)).await;
    for sign_method in [SignMethod::Tc3, SignMethod::HmacSha1, SignMethod::HmacSha256] {
        let client = Client::new(Config {
            sign_method,
            ..client(&plane).config().clone()
        })
        .unwrap();
        let answer = client.call(&listing()).await.unwrap();
        assert_eq!(answer.migration_jobs[0].job_id.as_deref(), Some("migrate-1"));
        assert_eq!(
            (answer.total_count, answer.migration_jobs[0].progress),
            (1, Some(1.5))
        );
    }
    for request in plane.received() {
        request.verify("csm");
        assert_eq!((request.method.as_str(), request.uri.as_str()), ("POST", "/"));
        if request.header("content-type") == Some("application/json") {
            let sent: DescribeMigrationJobs = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(sent, listing());
        } else {
            let mut parameters = request.form();
            parameters.retain(|(name, _)| !csm::signing::v1::COMMON_PARAMETERS.contains(&name.as_str()));
            assert_eq!(
                parameters,
                csm::form::flatten(&serde_json::to_value(listing()).unwrap())
            );
        }
    }
    assert_eq!(plane.received().len(), 3);
}

#[tokio::test]
async fn the_token_of_a_temporary_key_is_sent_and_keys_can_be_exchanged() {
    let plane = Plane::http("127.0.0.1:0", |_, _| success("")).await;
    let client = client(&plane);
    client.set_credential(Credential::temporary(SECRET_ID, SECRET_KEY, "the-token"));
    client
        .call(&ModifySourceServer {
            source_server_id: "s".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let by_form = Client::new(Config {
        sign_method: SignMethod::HmacSha256,
        ..client.config().clone()
    })
    .unwrap();
    by_form.set_credential(Credential::temporary(SECRET_ID, SECRET_KEY, "the-token"));
    by_form
        .call(&ModifySourceServer {
            source_server_id: "s".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let received = plane.received();
    received.iter().for_each(|request| request.verify("csm"));
    assert_eq!(received[0].header("x-tc-token"), Some("the-token"));
    assert!(received[1].form().contains(&("Token".into(), "the-token".into())));
}

#[tokio::test]
async fn an_enrolment_code_becomes_a_temporary_key_that_signs_from_then_on() {
    let plane = Plane::http("127.0.0.1:0", |number, _| match number {
        0 => success(&format!(
            r#""TmpSecretId":"{SECRET_ID}","TmpSecretKey":"{SECRET_KEY}","Token":"the-token","ExpiredTime":"2026-01-31T00:00:00Z""#
        )),
        1 => success(""),
        _ => failure("AuthFailure.TokenFailure"),
    })
    .await;
    let client = client(&plane);
    client.set_credential(Credential::default());
    let enrolment = client.enrol(&"g2c-code".into()).await.unwrap();
    assert_eq!(enrolment.expired_time, "2026-01-31T00:00:00Z");
    client.call(&listing()).await.unwrap();
    let received = plane.received();
    assert_eq!(
        (received[0].method.as_str(), received[0].uri.as_str()),
        ("POST", "/enrol")
    );
    assert_eq!(received[0].body, br#"{"Code":"g2c-code"}"#);
    received[1].verify("csm");
    assert_eq!(received[1].header("x-tc-token"), Some("the-token"));
    let error = client.enrol(&"g2c-code".into()).await.unwrap_err();
    assert_eq!((error.kind(), plane.received().len()), (Kind::Authentication, 3));
    assert!(!format!("{error:?}{error}{enrolment:?}").contains("g2c-code"));
}

#[tokio::test]
async fn a_domain_gets_the_service_as_prefix_in_address_host_and_signature() {
    let plane = Plane::http("127.83.17.10:80", |_, _| success("")).await;
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.83.17.10 csm.plane.test cvm.plane.test\n").unwrap();
    let resolver = Resolver::with_files(hosts, "/nonexistent");
    let client = Client::new(Config {
        resolver,
        ..config("http://plane.test")
    })
    .unwrap();
    client.call(&listing()).await.unwrap();
    client.call(&DescribeInstances::default()).await.unwrap();
    let received = plane.received();
    for (request, service) in received.iter().zip(["csm", "cvm"]) {
        assert_eq!(request.header("host").unwrap(), format!("{service}.plane.test"));
        request.verify(service);
    }
    assert_eq!(received.len(), 2);
}

#[tokio::test]
async fn ipv6_addresses_are_reached() {
    let plane = Plane::http("[::1]:0", |_, _| success("")).await;
    client(&plane).call(&listing()).await.unwrap();
    plane.received()[0].verify("csm");
}

#[tokio::test]
async fn a_refused_request_is_sent_once_and_names_code_request_id_and_remedy() {
    let plane = Plane::http("127.0.0.1:0", |_, _| failure("FailedOperation.JobIdNotExist")).await;
    let error = client(&plane).call(&listing()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (Kind::Refused, Some("FailedOperation.JobIdNotExist"))
    );
    assert_eq!(error.request_id(), Some("id-of-the-test"));
    assert!(!error.is_transient());
    assert_eq!(plane.received().len(), 1);
}

#[tokio::test]
async fn what_is_not_the_api_is_called_so_and_redirects_are_not_followed() {
    let plane = Plane::http("127.0.0.1:0", |_, _| status(200, "<html>It works!</html>")).await;
    let error = client(&plane).call(&listing()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotTheApi);
    let target = plane.address;
    let redirecting = Plane::http("127.0.0.1:0", move |_, _| {
        let mut answer = status(302, "");
        answer
            .headers_mut()
            .insert("location", format!("http://{target}/").parse().unwrap());
        answer
    })
    .await;
    let error = client(&redirecting).call(&listing()).await.unwrap_err();
    assert!(
        error.kind() == Kind::NotTheApi && error.to_string().contains("302"),
        "{error}"
    );
    assert_eq!(plane.received().len(), 1);
}

#[tokio::test]
async fn secrets_are_in_no_debug_text_and_no_error() {
    let plane = Plane::http("127.0.0.1:0", |_, _| failure("AuthFailure.TokenFailure")).await;
    let mut config = config(&format!("http://{}", plane.address));
    config.credential = Credential::temporary(SECRET_ID, SECRET_KEY, "the-token");
    config.proxy = Some(csm::client::Proxy {
        host: plane.address.ip().to_string(),
        port: plane.address.port(),
        user: Some("me".into()),
        password: "the-password".into(),
    });
    let client = Client::new(config).unwrap();
    let request = CreateMigrationJob::default();
    let error = client.call(&request).await.unwrap_err();
    let bad = Client::new(Config {
        credential: Credential::temporary(SECRET_ID, SECRET_KEY, "the-token\n"),
        ..client.config().clone()
    })
    .unwrap();
    let unsendable = bad.call(&request).await.unwrap_err();
    assert_eq!(unsendable.kind(), Kind::Configuration);
    let text = format!("{client:?} {error:?} {error} {unsendable:?} {unsendable}");
    for secret in [SECRET_KEY, "the-token", "the-password"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
