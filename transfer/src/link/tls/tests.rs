//! Real sockets on the loopback and real TLS; a relay between the ends does what a bad network does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::ring::{ALL_CIPHER_SUITES, default_provider};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, SupportedCipherSuite};

use super::*;

const LOOPBACK: &str = "127.0.0.1:0";
/// The relay passes everything on.
const PASS: u8 = 0;
/// The relay damages one byte of what it passes on next.
const FLIP: u8 = 1;
/// The relay passes half of it on and closes the connection.
const CUT: u8 = 2;
/// The relay passes on in small pieces, from now on.
const SHRED: u8 = 3;

fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&address, HANDSHAKE_MAX).unwrap()
}

fn accept(listener: &TcpListener) -> Result<TlsStream> {
    TlsStream::accept(listener.accept().unwrap().0, server_config().unwrap())
}

/// The ends of a connection, source's first, to `address`, behind which `listener` listens.
fn ends(listener: &TcpListener, address: SocketAddr) -> (TlsStream, TlsStream) {
    thread::scope(|scope| {
        let target = scope.spawn(|| accept(listener).unwrap());
        let source = TlsStream::connect(address, client_config().unwrap()).unwrap();
        (source, target.join().unwrap())
    })
}

fn connected() -> (TlsStream, TlsStream) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    ends(&listener, listener.local_addr().unwrap())
}

/// As [`connected`], with a relay between that follows what `fault` says.
fn relayed(fault: &Arc<AtomicU8>) -> (TlsStream, TlsStream) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let behind = listener.local_addr().unwrap();
    let relay = TcpListener::bind(LOOPBACK).unwrap();
    let address = relay.local_addr().unwrap();
    let fault = Arc::clone(fault);
    thread::spawn(move || {
        let source = relay.accept().unwrap().0;
        let target = dial(behind);
        let back = (target.try_clone().unwrap(), source.try_clone().unwrap());
        let same_fault = Arc::clone(&fault);
        thread::spawn(move || pump(back.0, back.1, &same_fault));
        pump(source, target, &fault);
    });
    ends(&listener, address)
}

fn pump(mut from: TcpStream, mut to: TcpStream, fault: &AtomicU8) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer) else {
            drop(to.shutdown(Shutdown::Write));
            return;
        };
        if fault.load(Ordering::Acquire) == SHRED {
            for piece in pieces(&buffer[..count], &[997, 3, 2_011]) {
                drop(to.write_all(piece));
            }
            continue;
        }
        let passed = match fault.swap(PASS, Ordering::AcqRel) {
            FLIP => {
                buffer[count / 2] ^= 1;
                count
            }
            CUT => count / 2,
            _ => count,
        };
        drop(to.write_all(&buffer[..passed]));
        if passed < count {
            drop(to.shutdown(Shutdown::Both));
            return;
        }
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Cuts `bytes` into pieces of the given lengths, again and again.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    lengths.iter().cycle().map_while(move |&len| {
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn crosses(from: TlsStream, to: TlsStream) {
    let sent = content(5_000_000);
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = from.into_writer(None).unwrap();
            for (number, piece) in pieces(&sent, &[1, 31, 16_383, 32, 16_385, 200_000, 65_536, 7]).enumerate()
            {
                writer.write(piece).unwrap();
                if number % 3 == 0 {
                    writer.flush().unwrap();
                }
            }
            writer.finish().unwrap();
        });
        let mut reader = to.into_reader(None).unwrap();
        let mut received = Vec::new();
        let lengths = [32, 1, 16_384, 5, 300_000, 16_400, 3].into_iter().cycle();
        for len in lengths {
            let mut buffer = vec![0; len.min(sent.len() - received.len())];
            if buffer.is_empty() {
                break;
            }
            assert!(reader.read_exact_or_end(&mut buffer).unwrap());
            received.extend(buffer);
        }
        for _ in 0..2 {
            assert!(!reader.read_exact_or_end(&mut [0]).unwrap(), "the end stays");
        }
        received
    });
    assert!(received == sent);
}

