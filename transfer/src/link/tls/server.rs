//! The target's side of a session, by rustls's unbuffered interface: it hears much and says little.
//!
//! Records are decrypted in the memory they were received into, and their content goes straight to the caller's.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use crate::error::Result;
use crate::link::tls::binding::ExporterSecret;
use crate::link::tls::{Session, damaged, receive, uninterrupted};

/// Memory for received records, in bytes: several at a time, and what fits into a processor's own memory.
const INCOMING_LEN: usize = 128 * 1024;
/// With less free memory than this behind what was received, the remainder moves to the front. Larger than a record:
/// so the remainder is a small part of what has been received since the last move.
const INCOMING_FREE_MIN: usize = 32 * 1024;

pub(super) struct Server {
    connection: UnbufferedServerConnection,
    exporter_secret: Arc<ExporterSecret>,
    /// Of [`INCOMING_LEN`]; `begin..end` is received and not yet processed.
    incoming: Vec<u8>,
    begin: usize,
    end: usize,
    /// What records held beyond the caller's buffer; the first `taken` bytes have been handed out since.
    plain: Vec<u8>,
    taken: usize,
    /// Records to be sent.
    outgoing: Vec<u8>,
    /// The peer has said the orderly end.
    ended: bool,
}

/// What is wanted of the session besides its going on.
#[derive(Clone, Copy)]
enum Want<'a> {
    Nothing,
    Seal(&'a [u8]),
    SealEnd,
}

/// How far a turn came.
enum Turn {
    /// So many bytes went into the caller's buffer, perhaps none; there may be more to do.
    Advanced(usize),
    /// What was wanted is in `outgoing`.
    Sealed,
    /// Nothing goes on before the peer is heard.
    Idle,
}

impl Server {
    pub(super) fn new(config: &ServerConfig) -> std::result::Result<Self, rustls::Error> {
        let exporter_secret = Arc::<ExporterSecret>::default();
        let mut config = config.clone();
        config.key_log = exporter_secret.clone();
        Ok(Self {
            connection: UnbufferedServerConnection::new(Arc::new(config))?,
            exporter_secret,
            incoming: vec![0; INCOMING_LEN],
            begin: 0,
            end: 0,
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            ended: false,
        })
    }

    /// One turn of rustls's state machine; what a record holds beyond `buffer` is kept in `plain`. After an error,
    /// `outgoing` holds what the peer should know of it.
    fn turn(&mut self, buffer: &mut [u8], want: Want<'_>) -> std::result::Result<Turn, rustls::Error> {
        let turn = self.attempt(buffer, want);
        if turn.is_err() && self.connection.wants_write() {
            let received = &mut self.incoming[self.begin..self.end];
            if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
                self.connection.process_tls_records(received).state
            {
                append(&mut self.outgoing, |room| {
                    alert.encode(room).map_err(room_for_encoding)
                })?;
            }
        }
        turn
    }

