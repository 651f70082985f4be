//! TLS 1.3 over blocking TCP sockets, one direction each.
//!
//! Certificates carry no trust here: the receiver makes one for itself at every start, the source accepts any, and
//! [`super::auth`] then proves, bound to this very TLS session, that the peer knows the migration's secret. The
//! handshake signature is still verified, because the channel binding is only as good as the handshake.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::error::{Error, Kind, Result};
use crate::throttle::Throttle;

/// A peer that stays silent for so long is lost. Both sides send at least every [`KEEP_ALIVE`].
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause after which a side with nothing to say sends an empty message: six chances before [`SILENCE_MAX`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A handshake must be through after this time: nobody occupies a place by staying silent.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(15);
/// Plain bytes handed to TLS at a time: four records of 16 KiB, so that the throttle paces smoothly.
const SLICE_LEN: usize = 64 * 1024;

/// Bytes received at a time.
const RECEIVE_LEN: usize = 128 * 1024;

/// Makes the receiver's TLS side: a certificate of its own, TLS 1.3 only.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn server_config() -> Result<Arc<ServerConfig>> {
    let failed = |error: rcgen::Error| Error::new(Kind::Medium, "make a TLS certificate").because(error);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = rcgen::CertificateParams::new(vec!["go2cloud".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Makes the source's TLS side.
///
/// # Errors
/// Never with the built-in cryptography.
pub fn client_config() -> Result<Arc<ClientConfig>> {
    let mut provider = ring::default_provider();
    // The server follows the client's order. Without AES instructions ChaCha20 is several times faster.
    let fast_aes = std::arch::is_x86_feature_detected!("aes");
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => u8::from(!fast_aes),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => u8::from(fast_aes),
        _ => 2,
    });
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Accepts any certificate whose key really signed the handshake; who the peer is, the secret proves.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection whose TLS handshake is through; still both directions, for the authentication.
pub struct TlsStream {
    connection: Connection,
    socket: TcpStream,
}

impl TlsStream {
    /// Connects to `address` and shakes hands.
    ///
    /// # Errors
    /// Nobody answers there ([`Kind::Retry`]), or whoever answers does not speak TLS 1.3.
    pub fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Self> {
        let socket = TcpStream::connect_timeout(&address, HANDSHAKE_MAX).map_err(|error| {
            Error::new(Kind::Retry, format!("connect to the target at {address}"))
                .remedy("check that go2cloud-receiver runs there and that the port is open")
                .because(error)
        })?;
        Self::over(socket, address, config, HANDSHAKE_MAX)
    }

    /// Shakes hands over a socket that is connected to `address`; no read and no write then waits longer than `patience`.
    ///
    /// # Errors
    /// Whoever answers is too slow, or does not speak TLS 1.3.
    pub fn over(
        socket: TcpStream,
        address: SocketAddr,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> Result<Self> {
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(config, name)
            .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
        Self::handshake(socket, Connection::Client(connection), patience)
    }

    /// Shakes hands on an accepted socket.
    ///
    /// # Errors
    /// The peer does not speak TLS 1.3, or is too slow.
    pub fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        let connection = ServerConnection::new(config)
            .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
        Self::handshake(socket, Connection::Server(connection), HANDSHAKE_MAX)
    }

    fn handshake(mut socket: TcpStream, mut connection: Connection, patience: Duration) -> Result<Self> {
        let tuned = socket.set_nodelay(true).and_then(|()| {
            socket.set_read_timeout(Some(patience))?;
            socket.set_write_timeout(Some(patience))
        });
        tuned.map_err(|error| lost("set up the connection", error))?;
        connection.set_buffer_limit(None);
        while connection.is_handshaking() {
            connection
                .complete_io(&mut socket)
                .map_err(|error| lost("agree on TLS 1.3 with the peer", error))?;
        }
        Ok(Self { connection, socket })
    }

    /// Keying material of this very session (RFC 9266 channel binding): equal at both ends, unknown to anybody between.
    ///
    /// # Errors
    /// Never after a handshake.
    pub fn exporter(&self) -> Result<[u8; 32]> {
        self.connection
            .export_keying_material([0u8; 32], b"EXPORTER-Channel-Binding", None)
            .map_err(|error| Error::new(Kind::Medium, "derive the channel binding").because(error))
    }

    /// Writes and flushes `bytes` (authentication only; data goes through [`TlsWriter`]).
    ///
    /// # Errors
    /// The connection is lost.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.connection.writer().write_all(bytes).and_then(|()| {
            while self.connection.wants_write() {
                self.connection.write_tls(&mut self.socket)?;
            }
            Ok(())
        });
        written.map_err(|error| lost("send to the peer", error))
    }

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// The connection is lost, or the peer ended.
    pub fn hear(&mut self, buffer: &mut [u8]) -> Result<()> {
        if read_full(&mut self.connection, &mut self.socket, buffer)? == buffer.len() {
            Ok(())
        } else {
            Err(Error::new(
                Kind::Retry,
                "hear from the peer: it closed the connection",
            ))
        }
    }

    /// The largest packet that the kernel sends on this connection, in bytes, if it tells.
    pub fn path_mtu(&self) -> Option<u32> {
        sys::tcp_info::path_mtu(self.socket.as_fd())
    }

    /// Keeps the sending direction.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn into_writer(self, throttle: Option<Arc<Throttle>>) -> Result<TlsWriter> {
        // A slow target holds writers up; whether it lives, its reports tell.
        self.socket
            .set_write_timeout(None)
            .map_err(|error| lost("set up the connection", error))?;
        Ok(TlsWriter {
            connection: self.connection,
            socket: self.socket,
            throttle,
            wire_bytes: 0,
            held_up: Duration::ZERO,
            throttled: Duration::ZERO,
            blocked: Duration::ZERO,
            asked: Instant::now(),
        })
    }

    /// Keeps the receiving direction. A connection that carries signs of life bounds its peer's silence; on the others
    /// nothing may come for long.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn into_reader(self, silence_max: Option<Duration>) -> Result<TlsReader> {
        let set = self.socket.set_read_timeout(silence_max);
        set.map_err(|error| lost("set up the connection", error))?;
        Ok(TlsReader {
            connection: self.connection,
            socket: BufReader::with_capacity(RECEIVE_LEN, self.socket),
        })
    }

    /// A second handle of the socket, to end the connection from another thread.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn breaker(&self) -> Result<Breaker> {
        self.socket
            .try_clone()
            .map(Breaker)
            .map_err(|error| lost("set up the connection", error))
    }
}

