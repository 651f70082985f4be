//! Errands: short questions of a source outside of any session, on a connection of their own to the same port.
//!
//! The connection begins as every other (TLS, then the proofs of the secret) with the role [`Role::Errand`]; then both
//! directions carry messages of the form `u32 length, postcard`. Questions follow one another; each has one answer. An
//! errand changes nothing of a volume.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::boot_check::{Question, Reply};
use crate::error::{Error, Kind, Result};
use crate::link::auth::{self, Hello, Role, VolumeKind};
use crate::link::tls::{self, TlsStream};
use crate::protocol::parse;
use crate::secret::Secret;

/// Longest question, in bytes: an inventory of a thousand volumes.
const QUESTION_LEN_MAX: usize = 1 << 20;
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;
/// Longest load of a probe, in bytes: a second at 10 Gbit/s.
pub const PROBE_LEN_MAX: u64 = 1 << 30;
/// Bytes of a probe sent or received at a time.
const PROBE_SLICE_LEN: usize = 64 * 1024;

/// A question of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// Sign the receipt with this BLAKE3 digest.
    Countersign {
        /// The digest.
        receipt: [u8; 32],
    },
    /// Take so many bytes, which follow, throw them away, and say when they are there.
    Probe {
        /// How many.
        len: u64,
    },
    /// Something about boot checks.
    BootCheck(Question),
}

/// The target's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The target has signed; see [`crate::receipt::Countersigned`].
    Countersigned {
        /// The text that is signed.
        statement: String,
        /// Public key, hexadecimal.
        public_key: String,
        /// Signature, hexadecimal.
        signature: String,
    },
    /// All bytes of a probe have arrived.
    Received,
    /// The target cannot do it.
    Refused {
        /// Why, for people.
        message: String,
    },
    /// What the receiver says of boot checks.
    BootCheck(Reply),
}

impl Answer {
    /// The error for an answer that does not belong to the question.
    pub fn unexpected(self) -> Error {
        match self {
            Self::Refused { message } => Error::new(Kind::Refused, "have the target do it").because(message),
            other => Error::new(
                Kind::Corrupt,
                format!("understand the target: it answered {other:?}"),
            )
            .remedy("use the same release of go2cloud on both sides"),
        }
    }
}

/// The source's end of a connection for errands.
pub struct Errands(TlsStream);

