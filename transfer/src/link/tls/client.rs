//! The source's side of a session, by rustls's buffered interface: it sends much and hears little.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::error::Result;
use crate::link::tls::{Session, binding, damaged, lost, receive, uninterrupted};

pub(super) struct Client(ClientConnection);

impl Client {
    pub(super) fn new(
        config: Arc<ClientConfig>,
        address: IpAddr,
    ) -> std::result::Result<Self, rustls::Error> {
        let mut connection = ClientConnection::new(config, ServerName::IpAddress(address.into()))?;
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }
}

impl Session for Client {
    fn shake_hands(&mut self, mut socket: &TcpStream) -> std::io::Result<()> {
        while self.0.is_handshaking() {
            self.0.complete_io(&mut socket)?;
        }
        Ok(())
    }

    fn channel_binding(&self) -> std::result::Result<[u8; 32], rustls::Error> {
        self.0.export_keying_material([0; 32], binding::LABEL, None)
    }

    fn read(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                answer => return answer.map_err(|error| lost("receive from the peer", error)),
            }
            receive(|| self.0.read_tls(&mut socket))?;
            self.0.process_new_packets().map_err(damaged)?;
        }
    }

    fn seal(&mut self, plain: &[u8]) -> std::io::Result<()> {
        self.0.writer().write_all(plain)
    }

    fn seal_end(&mut self) -> std::io::Result<()> {
        self.0.send_close_notify();
        Ok(())
    }

    fn flush(&mut self, mut socket: &mut dyn Write) -> std::io::Result<usize> {
        let mut sent = 0;
        while self.0.wants_write() {
            sent += uninterrupted(|| self.0.write_tls(&mut socket))?;
        }
        Ok(sent)
    }
}
