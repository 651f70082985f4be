//! HTTP/1.1 as bytes, so that a test can send what no library would.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer may take this long; far more than any.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it goes out.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes()))
    }
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if !self.body.is_empty() || self.method == "POST" {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"Connection: close\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer as it came in.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) content_types: Vec<String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn send(address: &str, request: &Sent) -> io::Result<Got> {
    exchange(address, &request.bytes(), Ending::Open)
}

/// Sends anything at all, says that this is all, and reads what comes back until the server closes.
pub(crate) fn send_bytes(address: &str, bytes: &[u8]) -> io::Result<Got> {
    exchange(address, bytes, Ending::Shut)
}

/// Whether the sending side stays open. A server may take an end of it for the end of the client.
#[derive(PartialEq, Eq)]
enum Ending {
    Open,
    Shut,
}

fn exchange(address: &str, bytes: &[u8], ending: Ending) -> io::Result<Got> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A server that refuses early need not read all of it.
    let _ = stream.write_all(bytes);
    if ending == Ending::Shut {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in {line:?}")))?;
    let mut content_types = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-type") {
            content_types.push(value.trim().to_owned());
        }
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok(Got {
        status,
        content_types,
        body,
    })
}
