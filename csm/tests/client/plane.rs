//! A control plane for the client's tests: a real HTTP or HTTPS server whose answers a test decides.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response};
use axum::serve::Listener;
use csm::client::Fingerprint;
use csm::envelope::{self, ErrorBody};
use csm::signing::{tc3, v1};
use csm::{Secret, form};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

pub(crate) const SECRET_ID: &str = "AKIDtest";
pub(crate) const SECRET_KEY: &str = "the-secret-key-of-the-tests";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn form(&self) -> Vec<(String, String)> {
        form::decode(&self.body).unwrap()
    }

    pub(crate) fn timestamp(&self) -> i64 {
        let of_form = || {
            self.form()
                .into_iter()
                .find(|(name, _)| name == "Timestamp")
                .unwrap()
                .1
        };
        self.header("x-tc-timestamp")
            .map_or_else(of_form, str::to_owned)
            .parse()
            .unwrap()
    }

    /// Checks the signature as a server does, by either scheme.
    pub(crate) fn verify(&self, service: &str) {
        let key = Secret::new(SECRET_KEY);
        let host = self.header("host").unwrap();
        let Some(authorization) = self.header("authorization") else {
            let parameters = self.form();
            let method = parameters
                .iter()
                .find(|(name, _)| name == "SignatureMethod")
                .map(|(_, value)| &**value);
            let method = v1::method_from_parameter(method);
            return v1::verify(method, &self.method, host, &parameters, &key).unwrap();
        };
        let request = tc3::Request {
            method: &self.method,
            query: self.uri.split_once('?').map_or("", |(_, query)| query),
            payload: &self.body,
            timestamp: self.timestamp(),
            service,
        };
        let authorization = tc3::Authorization::parse(authorization).unwrap();
        assert_eq!(authorization.secret_id, SECRET_ID);
        tc3::verify(&authorization, &request, |name| self.header(name), &key).unwrap();
    }
}

/// What a test lets the server answer: the body, and headers besides the content type.
pub(crate) type Answer = Response<Body>;

pub(crate) fn success(members: &str) -> Answer {
    let separator = if members.is_empty() { "" } else { "," };
    json(format!(
        r#"{{"Response":{{{members}{separator}"RequestId":"id-of-the-test"}}}}"#
    ))
}

pub(crate) fn failure(code: &str) -> Answer {
    let error = ErrorBody {
        code: code.to_owned(),
        message: "A message.".to_owned(),
    };
    json(envelope::failure(&error, "id-of-the-test"))
}

pub(crate) fn status(status: u16, body: &str) -> Answer {
    Response::builder()
        .status(status)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

fn json(body: String) -> Answer {
    Response::builder()
        .header("content-type", envelope::CONTENT_TYPE)
        .body(Body::from(body))
        .unwrap()
}

/// A running server. It ends when dropped.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plane {
    /// Serves plain HTTP. `answer` gets the number of the request, from 0, and the request.
    pub(crate) async fn http(
        listen: &str,
        answer: impl Fn(usize, &Received) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        Self::serve(listener.local_addr().unwrap(), listener, answer)
    }

    /// Serves HTTPS with this certificate.
    pub(crate) async fn https(
        certificate: &Certificate,
        answer: impl Fn(usize, &Received) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(
            address,
            TlsListener {
                listener,
                acceptor: certificate.acceptor(),
            },
            answer,
        )
    }

    fn serve<L>(
        address: SocketAddr,
        listener: L,
        answer: impl Fn(usize, &Received) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self
    where
        L: Listener<Addr = SocketAddr>,
    {
        let received = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&received);
        let app = Router::new().fallback(move |request: Request| async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, 1 << 20).await.unwrap().to_vec();
            let (method, uri) = (head.method.to_string(), head.uri.to_string());
            let request = Received {
                method,
                uri,
                headers: head.headers,
                body,
            };
            let mut list = list.lock().unwrap();
            list.push(request.clone());
            answer(list.len() - 1, &request)
        });
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            received,
            task,
        }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// A self-signed certificate for `127.0.0.1`.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    der: CertificateDer<'static>,
    key: rcgen::KeyPair,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Self {
            pem: made.cert.pem(),
            der: made.cert.der().clone(),
            key: made.signing_key,
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that does not trust the certificate breaks the handshake off.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
