//! The sending direction: as fast as the throttle allows, and what that cost.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::link::tls::{Session, lost};
use crate::throttle::Throttle;

/// Plain bytes handed to TLS at a time: four records of 16 KiB, so that the throttle paces smoothly.
const SLICE_LEN: usize = 64 * 1024;

/// The sending direction of a connection.
pub struct TlsWriter {
    session: Box<dyn Session>,
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
    pub(super) fn new(session: Box<dyn Session>, socket: TcpStream, throttle: Option<Arc<Throttle>>) -> Self {
        Self {
            session,
            socket,
            throttle,
            wire_bytes: 0,
            held_up: Duration::ZERO,
            throttled: Duration::ZERO,
            blocked: Duration::ZERO,
            asked: Instant::now(),
        }
    }

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
            self.session
                .seal(slice)
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
        let mut paced = Paced {
            socket: &mut self.socket,
            throttle: self.throttle.as_deref(),
            throttled: &mut self.throttled,
            blocked: &mut self.blocked,
        };
        let sent = self.session.flush(&mut paced);
        self.wire_bytes += sent.map_err(|error| lost("send to the peer", error))? as u64;
        Ok(())
    }

    /// Sends the orderly end and closes this direction.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn finish(&mut self) -> Result<()> {
        self.session
            .seal_end()
            .map_err(|error| lost("end the connection", error))?;
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
