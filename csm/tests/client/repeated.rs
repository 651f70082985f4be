//! When a request is sent again, and when it must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csm::client::{Config, Kind};
use csm::types::CreateMigrationJob;
use csm::{Action, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::plane::{Plane, failure, status, success};
use crate::{client, config, listing};

async fn requests<A: Action>(
    answer: fn() -> axum::http::Response<axum::body::Body>,
    request: A,
) -> (usize, bool) {
    let plane = Plane::http(
        "127.0.0.1:0",
        move |number, _| if number < 2 { answer() } else { success("") },
    )
    .await;
    let succeeded = client(&plane).call(&request).await.is_ok();
    (plane.received().len(), succeeded)
}

#[tokio::test]
async fn throttled_requests_are_sent_again_even_those_that_create() {
    let throttled = || failure("RequestLimitExceeded");
    let (reading, creating) = tokio::join!(
        requests(throttled, listing()),
        requests(throttled, CreateMigrationJob::default())
    );
    assert_eq!((reading, creating), ((3, true), (3, true)));
}

#[tokio::test]
async fn after_a_server_fault_only_what_may_happen_twice_is_sent_again() {
    for fault in [|| failure("InternalError"), || status(502, "bad gateway")] {
        let (reading, creating) = tokio::join!(
            requests(fault, listing()),
            requests(fault, CreateMigrationJob::default())
        );
        assert_eq!((reading, creating), ((3, true), (1, false)));
    }
}

#[tokio::test]
async fn attempts_end() {
    let plane = Plane::http("127.0.0.1:0", |_, _| failure("RequestLimitExceeded")).await;
    let settings = Config {
        attempts_max: 2,
        ..client(&plane).config().clone()
    };
    let error = Client::new(settings).unwrap().call(&listing()).await.unwrap_err();
    assert_eq!((error.kind(), plane.received().len()), (Kind::Throttled, 2));
}

/// A server that takes each request and breaks the connection in the middle of the answer.
async fn breaking_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"Resp")
                .await;
        }
    });
    (format!("http://{address}"), taken)
}

#[tokio::test]
async fn a_broken_answer_is_asked_for_again_unless_it_would_create_twice() {
    let (endpoint, taken) = breaking_server().await;
    let client = Client::new(Config {
        attempts_max: 2,
        ..config(&endpoint)
    })
    .unwrap();
    let error = client.call(&CreateMigrationJob::default()).await.unwrap_err();
    assert_eq!(
        (error.kind(), taken.load(Ordering::SeqCst)),
        (Kind::Unreachable, 1)
    );
    let error = client.call(&listing()).await.unwrap_err();
    assert_eq!(
        (error.kind(), taken.load(Ordering::SeqCst)),
        (Kind::Unreachable, 3)
    );
}

#[tokio::test]
async fn a_server_that_comes_back_is_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::new(config(&format!("http://{address}"))).unwrap();
    let call = tokio::spawn(async move { client.call(&CreateMigrationJob::default()).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let plane = Plane::http(&address, |_, _| success(r#""JobId":"migrate-1""#)).await;
    assert_eq!(call.await.unwrap().unwrap().job_id, "migrate-1");
    assert_eq!(plane.received().len(), 1);
}

#[tokio::test]
async fn no_two_attempts_are_the_same_request() {
    let plane = Plane::http("127.0.0.1:0", |number, _| match number {
        0..2 => failure("RequestLimitExceeded"),
        _ => success(""),
    })
    .await;
    client(&plane).call(&listing()).await.unwrap();
    let ids: std::collections::BTreeSet<String> = plane
        .received()
        .iter()
        .filter_map(|request| request.header("x-tc-traceid").map(str::to_owned))
        .collect();
    assert_eq!(ids.len(), 3);
}