/// Ends a connection from outside: whoever reads or writes it then gets an error at once.
#[derive(Debug)]
pub struct Breaker(TcpStream);

impl Breaker {
    /// Another handle of the same connection.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        self.0
            .try_clone()
            .map(Self)
            .map_err(|error| lost("set up the connection", error))
    }

    /// Ends the connection.
    pub fn break_off(&self) {
        // Already closed is what we want.
        drop(self.0.shutdown(Shutdown::Both));
    }
}

/// The sending direction of a connection.
pub struct TlsWriter {
    connection: Connection,
    socket: TcpStream,
    throttle: Option<Arc<Throttle>>,
    wire_bytes: u64,
    /// By the throttle and the network, up to the last look at them.
    held_up: Duration,
    /// For how long the throttle has paused, in all.
    throttled: Duration,
    /// For how long the socket took nothing, in all.
    blocked: Duration,
    /// The last look.
    asked: Instant,
}

/// What a connection's link cost its sender over some time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strain {
    /// For how long data waited for the network or the throttle; not: for the peer, or for the sender itself.
    pub held_up: Duration,
    /// All the time.
    pub elapsed: Duration,
}

impl TlsWriter {
    /// Bytes sent so far, as the network sees them (TLS included, TCP and IP headers not).
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// What the link has cost since the last question. Where the kernel does not tell network and peer apart, both count.
    pub fn strain(&mut self) -> Strain {
        let network = sys::tcp_info::network_limited(self.socket.as_fd());
        let held_up = self.throttled + network.unwrap_or(self.blocked);
        let strain = Strain {
            held_up: held_up.saturating_sub(self.held_up),
            elapsed: self.asked.elapsed(),
        };
        (self.held_up, self.asked) = (held_up, Instant::now());
        strain
    }

