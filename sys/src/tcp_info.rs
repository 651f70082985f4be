//! What the kernel knows of a TCP connection (TCP_INFO): what held its sender up (fields since Linux 4.10), and how large
//! packets may be; and a bound on the latter.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;

/// Length up to and including the last field used here, in bytes (struct tcp_info of linux/tcp.h).
const LEN: usize = 192;
/// Offset of a u32 field, in bytes: the path's MTU.
const PATH_MTU: usize = 60;
/// Offsets of u64 fields, in bytes: all in microseconds.
const BUSY: usize = 168;
const WINDOW_LIMITED: usize = 176;
const BUFFER_LIMITED: usize = 184;

/// For how long since its begin the connection has had data that only the network kept from being sent or acknowledged:
/// neither the receiver's window nor the send buffer was too small. `None` where the kernel does not tell.
pub fn network_limited(socket: BorrowedFd<'_>) -> Option<Duration> {
    let (info, len) = info(socket)?;
    if len < LEN {
        return None;
    }
    let field = |at: usize| {
        let bytes = info[at..].first_chunk::<8>().copied().unwrap_or_default();
        u64::from_ne_bytes(bytes)
    };
    let others = field(WINDOW_LIMITED) + field(BUFFER_LIMITED);
    Some(Duration::from_micros(field(BUSY).saturating_sub(others)))
}

/// The largest packet that the kernel sends on this connection, in bytes of IP: what the interface takes, or what a router
/// on the way has said. `None` where the kernel does not tell.
pub fn path_mtu(socket: BorrowedFd<'_>) -> Option<u32> {
    let (info, len) = info(socket)?;
    let bytes = info[..len].get(PATH_MTU..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes)).filter(|mtu| *mtu > 0)
}

/// Bounds what goes into one segment, both ways, in bytes. For a socket that is not yet connected.
///
/// # Errors
/// Fewer than 88 bytes or more than 32767, or it is no TCP socket.
pub fn limit_segments(socket: BorrowedFd<'_>, len_max: u32) -> std::io::Result<()> {
    Ok(setsockopt(&socket, TcpMaxSeg, &len_max)?)
}

/// What the kernel tells, and how many bytes that are.
fn info(socket: BorrowedFd<'_>) -> Option<([u8; LEN], usize)> {
    let mut info = [0u8; LEN];
    let mut len = LEN as libc::socklen_t;
    // SAFETY: `info` has room for the `len` bytes that the kernel may write, and both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (answer == 0).then_some((info, (len as usize).min(LEN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    /// A peer that does not read is no slow network.
    #[test]
    fn a_slow_reader_does_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender =
            TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
        let (reader, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.write(&[0; 65536]).is_ok() {}
        std::thread::sleep(Duration::from_millis(300));
        let limited = network_limited(sender.as_fd()).unwrap();
        assert!(limited < Duration::from_millis(150), "{limited:?}");
        drop(reader);
    }

    #[test]
    fn the_loopback_takes_large_packets_and_segments_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        let text = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        let mtu: u32 = text.trim().parse().unwrap();
        // The interface takes one byte more than an IP packet can have.
        assert_eq!(path_mtu(open.as_fd()), Some(mtu.min(65_535)));
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        limit_segments(socket.as_fd(), 1000).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        let (info, _) = info(socket.as_fd()).unwrap();
        // The field before the one that tells how large received segments were: how large sent ones are.
        let sent = u32::from_ne_bytes(*info[16..].first_chunk().unwrap());
        assert!((900..=1000).contains(&sent), "{sent}");
        assert!(limit_segments(socket.as_fd(), 1).is_err());
    }
}