#[test]
fn pieces_of_all_sizes_cross_in_both_directions_up_to_the_orderly_end() {
    let through_relay = || relayed(&Arc::new(AtomicU8::new(SHRED)));
    for ends in [&connected as &dyn Fn() -> (TlsStream, TlsStream), &through_relay] {
        let (source, target) = ends();
        crosses(source, target);
        let (source, target) = ends();
        crosses(target, source);
    }
}

/// An error with its cause.
fn told(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

/// What a reader of 100 000 bytes finds when the sender's bytes meet `fault`.
fn fails(fault: u8, from_source: bool) -> String {
    let switch = Arc::new(AtomicU8::new(PASS));
    let (source, target) = relayed(&switch);
    let (mut from, to) = if from_source {
        (source, target)
    } else {
        (target, source)
    };
    switch.store(fault, Ordering::Release);
    from.say(&content(10_000)).unwrap();
    let mut reader = to.into_reader(Some(Duration::from_secs(10))).unwrap();
    let error = reader.read_exact_or_end(&mut vec![0; 100_000]).unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    error.to_string()
}

#[test]
fn a_damaged_byte_and_a_cut_are_told_apart() {
    for from_source in [true, false] {
        let damaged = fails(FLIP, from_source);
        assert!(damaged.contains("changed or damaged on the way"), "{damaged}");
        let cut = fails(CUT, from_source);
        assert!(cut.contains("the connection was cut"), "{cut}");
    }
}

#[test]
fn an_end_in_the_middle_is_an_error_and_so_is_a_close_without_the_end() {
    for from_source in [true, false] {
        for orderly in [true, false] {
            let (source, target) = connected();
            let (from, to) = if from_source {
                (source, target)
            } else {
                (target, source)
            };
            let mut writer = from.into_writer(None).unwrap();
            writer.write(&content(20_000)).unwrap();
            writer.flush().unwrap();
            if orderly {
                writer.finish().unwrap();
            }
            drop(writer);
            let mut reader = to.into_reader(None).unwrap();
            assert!(reader.read_exact_or_end(&mut [0; 32]).unwrap());
            let error = reader.read_exact_or_end(&mut vec![0; 20_000]).unwrap_err();
            assert_eq!(error.kind(), Kind::Retry);
            let expected = if orderly {
                "in the middle of a frame"
            } else {
                "was cut"
            };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[test]
fn a_silent_peer_is_given_up() {
    for from_source in [true, false] {
        let (source, target) = connected();
        let (from, to) = if from_source {
            (source, target)
        } else {
            (target, source)
        };
        let mut reader = to.into_reader(Some(Duration::from_millis(200))).unwrap();
        let error = reader.read_exact_or_end(&mut [0; 32]).unwrap_err();
        let error = told(&error);
        assert!(
            error.contains("receive from the peer: the peer was silent"),
            "{error}"
        );
        drop(from);
    }
}

/// A source by rustls alone.
struct Stranger {
    connection: ClientConnection,
    socket: TcpStream,
}

impl Stranger {
    fn new(address: SocketAddr) -> Self {
        let name = ServerName::IpAddress(address.ip().into());
        Self {
            connection: ClientConnection::new(client_config().unwrap(), name).unwrap(),
            socket: dial(address),
        }
    }

    fn flush(&mut self) {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket).unwrap();
        }
    }

    fn hear(&mut self, len: usize) -> Vec<u8> {
        let mut heard = vec![0; len];
        rustls::Stream::new(&mut self.connection, &mut self.socket)
            .read_exact(&mut heard)
            .unwrap();
        heard
    }
}

#[test]
fn what_comes_with_the_last_words_of_the_handshake_is_not_lost() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let mut stranger = Stranger::new(listener.local_addr().unwrap());
    let sent = content(40_000);
    // Before the handshake: rustls sends it together with its end.
    stranger.connection.writer().write_all(&sent).unwrap();
    let target = thread::spawn(move || accept(&listener).unwrap());
    while stranger.connection.is_handshaking() {
        stranger.connection.complete_io(&mut stranger.socket).unwrap();
    }
    stranger.connection.send_close_notify();
    stranger.flush();
    // Everything is at the target before it looks at any of it.
    let mut reader = target.join().unwrap().into_reader(None).unwrap();
    let mut received = vec![0; sent.len()];
    assert!(reader.read_exact_or_end(&mut received).unwrap());
    assert!(received == sent);
    assert!(!reader.read_exact_or_end(&mut [0]).unwrap());
}

#[test]
fn new_keys_and_talking_across_each_other_change_nothing() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let mut stranger = Stranger::new(listener.local_addr().unwrap());
    let target = thread::spawn(move || accept(&listener).unwrap());
    while stranger.connection.is_handshaking() {
        stranger.connection.complete_io(&mut stranger.socket).unwrap();
    }
    let mut target = target.join().unwrap();
    for round in 0..5u8 {
        stranger.connection.refresh_traffic_keys().unwrap();
        // Both at once: the target has the second in its hands while it answers the first.
        stranger.connection.writer().write_all(&[round; 50]).unwrap();
        stranger.connection.writer().write_all(&content(30_000)).unwrap();
        stranger.flush();
        let mut first = [0; 50];
        target.hear(&mut first).unwrap();
        assert_eq!(first, [round; 50]);
        target.say(&[round + 1; 70]).unwrap();
        assert_eq!(stranger.hear(70), [round + 1; 70]);
        let mut second = vec![0; 30_000];
        target.hear(&mut second).unwrap();
        assert!(second == content(30_000));
    }
}

