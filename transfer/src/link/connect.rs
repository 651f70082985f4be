//! Builds sessions: the source opens all connections of one at once, the target gathers them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::link::auth::{self, Hello, Id, Role};
use crate::link::frame::{FrameReader, FrameWriter};
use crate::link::tls::{self, Breaker, HANDSHAKE_MAX, TlsStream};
use crate::progress::StopFlag;
use crate::secret::Secret;
use crate::throttle::Throttle;

/// Handshakes under way at once: a flood of strangers costs no more than this many threads.
const HANDSHAKES_MAX: usize = 64;
/// How often the accepting loop looks for a request to stop, and how long it pauses when it cannot accept.
const ACCEPT_PERIOD: Duration = Duration::from_millis(50);

/// The source's ends of a session.
pub struct SourceLink {
    /// Orders to the target.
    pub control: FrameWriter,
    /// What the target reports.
    pub report: FrameReader,
    /// Data connections.
    pub data: Vec<FrameWriter>,
    /// Ends all connections from another thread.
    pub breakers: Vec<Breaker>,
    /// The address that answered.
    pub target: SocketAddr,
}

/// Opens all connections of a session, at the same time, to the first address that answers.
///
/// # Errors
/// No address answers ([`Kind::Retry`]), or the peers do not accept each other ([`Kind::Refused`]).
pub fn connect(
    addresses: &[SocketAddr],
    secret: &Secret,
    hello: &Hello,
    throttle: &Arc<Throttle>,
) -> Result<SourceLink> {
    let mut last = Error::new(Kind::Usage, "connect: no address of the target is given");
    for &address in addresses {
        match connect_to(address, secret, hello, throttle) {
            Ok(link) => return Ok(link),
            Err(error) if error.kind() == Kind::Retry => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn connect_to(
    address: SocketAddr,
    secret: &Secret,
    hello: &Hello,
    throttle: &Arc<Throttle>,
) -> Result<SourceLink> {
    let config = tls::client_config()?;
    let count = usize::from(hello.data_connections);
    let roles = [Role::Control, Role::Report]
        .into_iter()
        .chain(std::iter::repeat_n(Role::Data, count));
    let streams = std::thread::scope(|scope| {
        let threads: Vec<_> = roles
            .map(|role| {
                let (config, hello) = (
                    Arc::clone(&config),
                    Hello {
                        role,
                        ..hello.clone()
                    },
                );
                scope.spawn(move || {
                    let mut stream = TlsStream::connect(address, config)?;
                    auth::prove_source(&mut stream, secret, &hello)?;
                    Ok(stream)
                })
            })
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("connecting does not panic"));
        joined.collect::<Result<Vec<TlsStream>>>()
    })?;
    let breakers = streams
        .iter()
        .map(TlsStream::breaker)
        .collect::<Result<Vec<_>>>()?;
    let mut streams = streams.into_iter();
    let mut next = || streams.next().expect("one stream was made for each role");
    Ok(SourceLink {
        control: FrameWriter::new(next().into_writer(Some(Arc::clone(throttle)))?),
        report: FrameReader::new(next().into_reader(Some(tls::SILENCE_MAX))?),
        data: (0..count)
            .map(|_| Ok(FrameWriter::new(next().into_writer(Some(Arc::clone(throttle)))?)))
            .collect::<Result<_>>()?,
        breakers,
        target: address,
    })
}

/// The target's ends of a session.
pub struct Accepted {
    /// What the source said of itself.
    pub hello: Hello,
    /// Address of the source.
    pub source: SocketAddr,
    /// Orders from the source.
    pub control: FrameReader,
    /// Reports to the source.
    pub report: FrameWriter,
    /// Data connections.
    pub data: Vec<FrameReader>,
    /// Ends all connections from another thread.
    pub breakers: Vec<Breaker>,
}

/// Listens, admits peers that know the secret, and gathers their connections into sessions.
pub struct Acceptor {
    listener: TcpListener,
    address: SocketAddr,
    secret: Secret,
}

impl Acceptor {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub fn bind(address: SocketAddr, secret: Secret) -> Result<Self> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, address) = bound.map_err(|error| {
            Error::new(Kind::Usage, format!("listen on {address}"))
                .remedy("choose an address of this machine and a port that nobody uses")
                .because(error)
        })?;
        Ok(Self {
            listener,
            address,
            secret,
        })
    }

    /// Where it listens; the port is the real one when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`, handing complete sessions to `sessions` and connections for errands to `errands`. Failures of single peers are logged only: they
    /// are strangers until they have proven the secret.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn run(
        &self,
        sessions: &Sender<Accepted>,
        errands: &Sender<TlsStream>,
        stop: &StopFlag,
    ) -> Result<()> {
        let config = tls::server_config()?;
        let (admitted_sender, admitted) =
            crossbeam_channel::bounded::<(TlsStream, Hello, SocketAddr)>(HANDSHAKES_MAX);
        let handshakes = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| gather(&admitted, sessions, errands));
            while !stop.is_stopped() {
                let Some((socket, source)) = self.knock(stop) else {
                    continue;
                };
                if handshakes.fetch_add(1, Ordering::AcqRel) >= HANDSHAKES_MAX {
                    handshakes.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let (config, admitted, handshakes) =
                    (Arc::clone(&config), admitted_sender.clone(), &handshakes);
                scope.spawn(move || {
                    match self.admit(socket, config) {
                        Ok((stream, hello)) => drop(admitted.send((stream, hello, source))),
                        Err(error) => tracing::info!(%source, %error, "connection refused"),
                    }
                    handshakes.fetch_sub(1, Ordering::AcqRel);
                });
            }
            drop(admitted_sender);
        });
        Ok(())
    }

    /// The next connection; `None` when there was none for [`ACCEPT_PERIOD`].
    fn knock(&self, stop: &StopFlag) -> Option<(TcpStream, SocketAddr)> {
        let period = Timespec::try_from(ACCEPT_PERIOD).expect("a short time");
        let mut listening = [PollFd::new(&self.listener, PollFlags::IN)];
        match rustix::event::poll(&mut listening, Some(&period)) {
            Ok(0) | Err(Errno::INTR) => None,
            _ => {
                let accepted = self.listener.accept().ok();
                if accepted.is_none() {
                    // Whoever knocked has gone, or this process has no descriptor left for it.
                    stop.sleep(ACCEPT_PERIOD);
                }
                accepted
            }
        }
    }

    fn admit(&self, socket: TcpStream, config: Arc<rustls::ServerConfig>) -> Result<(TlsStream, Hello)> {
        socket
            .set_nonblocking(false)
            .map_err(|error| Error::new(Kind::Retry, "set up the connection").because(error))?;
        let mut stream = TlsStream::accept(socket, config)?;
        let hello = auth::prove_target(&mut stream, &self.secret)?;
        if (1..=limits::CONNECTIONS_MAX).contains(&usize::from(hello.data_connections)) {
            Ok((stream, hello))
        } else {
            Err(Error::new(
                Kind::Corrupt,
                "admit a session without data connections or with too many",
            ))
        }
    }
}

