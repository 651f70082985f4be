//! Through tinyproxy, a real HTTP proxy that asks for a user and a password.

use std::fmt::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use csm::Client;
use csm::client::{Config, Kind, Proxy, Trust};

use crate::plane::{Certificate, Plane, success};
use crate::{config, listing};

struct Tinyproxy {
    process: Child,
    port: u16,
    log: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tinyproxy {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let log = folder.path().join("log");
        let mut text = format!("Port {port}\nListen 127.0.0.1\nTimeout 20\nMaxClients 20\n");
        writeln!(
            text,
            "BasicAuth someone with-dash.dot_9\nLogLevel Connect\nLogFile \"{}\"",
            log.display()
        )
        .unwrap();
        let file = folder.path().join("tinyproxy.conf");
        std::fs::write(&file, text).unwrap();
        let process = Command::new("tinyproxy")
            .args(["-d", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tinyproxy must be installed (Debian package tinyproxy)");
        let proxy = Self {
            process,
            port,
            log,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpSocket::new_v4()
            .unwrap()
            .connect(([127, 0, 0, 1], port).into())
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "tinyproxy does not listen on {port}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        proxy
    }

    fn settings(&self, password: &str) -> Proxy {
        let user = Some("someone".to_owned());
        Proxy {
            host: "127.0.0.1".into(),
            port: self.port,
            user,
            password: password.into(),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

#[tokio::test]
async fn requests_pass_through_the_proxy_in_the_clear_and_by_connect() {
    let proxy = Tinyproxy::start().await;
    let certificate = Certificate::new();
    let plain = Plane::http("127.0.0.1:0", |_, _| success("")).await;
    let secure = Plane::https(&certificate, |_, _| success("")).await;
    for (plane, scheme, line) in [
        (&plain, "http", "POST http"),
        (&secure, "https", "CONNECT 127.0.0.1:"),
    ] {
        let trust = Trust::Fingerprint(certificate.fingerprint());
        let right = Some(proxy.settings("with-dash.dot_9"));
        let settings = Config {
            proxy: right,
            trust,
            ..config(&format!("{scheme}://{}", plane.address))
        };
        Client::new(settings.clone())
            .unwrap()
            .call(&listing())
            .await
            .unwrap();
        assert!(proxy.log().contains(line), "{}", proxy.log());
        plane.received()[0].verify("csm");
        assert!(plane.received()[0].header("proxy-authorization").is_none());

        let wrong = Some(proxy.settings("wrong"));
        let error = Client::new(Config {
            proxy: wrong,
            ..settings
        })
        .unwrap()
        .call(&listing())
        .await
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Proxy, "{scheme}: {error:?}");
        assert_eq!(plane.received().len(), 1);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named_as_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let plane = Plane::http("127.0.0.1:0", |_, _| success("")).await;
    let proxy = Proxy {
        host: "127.0.0.1".into(),
        port,
        user: None,
        password: "".into(),
    };
    let settings = Config {
        proxy: Some(proxy),
        attempts_max: 1,
        ..config(&format!("http://{}", plane.address))
    };
    let error = Client::new(settings).unwrap().call(&listing()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(plane.received().is_empty());
}
