//! How large packets may be on the way to the target, and whether larger ones vanish without a word.
//!
//! A router that cannot pass a packet on says so by ICMP, and the kernel sends smaller ones. Where a firewall swallows that
//! word, a connection comes about and stands still with its first full packet. To find that out takes no privilege and
//! nothing but the receiver's own port: connections with ever smaller segments either carry a little load or do not.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Error, Kind, Result};
use crate::link::errand::Errands;
use crate::link::tls::{TlsStream, client_config};
use crate::secret::Secret;

/// Packets that are tried, in bytes of IP: what everybody must pass on, and what tunnels of all kinds leave of Ethernet's
/// 1500 and of jumbo frames.
const MTUS: [u32; 18] = [
    576, 1000, 1280, 1300, 1340, 1360, 1380, 1400, 1420, 1430, 1440, 1450, 1460, 1476, 1492, 1500, 4000, 8500,
];
/// Headers of IPv4 and TCP, in bytes. Options of TCP count as content of a segment.
const HEADERS_LEN_V4: u32 = 20 + 20;
/// Headers of IPv6 and TCP, in bytes.
const HEADERS_LEN_V6: u32 = 40 + 20;
/// Bytes that one attempt sends: some ten full packets.
const LOAD_LEN: u64 = 16 * 1024;
/// An attempt that takes longer has failed: several round trips, and a packet or two sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the way to a target is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// It carries whatever the kernel sends.
    Open,
    /// Packets that the kernel sends vanish.
    Swallows {
        /// The largest of those tried that arrives, in bytes.
        arrives: u32,
        /// What the kernel sends, in bytes.
        sent: u32,
    },
    /// It carries nothing at all.
    Closed,
}

/// Looks at the way to `address`. Takes some seconds only where packets vanish.
///
/// # Errors
/// The peers do not accept each other, or the kernel refuses a socket.
pub fn look(address: SocketAddr, secret: &Secret) -> Result<Path> {
    let arrives = |mtu| attempt(address, secret, Some(mtu)).map(|attempt| attempt == Attempt::Arrives);
    let sent = match attempt(address, secret, None)? {
        Attempt::Arrives => return Ok(Path::Open),
        Attempt::Fails { sent: None } => return Ok(Path::Closed),
        Attempt::Fails { sent: Some(sent) } => sent,
    };
    let smaller: Vec<u32> = MTUS.into_iter().filter(|mtu| *mtu < sent).collect();
    let Some((smallest, rest)) = smaller.split_first() else {
        return Ok(Path::Closed);
    };
    if !arrives(*smallest)? {
        return Ok(Path::Closed);
    }
    // All below `low` arrive, none from `high` on does.
    let (mut low, mut high) = (0, rest.len());
    while low < high {
        let middle = low.midpoint(high);
        if arrives(rest[middle])? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let arrives = low.checked_sub(1).map_or(*smallest, |last| rest[last]);
    // Whatever held the first attempt up may have passed.
    match attempt(address, secret, None)? {
        Attempt::Arrives => Ok(Path::Open),
        Attempt::Fails { .. } => Ok(Path::Swallows { arrives, sent }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Arrives,
    Fails {
        /// The largest packet that the kernel sent, if the connection came about.
        sent: Option<u32>,
    },
}

/// Sends a little load in packets of at most `mtu` bytes, or as large as the kernel wants them.
fn attempt(address: SocketAddr, secret: &Secret, mtu: Option<u32>) -> Result<Attempt> {
    let socket = match connect(address, mtu) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%address, ?mtu, %error, "no connection");
            return Ok(Attempt::Fails { sent: None });
        }
    };
    let sent = sys::tcp_info::path_mtu(socket.as_fd());
    let carried = TlsStream::over(socket, address, client_config()?, PATIENCE)
        .and_then(|stream| Errands::begin(stream, secret)?.probe(LOAD_LEN));
    match carried {
        Ok(()) => Ok(Attempt::Arrives),
        Err(error) if error.kind() == Kind::Retry => Ok(Attempt::Fails { sent }),
        Err(error) => Err(error),
    }
}

fn connect(address: SocketAddr, mtu: Option<u32>) -> Result<TcpStream> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Retry, format!("connect to the target at {address}")).because(error)
    };
    let Some(mtu) = mtu else {
        return TcpStream::connect_timeout(&address, PATIENCE).map_err(failed);
    };
    let (family, headers_len) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, HEADERS_LEN_V4),
        SocketAddr::V6(_) => (AddressFamily::INET6, HEADERS_LEN_V6),
    };
    let connected = || -> std::io::Result<TcpStream> {
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sys::tcp_info::limit_segments(socket.as_fd(), mtu - headers_len)?;
        // Bounds the connecting, too.
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        rustix::net::connect(&socket, &address)?;
        Ok(TcpStream::from(socket))
    };
    connected().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Silent, StopFlag};
    use crate::target::{Receiver, ServePlan, TargetVolume};

    #[test]
    fn the_loopback_is_open_and_small_packets_carry_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::generate().unwrap();
        let receiver = Receiver::bind(ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: secret.clone(),
            volume: TargetVolume::Nothing,
            journal: folder.path().to_owned(),
        })
        .unwrap();
        let address = receiver.local_addr();
        let stop = StopFlag::default();
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            assert_eq!(look(address, &secret).unwrap(), Path::Open);
            for mtu in MTUS {
                assert_eq!(
                    attempt(address, &secret, Some(mtu)).unwrap(),
                    Attempt::Arrives,
                    "{mtu}"
                );
            }
            let stranger = Secret::generate().unwrap();
            assert_eq!(look(address, &stranger).unwrap_err().kind(), Kind::Refused);
            stop.stop();
        });
        drop(receiver);
        assert_eq!(look(address, &secret).unwrap(), Path::Closed);
    }

    #[test]
    fn what_is_tried_is_sorted_and_leaves_room_for_headers() {
        assert!(MTUS.is_sorted());
        // The kernel refuses segments of fewer than 88 bytes.
        assert!(MTUS[0] - HEADERS_LEN_V6 >= 88);
    }
}