/// The connections of a session that have arrived so far.
struct Gathering {
    since: Instant,
    hello: Hello,
    source: SocketAddr,
    control: Option<TlsStream>,
    report: Option<TlsStream>,
    data: Vec<TlsStream>,
}

impl Gathering {
    fn is_complete(&self) -> bool {
        let all_data = self.data.len() == usize::from(self.hello.data_connections);
        self.control.is_some() && self.report.is_some() && all_data
    }

    fn finish(self) -> Option<Result<Accepted>> {
        let (control, report) = (self.control?, self.report?);
        let build = || {
            let streams = self.data.iter().chain([&control, &report]);
            let breakers = streams.map(TlsStream::breaker).collect::<Result<Vec<_>>>()?;
            Ok(Accepted {
                hello: self.hello,
                source: self.source,
                control: FrameReader::new(control.into_reader(Some(tls::SILENCE_MAX))?),
                report: FrameWriter::new(report.into_writer(None)?),
                data: self
                    .data
                    .into_iter()
                    .map(|stream| Ok(FrameReader::new(stream.into_reader(None)?)))
                    .collect::<Result<_>>()?,
                breakers,
            })
        };
        Some(build())
    }
}

/// Puts admitted connections together; those of a session that stays incomplete are dropped.
fn gather(
    admitted: &Receiver<(TlsStream, Hello, SocketAddr)>,
    sessions: &Sender<Accepted>,
    errands: &Sender<TlsStream>,
) {
    let mut gatherings: HashMap<Id, Gathering> = HashMap::new();
    while let Ok((stream, hello, source)) = admitted.recv() {
        gatherings.retain(|_, gathering| gathering.since.elapsed() < HANDSHAKE_MAX);
        if hello.role == Role::Errand {
            // Too many at once: the peer finds the connection closed and may come again.
            drop(errands.try_send(stream));
            continue;
        }
        let session = hello.session;
        let gathering = gatherings.entry(session).or_insert_with(|| Gathering {
            since: Instant::now(),
            hello: hello.clone(),
            source,
            control: None,
            report: None,
            data: Vec::new(),
        });
        match hello.role {
            Role::Control => gathering.control = Some(stream),
            Role::Report => gathering.report = Some(stream),
            Role::Data => gathering.data.push(stream),
            Role::Errand => {}
        }
        if gathering.is_complete() {
            match gatherings.remove(&session).and_then(Gathering::finish) {
                Some(Ok(accepted)) => drop(sessions.send(accepted)),
                Some(Err(error)) => tracing::info!(%source, %error, "session not set up"),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::auth::{PROTOCOL, VolumeKind, random_id};
    use crate::link::frame::Frame;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            session: random_id().unwrap(),
            instance: random_id().unwrap(),
            migration: [0; 16],
            role: Role::Control,
            data_connections: 3,
            volume: VolumeKind::Tree,
        }
    }

    fn with_acceptor(secret: &Secret, check: impl FnOnce(SocketAddr, &Receiver<Accepted>)) {
        let acceptor = Acceptor::bind("127.0.0.1:0".parse().unwrap(), secret.clone()).unwrap();
        let stop = StopFlag::default();
        let (sender, sessions) = crossbeam_channel::bounded(4);
        let (errands, _) = crossbeam_channel::bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(|| acceptor.run(&sender, &errands, &stop).unwrap());
            check(acceptor.local_addr(), &sessions);
            stop.stop();
        });
    }

    #[test]
    fn frames_cross_and_the_end_is_told_from_a_cut() {
        let secret = Secret::generate().unwrap();
        with_acceptor(&secret, |address, sessions| {
            let throttle = Arc::new(Throttle::new(0));
            let mut link = connect(&[address], &secret, &hello(), &throttle).unwrap();
            let mut accepted = sessions.recv().unwrap();
            assert_eq!(accepted.data.len(), 3);
            let big = Frame::message(9, &[7; 300_000]);
            let wire = link.control.send(&big).unwrap();
            assert!((300_000..310_000).contains(&wire), "{wire}");
            assert_eq!(accepted.control.receive().unwrap(), Some(big));
            accepted.report.send(&Frame::message(1, b"hello")).unwrap();
            assert_eq!(link.report.receive().unwrap().unwrap().payload[..], b"hello"[..]);
            link.control.finish().unwrap();
            assert_eq!(accepted.control.receive().unwrap(), None);
            for breaker in &link.breakers {
                breaker.break_off();
            }
            assert_eq!(accepted.data[0].receive().unwrap_err().kind(), Kind::Retry);
        });
    }

    #[test]
    fn a_wrong_secret_is_refused() {
        with_acceptor(&Secret::generate().unwrap(), |address, sessions| {
            let throttle = Arc::new(Throttle::new(0));
            let refused = connect(&[address], &Secret::generate().unwrap(), &hello(), &throttle);
            let Err(error) = refused else { panic!("admitted") };
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains("secret"), "{error}");
            assert!(sessions.try_recv().is_err());
        });
    }
}
