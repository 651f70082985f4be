//! A disk as it was, for QEMU: a server of network block devices on a local socket, for reading only.
//!
//! The protocol is described in the NBD project's doc/proto.md: fixed newstyle negotiation, the options INFO and GO,
//! simple replies.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use transfer::disk::target::past::Kept;
use transfer::{Error, Result};

/// First words of the server: "NBDMAGIC", "IHAVEOPT".
const GREETING: [u8; 16] = *b"NBDMAGICIHAVEOPT";
/// Before each option of the client.
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
/// Before each reply to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before each reply to a request.
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, without 124 zeros.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Flags are sent; read-only; several connections see the same.
const EXPORT_FLAGS: u16 = 1 | 1 << 1 | 1 << 8;

const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 1 << 31 | 1;
/// What an export is: its length and flags.
const INFO_EXPORT: u16 = 0;

const READ: u16 = 0;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// Longest text of an option, in bytes.
const OPTION_LEN_MAX: u32 = 64 * 1024;
/// Most bytes read at a time: what clients that know no limit ask for at most.
const READ_LEN_MAX: u32 = 32 << 20;

/// A server; it ends when this is dropped.
pub(super) struct Server {
    /// Where it listens.
    pub(super) socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `kept` at `socket`.
    ///
    /// # Errors
    /// The socket cannot be made: its path may be longer than 107 bytes.
    pub(super) fn start(kept: Arc<Kept>, socket: &Path) -> Result<Self> {
        let _ = fs::remove_file(socket);
        let failed = |error| Error::io("listen for QEMU", socket, error);
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("nbd".to_owned())
            .spawn(move || accept(&listener, &kept, &flag))
            .map_err(failed)?;
        Ok(Self {
            socket: socket.to_owned(),
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        let _ = fs::remove_file(&self.socket);
    }
}

/// Each connection ends with its client.
fn accept(listener: &UnixListener, kept: &Arc<Kept>, ended: &AtomicBool) {
    while let Ok((stream, _)) = listener.accept() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        let kept = Arc::clone(kept);
        thread::spawn(move || {
            if let Err(error) = serve(stream, &kept)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                tracing::debug!(%error, "a reader of the kept disk went away");
            }
        });
    }
}

fn serve(mut stream: UnixStream, kept: &Kept) -> io::Result<()> {
    if negotiate(&mut stream, kept.length())? {
        transmit(&mut stream, kept)?;
    }
    Ok(())
}

/// Agrees with the client. Returns whether it wants to read.
fn negotiate(stream: &mut UnixStream, len: u64) -> io::Result<bool> {
    stream.write_all(&GREETING)?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let _client_flags = read_u32(stream)?;
    loop {
        let mut magic = [0; 8];
        stream.read_exact(&mut magic)?;
        let (option, text_len) = (read_u32(stream)?, read_u32(stream)?);
        if magic != OPTION_MAGIC || text_len > OPTION_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // There is one export, whatever it is called.
        let mut text = vec![0; text_len as usize];
        stream.read_exact(&mut text)?;
        match option {
            OPTION_GO | OPTION_INFO => {
                let info = [
                    &INFO_EXPORT.to_be_bytes()[..],
                    &len.to_be_bytes(),
                    &EXPORT_FLAGS.to_be_bytes(),
                ];
                answer_option(stream, option, REPLY_INFO, &info.concat())?;
                answer_option(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                answer_option(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => answer_option(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn answer_option(stream: &mut UnixStream, option: u32, reply: u32, text: &[u8]) -> io::Result<()> {
    let answer = [
        &OPTION_REPLY_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &reply.to_be_bytes(),
        &(text.len() as u32).to_be_bytes(),
        text,
    ];
    stream.write_all(&answer.concat())
}

/// Answers requests until the client goes.
fn transmit(stream: &mut UnixStream, kept: &Kept) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let magic = read_u32(stream)?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let request = u16::from_be_bytes([head[2], head[3]]);
        let mut cookie = [0; 8];
        stream.read_exact(&mut cookie)?;
        let mut offset = [0; 8];
        stream.read_exact(&mut offset)?;
        let (offset, len) = (u64::from_be_bytes(offset), read_u32(stream)?);
        if magic != REQUEST_MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let error = match request {
            READ if len <= READ_LEN_MAX => {
                bytes.resize(len as usize, 0);
                match kept.read(&mut bytes, offset) {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::warn!(%error, offset, len, "the boot check cannot read");
                        EIO
                    }
                }
            }
            DISCONNECT => return Ok(()),
            FLUSH => {
                bytes.clear();
                0
            }
            _ => EINVAL,
        };
        let mut answer = Vec::with_capacity(16);
        answer.extend(REPLY_MAGIC.to_be_bytes());
        answer.extend(error.to_be_bytes());
        answer.extend(cookie);
        stream.write_all(&answer)?;
        if error == 0 {
            stream.write_all(&bytes)?;
        }
    }
}

fn read_u32(stream: &mut UnixStream) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}