    /// Encrypts and sends `bytes`, as slowly as the throttle asks.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for slice in bytes.chunks(SLICE_LEN) {
            self.connection
                .writer()
                .write_all(slice)
                .map_err(|error| lost("send to the peer", error))?;
            if slice.len() == SLICE_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Sends what is buffered.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self) -> Result<()> {
        while self.connection.wants_write() {
            let mut paced = Paced {
                socket: &mut self.socket,
                throttle: self.throttle.as_deref(),
                throttled: &mut self.throttled,
                blocked: &mut self.blocked,
            };
            match self.connection.write_tls(&mut paced) {
                Ok(count) => self.wire_bytes += count as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost("send to the peer", error)),
            }
        }
        Ok(())
    }

    /// Sends the orderly end and closes this direction.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn finish(&mut self) -> Result<()> {
        self.connection.send_close_notify();
        self.flush()?;
        self.socket
            .shutdown(Shutdown::Write)
            .map_err(|error| lost("end the connection", error))
    }
}

/// The socket behind the throttle.
struct Paced<'a> {
    socket: &'a mut TcpStream,
    throttle: Option<&'a Throttle>,
    throttled: &'a mut Duration,
    blocked: &'a mut Duration,
}

impl Paced<'_> {
    fn pace(&mut self, count: usize) {
        if let Some(throttle) = self.throttle {
            let begin = Instant::now();
            throttle.take(count);
            *self.throttled += begin.elapsed();
        }
    }

    fn clocked<T>(&mut self, write: impl FnOnce(&mut TcpStream) -> std::io::Result<T>) -> std::io::Result<T> {
        let begin = Instant::now();
        let answer = write(self.socket);
        *self.blocked += begin.elapsed();
        answer
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pace(bytes.len());
        self.clocked(|socket| socket.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        if self.throttle.is_none() {
            return self.clocked(|socket| socket.write_vectored(slices));
        }
        self.pace(slices.iter().map(|slice| slice.len()).sum());
        let mut count = 0;
        for slice in slices {
            self.clocked(|socket| socket.write_all(slice))?;
            count += slice.len();
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The receiving direction of a connection.
pub struct TlsReader {
    connection: Connection,
    /// Buffered: TLS itself asks for 4 KiB at a time.
    socket: BufReader<TcpStream>,
}

impl TlsReader {
    /// Fills `buffer`; `false` when the peer ended in an orderly way before its first byte.
    ///
    /// # Errors
    /// The connection was cut, timed out, or ended in the middle.
    pub fn read_exact_or_end(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match read_full(&mut self.connection, &mut self.socket, buffer)? {
            0 => Ok(false),
            count if count == buffer.len() => Ok(true),
            _ => Err(Error::new(
                Kind::Retry,
                "receive from the peer: it ended in the middle of a frame",
            )),
        }
    }
}

/// Reads until `buffer` is full or the peer says the orderly end; a cut without it is an error.
fn read_full(connection: &mut Connection, socket: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match connection.reader().read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match connection.read_tls(socket) {
                    Ok(0) => {
                        return Err(Error::new(
                            Kind::Retry,
                            "receive from the peer: the connection was cut",
                        ));
                    }
                    Ok(_) => {}
                    // A socket with a time limit is interrupted when the process is stopped and goes on.
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(lost("receive from the peer", error)),
                }
                connection.process_new_packets().map_err(|error| {
                    Error::new(
                        Kind::Retry,
                        "decrypt what the peer sent: it was changed or damaged on the way",
                    )
                    .because(error)
                })?;
            }
            Err(error) => return Err(lost("receive from the peer", error)),
        }
    }
    Ok(filled)
}

fn lost(operation: &str, error: std::io::Error) -> Error {
    let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let error = if silent {
        std::io::Error::other("the peer was silent for too long")
    } else {
        error
    };
    Error::new(Kind::Retry, operation).because(error)
}
