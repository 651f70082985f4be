//! A relay that makes a link long: everything sent arrives half a round trip later, and a new connection is answered
//! only after a whole one. Bandwidth is not limited.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

/// Bytes passed on at a time.
const PIECE_LEN: usize = 64 * 1024;

/// Where from, where to, how late.
#[derive(Clone, Debug, Args)]
pub(crate) struct RelayArgs {
    /// Address to listen on
    #[arg(long)]
    pub listen: SocketAddr,
    /// Address to pass connections on to
    #[arg(long)]
    pub to: SocketAddr,
    /// Round-trip time in milliseconds
    #[arg(long)]
    pub round_trip_ms: u64,
}

/// Serves until killed.
pub(crate) fn run(args: &RelayArgs) -> Result<()> {
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let round_trip = Duration::from_millis(args.round_trip_ms);
    for client in listener.incoming() {
        let client = client?;
        let to = args.to;
        std::thread::spawn(move || {
            // A connection that fails is the peers' business: they see it closed.
            let _ = relay(client, to, round_trip);
        });
    }
    Ok(())
}

fn relay(client: TcpStream, to: SocketAddr, round_trip: Duration) -> Result<()> {
    let server = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // The kernel answered the client's SYN at once; over a long link the first byte could follow only now.
    let opened = Instant::now() + round_trip;
    let back = (server.try_clone()?, client.try_clone()?);
    let half = round_trip / 2;
    let there = std::thread::spawn(move || pass(client, server, half, opened));
    pass(back.0, back.1, half, Instant::now());
    let _ = there.join();
    Ok(())
}

/// Passes bytes on, each piece `delay` after it came, none before `not_before` and `delay`.
fn pass(from: TcpStream, to: TcpStream, delay: Duration, not_before: Instant) {
    let (sender, receiver) = channel();
    let writer = std::thread::spawn(move || write_late(&receiver, to));
    read_all(from, &sender, delay, not_before);
    drop(sender);
    let _ = writer.join();
}

fn read_all(mut from: TcpStream, sender: &Sender<(Instant, Vec<u8>)>, delay: Duration, not_before: Instant) {
    let mut piece = vec![0; PIECE_LEN];
    while let Ok(len) = from.read(&mut piece) {
        let due = Instant::now().max(not_before) + delay;
        // The empty piece tells the end.
        if sender.send((due, piece[..len].to_vec())).is_err() || len == 0 {
            return;
        }
    }
}

fn write_late(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, piece)) = receiver.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if piece.is_empty() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        if to.write_all(&piece).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_takes_a_round_trip_and_a_new_connection_one_more() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            relay(listener.accept().unwrap().0, to, Duration::from_millis(60)).unwrap();
        });
        let mut client = TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
        let mut ask = || {
            let start = Instant::now();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            start.elapsed().as_millis()
        };
        let (first, second) = (ask(), ask());
        assert!((115..400).contains(&first), "{first} ms");
        assert!((58..300).contains(&second), "{second} ms");
    }
}