impl Errands {
    /// Connects to the first address that answers.
    ///
    /// # Errors
    /// No address answers ([`Kind::Retry`]), or the peers do not accept each other ([`Kind::Refused`]).
    pub fn connect(addresses: &[SocketAddr], secret: &Secret) -> Result<Self> {
        let mut last = Error::new(Kind::Usage, "connect: no address of the target is given");
        for &address in addresses {
            let connected = TlsStream::connect(address, tls::client_config()?);
            match connected.and_then(|stream| Self::begin(stream, secret)) {
                Ok(errands) => return Ok(errands),
                Err(error) if error.kind() == Kind::Retry => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Begins with a connection that is there.
    ///
    /// # Errors
    /// The connection is lost, or the peers do not accept each other ([`Kind::Refused`]).
    pub fn begin(mut stream: TlsStream, secret: &Secret) -> Result<Self> {
        let hello = Hello {
            protocol: auth::PROTOCOL,
            session: auth::random_id()?,
            instance: auth::random_id()?,
            migration: [0; 16],
            role: Role::Errand,
            data_connections: 1,
            volume: VolumeKind::Tree,
        };
        auth::prove_source(&mut stream, secret, &hello)?;
        Ok(Self(stream))
    }

    /// The largest packet that the kernel sends on this connection, in bytes, if it tells.
    pub fn path_mtu(&self) -> Option<u32> {
        self.0.path_mtu()
    }

    /// Asks and waits for the answer, 15 s at most.
    ///
    /// # Errors
    /// The connection is lost, or the target answers nonsense.
    pub fn run(&mut self, errand: &Errand) -> Result<Answer> {
        say(&mut self.0, errand)?;
        hear(&mut self.0, ANSWER_LEN_MAX)
    }

    /// Sends `len` bytes that cannot be compressed away and waits until they have arrived.
    ///
    /// # Errors
    /// The connection is lost, or the target does not take them.
    pub fn probe(&mut self, len: u64) -> Result<()> {
        say(&mut self.0, &Errand::Probe { len })?;
        let slice = [0u8; PROBE_SLICE_LEN];
        let mut left = len;
        while left > 0 {
            let part = left.min(PROBE_SLICE_LEN as u64);
            // What travels is encrypted: zeros are as incompressible as anything.
            self.0.say(&slice[..part as usize])?;
            left -= part;
        }
        match hear(&mut self.0, ANSWER_LEN_MAX)? {
            Answer::Received => Ok(()),
            answer => Err(answer.unexpected()),
        }
    }
}

/// Answers the questions of one connection with `answer` until its peer ends it.
///
/// # Errors
/// The peer breaks the form; a connection that ends between two questions is no error.
pub(crate) fn serve(mut stream: TlsStream, answer: impl Fn(&Errand) -> Answer) -> Result<()> {
    loop {
        let errand = match hear(&mut stream, QUESTION_LEN_MAX) {
            Ok(errand) => errand,
            Err(error) if error.kind() == Kind::Retry => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Errand::Probe { len } = errand {
            if len > PROBE_LEN_MAX {
                return Err(Error::new(Kind::Corrupt, "take a probe of more than 1 GiB"));
            }
            swallow(&mut stream, len)?;
        }
        say(&mut stream, &answer(&errand))?;
    }
}

fn swallow(stream: &mut TlsStream, len: u64) -> Result<()> {
    let mut slice = [0u8; PROBE_SLICE_LEN];
    let mut left = len;
    while left > 0 {
        let part = left.min(PROBE_SLICE_LEN as u64);
        stream.hear(&mut slice[..part as usize])?;
        left -= part;
    }
    Ok(())
}

fn say(stream: &mut TlsStream, message: &impl Serialize) -> Result<()> {
    stream.say(&written(message)?)
}

fn written(message: &impl Serialize) -> Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(message)
        .map_err(|error| Error::new(Kind::Corrupt, "encode a message").because(error))?;
    let len =
        u32::try_from(bytes.len()).map_err(|_| Error::new(Kind::Corrupt, "encode a message of 4 GiB"))?;
    Ok([&len.to_le_bytes()[..], &bytes].concat())
}

fn hear<M: DeserializeOwned>(stream: &mut TlsStream, len_max: usize) -> Result<M> {
    let mut len = [0u8; 4];
    stream.hear(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > len_max {
        return Err(Error::new(
            Kind::Corrupt,
            format!("accept a message of {len} bytes outside of a session"),
        ));
    }
    let mut bytes = vec![0; len];
    stream.hear(&mut bytes)?;
    parse(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signature::hex;

    #[test]
    fn golden_messages() {
        let probe = written(&Errand::Probe { len: 300 }).unwrap();
        assert_eq!(hex(&probe), "0300000001ac02");
        let countersign = Errand::Countersign { receipt: [0xab; 32] };
        assert_eq!(
            hex(&written(&countersign).unwrap()),
            format!("2100000000{}", "ab".repeat(32))
        );
        assert_eq!(hex(&written(&Answer::Received).unwrap()), "0100000001");
        let refused = Answer::Refused { message: "no".into() };
        assert_eq!(hex(&written(&refused).unwrap()), "0400000002026e6f");
        let check = Errand::BootCheck(Question::Can);
        assert_eq!(hex(&written(&check).unwrap()), "020000000200");
        let reply = Answer::BootCheck(Reply::UnderWay);
        assert_eq!(hex(&written(&reply).unwrap()), "020000000301");
    }

    proptest! {
        #[test]
        fn hostile_messages_are_refused_or_understood_but_never_panic(bytes: Vec<u8>) {
            drop(parse::<Errand>(&bytes));
            drop(parse::<Answer>(&bytes));
        }
    }
}
