//! What held a TCP connection's sender up, as the kernel counts it (TCP_INFO; fields since Linux 4.10).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Length up to and including the last field used here, in bytes (struct tcp_info of linux/tcp.h).
const LEN: usize = 192;
/// Offsets of u64 fields, in bytes: all in microseconds.
const BUSY: usize = 168;
const WINDOW_LIMITED: usize = 176;
const BUFFER_LIMITED: usize = 184;

/// For how long since its begin the connection has had data that only the network kept from being sent or acknowledged:
/// neither the receiver's window nor the send buffer was too small. `None` where the kernel does not tell.
pub fn network_limited(socket: BorrowedFd<'_>) -> Option<Duration> {
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
    if answer != 0 || (len as usize) < LEN {
        return None;
    }
    let field = |at: usize| {
        let bytes = info[at..].first_chunk::<8>().copied().unwrap_or_default();
        u64::from_ne_bytes(bytes)
    };
    let others = field(WINDOW_LIMITED) + field(BUFFER_LIMITED);
    Some(Duration::from_micros(field(BUSY).saturating_sub(others)))
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
}
