//! TLS 1.3 over blocking TCP sockets, one direction each.
//!
//! Certificates carry no trust here: the receiver makes one for itself at every start, the source accepts any, and
//! [`super::auth`] then proves, bound to this very TLS session, that the peer knows the migration's secret. The
//! handshake signature is still verified, because the channel binding is only as good as the handshake.
//!
//! All cryptography is rustls's. Its two faces are used where each is cheaper: the source, which sends nearly
//! everything, by the buffered one (`client`); the target, which receives it, by the unbuffered one (`server`), which
//! decrypts where the network has put the bytes.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};

use crate::error::{Error, Kind, Result};
use crate::throttle::Throttle;

mod binding;
mod client;
mod config;
mod server;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{client_config, server_config};
pub use writer::{Strain, TlsWriter};

/// A peer that stays silent for so long is lost. Both sides send at least every [`KEEP_ALIVE`].
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause after which a side with nothing to say sends an empty message: six chances before [`SILENCE_MAX`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A handshake must be through after this time: nobody occupies a place by staying silent.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// One side of a TLS session: its state and its memory. The socket stays with whoever knows its time limits.
trait Session: Send {
    /// Shakes hands; the time limits of `socket` bound every read and write.
    fn shake_hands(&mut self, socket: &TcpStream) -> std::io::Result<()>;

    /// Keying material that only the two ends of this session have.
    fn channel_binding(&self) -> std::result::Result<[u8; 32], rustls::Error>;

    /// Reads something into `buffer`, which is not empty; 0 after the peer's orderly end.
    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> Result<usize>;

    /// Encrypts `plain`, to be sent by [`Session::flush`].
    fn seal(&mut self, plain: &[u8]) -> std::io::Result<()>;

    /// The orderly end, to be sent by [`Session::flush`].
    fn seal_end(&mut self) -> std::io::Result<()>;

    /// Sends all that is encrypted; returns how many bytes that were.
    fn flush(&mut self, socket: &mut dyn Write) -> std::io::Result<usize>;
}

/// A connection whose TLS handshake is through; still both directions, for the authentication.
pub struct TlsStream {
    session: Box<dyn Session>,
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
        let session = client::Client::new(config, address.ip())
            .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
        Self::handshake(socket, Box::new(session), patience)
    }

    /// Shakes hands on an accepted socket.
    ///
    /// # Errors
    /// The peer does not speak TLS 1.3, or is too slow.
    pub fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        let session = server::Server::new(&config)
            .map_err(|error| Error::new(Kind::Medium, "set up TLS").because(error))?;
        Self::handshake(socket, Box::new(session), HANDSHAKE_MAX)
    }

    fn handshake(socket: TcpStream, mut session: Box<dyn Session>, patience: Duration) -> Result<Self> {
        let tuned = socket.set_nodelay(true).and_then(|()| {
            socket.set_read_timeout(Some(patience))?;
            socket.set_write_timeout(Some(patience))
        });
        tuned.map_err(|error| lost("set up the connection", error))?;
        session
            .shake_hands(&socket)
            .map_err(|error| lost("agree on TLS 1.3 with the peer", error))?;
        Ok(Self { session, socket })
    }

    /// Keying material of this very session (RFC 9266 channel binding): equal at both ends, unknown to anybody between.
    ///
    /// # Errors
    /// Never after a handshake.
    pub fn exporter(&self) -> Result<[u8; 32]> {
        self.session
            .channel_binding()
            .map_err(|error| Error::new(Kind::Medium, "derive the channel binding").because(error))
    }

    /// Writes and flushes `bytes` (authentication only; data goes through [`TlsWriter`]).
    ///
    /// # Errors
    /// The connection is lost.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let sealed = self.session.seal(bytes);
        let sent = sealed.and_then(|()| self.session.flush(&mut self.socket));
        sent.map(drop).map_err(|error| lost("send to the peer", error))
    }

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// The connection is lost, or the peer ended.
    pub fn hear(&mut self, buffer: &mut [u8]) -> Result<()> {
        if read_full(self.session.as_mut(), &self.socket, buffer)? == buffer.len() {
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
        Ok(TlsWriter::new(self.session, self.socket, throttle))
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
            session: self.session,
            socket: self.socket,
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

/// The receiving direction of a connection.
pub struct TlsReader {
    session: Box<dyn Session>,
    socket: TcpStream,
}

impl TlsReader {
    /// Fills `buffer`; `false` when the peer ended in an orderly way before its first byte.
    ///
    /// # Errors
    /// The connection was cut, timed out, or ended in the middle.
    pub fn read_exact_or_end(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match read_full(self.session.as_mut(), &self.socket, buffer)? {
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
fn read_full(session: &mut dyn Session, socket: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match session.read(socket, &mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Lets `receive` take what has come; a cut is an error.
fn receive(receive: impl FnMut() -> std::io::Result<usize>) -> Result<()> {
    match uninterrupted(receive) {
        Ok(0) => Err(Error::new(
            Kind::Retry,
            "receive from the peer: the connection was cut",
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(lost("receive from the peer", error)),
    }
}

/// A socket with a time limit is interrupted when the process is stopped and goes on.
fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

fn damaged(error: rustls::Error) -> Error {
    Error::new(
        Kind::Retry,
        "decrypt what the peer sent: it was changed or damaged on the way",
    )
    .because(error)
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