#[test]
fn both_ends_have_the_same_channel_binding_with_every_suite() {
    let suites: Vec<SupportedCipherSuite> = ALL_CIPHER_SUITES
        .iter()
        .copied()
        .filter(|suite| suite.tls13().is_some())
        .collect();
    assert_eq!(suites.len(), 3);
    let mut seen = Vec::new();
    for suite in suites {
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&server_config().unwrap().cert_resolver));
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let address = listener.local_addr().unwrap();
        let target = thread::spawn(move || {
            let socket = listener.accept().unwrap().0;
            TlsStream::accept(socket, Arc::new(config)).unwrap()
        });
        let source = TlsStream::connect(address, client_config().unwrap()).unwrap();
        let binding = source.exporter().unwrap();
        assert_eq!(target.join().unwrap().exporter().unwrap(), binding);
        assert!(!seen.contains(&binding));
        seen.push(binding);
    }
}

/// What the target says of a peer that sends `bytes` and then listens, and what the peer hears.
fn meets(bytes: &[u8]) -> (String, Vec<u8>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let mut peer = dial(listener.local_addr().unwrap());
    thread::scope(|scope| {
        let target = scope.spawn(|| {
            let socket = listener.accept().unwrap().0;
            let begin = Instant::now();
            let session = Box::new(server::Server::new(&server_config().unwrap()).unwrap());
            let Err(error) = TlsStream::handshake(socket, session, Duration::from_millis(300)) else {
                panic!("admitted");
            };
            assert!(begin.elapsed() < Duration::from_secs(5));
            assert_eq!(error.kind(), Kind::Retry);
            told(&error)
        });
        // The target may have enough of it before it is all sent.
        drop(peer.write_all(bytes));
        let mut heard = Vec::new();
        drop(peer.read_to_end(&mut heard));
        (target.join().unwrap(), heard)
    })
}

#[test]
fn a_slow_handshake_is_given_up() {
    // The second is the beginning of a record with a greeting.
    for bytes in [&b""[..], &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]] {
        let (error, heard) = meets(bytes);
        assert!(error.contains("with the peer: the peer was silent"), "{error}");
        assert!(heard.is_empty());
    }
}

#[test]
fn a_peer_that_speaks_no_tls_is_refused_and_told() {
    let (error, heard) = meets(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n");
    assert!(error.contains("agree on TLS 1.3 with the peer"), "{error}");
    assert_eq!(heard.first(), Some(&21), "an alert");
    // A greeting in so small records that their memory is full before it is complete.
    let mut endless = vec![22, 3, 1, 0, 4, 1, 0, 255, 0];
    for _ in 0..60_000 {
        endless.extend([22, 3, 1, 0, 1, 0]);
    }
    let (error, _) = meets(&endless);
    assert!(error.contains("its message has no end"), "{error}");
}