    fn attempt(&mut self, buffer: &mut [u8], want: Want<'_>) -> std::result::Result<Turn, rustls::Error> {
        let received = &mut self.incoming[self.begin..self.end];
        let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(received);
        self.begin += discard;
        let outgoing = &mut self.outgoing;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                let mut filled = 0;
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    self.begin += record.discard;
                    let room = &mut buffer[filled..];
                    let (direct, rest) = record.payload.split_at(room.len().min(record.payload.len()));
                    room[..direct.len()].copy_from_slice(direct);
                    filled += direct.len();
                    self.plain.extend_from_slice(rest);
                }
                Ok(Turn::Advanced(filled))
            }
            ConnectionState::EncodeTlsData(mut record) => {
                append(outgoing, |room| record.encode(room).map_err(room_for_encoding))?;
                Ok(Turn::Advanced(0))
            }
            ConnectionState::TransmitTlsData(records) => {
                // They stay in `outgoing` until somebody flushes it, at the latest before the peer is waited for.
                records.done();
                Ok(Turn::Advanced(0))
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                match want {
                    Want::Nothing => return Ok(Turn::Idle),
                    Want::Seal(plain) => append(outgoing, |room| {
                        traffic.encrypt(plain, room).map_err(room_for_encryption)
                    })?,
                    Want::SealEnd => append(outgoing, |room| {
                        traffic.queue_close_notify(room).map_err(room_for_encryption)
                    })?,
                }
                Ok(Turn::Sealed)
            }
            ConnectionState::BlockedHandshake => Ok(Turn::Idle),
            ConnectionState::PeerClosed => {
                self.ended = true;
                Ok(Turn::Advanced(0))
            }
            ConnectionState::Closed => Ok(Turn::Idle),
            state => Err(rustls::Error::General(format!("unexpected state {state:?}"))),
        }
    }

    /// Says what the session owes the peer, then receives as much as there is, up to the free memory; 0 after a cut.
    fn receive(&mut self, mut socket: &TcpStream) -> std::io::Result<usize> {
        self.flush(&mut socket)?;
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.incoming.len() - self.end < INCOMING_FREE_MIN {
            self.incoming.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.incoming.len() {
            return Err(invalid("its message has no end"));
        }
        let count = socket.read(&mut self.incoming[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// Hands out what is left of earlier records.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let left = &self.plain[self.taken..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
        count
    }

    fn put(&mut self, want: Want<'_>) -> std::io::Result<()> {
        loop {
            match self.turn(&mut [], want).map_err(invalid)? {
                Turn::Sealed => return Ok(()),
                Turn::Advanced(_) => {}
                Turn::Idle => return Err(ErrorKind::NotConnected.into()),
            }
        }
    }
}

impl Session for Server {
    fn shake_hands(&mut self, mut socket: &TcpStream) -> std::io::Result<()> {
        loop {
            match self.turn(&mut [], Want::Nothing) {
                Ok(Turn::Advanced(_) | Turn::Sealed) => {}
                Ok(Turn::Idle) if !self.connection.is_handshaking() => {
                    return self.flush(&mut socket).map(drop);
                }
                Ok(Turn::Idle) => {
                    if uninterrupted(|| self.receive(socket))? == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => {
                    drop(self.flush(&mut socket));
                    return Err(invalid(error));
                }
            }
        }
    }

    fn channel_binding(&self) -> std::result::Result<[u8; 32], rustls::Error> {
        let suite = self.connection.negotiated_cipher_suite();
        suite
            .and_then(|suite| self.exporter_secret.channel_binding(suite))
            .ok_or(rustls::Error::HandshakeNotComplete)
    }

    fn read(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if !self.plain.is_empty() {
                return Ok(self.take(buffer));
            }
            if self.ended {
                return Ok(0);
            }
            match self.turn(buffer, Want::Nothing) {
                Ok(Turn::Advanced(0) | Turn::Sealed) => {}
                Ok(Turn::Advanced(count)) => return Ok(count),
                Ok(Turn::Idle) => receive(|| self.receive(socket))?,
                Err(error) => {
                    drop(self.flush(&mut socket));
                    return Err(damaged(error));
                }
            }
        }
    }

    fn seal(&mut self, plain: &[u8]) -> std::io::Result<()> {
        self.put(Want::Seal(plain))
    }

    fn seal_end(&mut self) -> std::io::Result<()> {
        self.put(Want::SealEnd)
    }

    fn flush(&mut self, socket: &mut dyn Write) -> std::io::Result<usize> {
        let count = self.outgoing.len();
        if count > 0 {
            socket.write_all(&self.outgoing)?;
            self.outgoing.clear();
        }
        Ok(count)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, error)
}

/// Lets `write` append to `outgoing`; when there is too little room, it says how much it needs.
fn append(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> std::result::Result<usize, Option<usize>>,
) -> std::result::Result<(), rustls::Error> {
    let begin = outgoing.len();
    loop {
        match write(&mut outgoing[begin..]) {
            Ok(count) => {
                outgoing.truncate(begin + count);
                return Ok(());
            }
            Err(Some(required)) => outgoing.resize(begin + required, 0),
            Err(None) => return Err(rustls::Error::EncryptError),
        }
    }
}

fn room_for_encoding(error: EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(error) => Some(error.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

fn room_for_encryption(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(error) => Some(error.required_size),
        EncryptError::EncryptExhausted => None,
    }
}
