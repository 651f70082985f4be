//! Mutual proof of the migration's secret, bound to the TLS session.
//!
//! `source → target`: [`Hello`] and HMAC-SHA256(secret, "go2cloud source 1" ‖ exporter ‖ hello). `target → source`: one
//! status byte and HMAC-SHA256(secret, "go2cloud target 1" ‖ exporter ‖ hello). A man in the middle has two TLS
//! sessions with two different exporters, so neither proof can be passed on, and none can be replayed.

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::link::tls::TlsStream;
use crate::secret::Secret;

/// Version of everything behind the handshake: frames and messages.
pub const PROTOCOL: u16 = 1;
/// Bytes of an encoded [`Hello`], padded with zeros.
const HELLO_LEN: usize = 96;
const PROOF_LEN: usize = 32;
const SOURCE_LABEL: &[u8] = b"go2cloud source 1";
const TARGET_LABEL: &[u8] = b"go2cloud target 1";

const ACCEPTED: u8 = 1;
const WRONG_PROOF: u8 = 2;
const WRONG_PROTOCOL: u8 = 3;

/// Sixteen random bytes that name something: a session, a migration, a running agent.
pub type Id = [u8; 16];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Orders, source to target.
    Control,
    /// Acknowledgements and findings, target to source.
    Report,
    /// Frames, source to target.
    Data,
    /// Single questions outside of any session.
    Errand,
}

/// What the volume is; both sides must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A directory tree.
    Tree,
    /// One disk or several.
    Disks,
    /// None: the source asks something of the machine itself.
    Machine,
}

/// The source's first words on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// The session this connection belongs to, drawn by the source for each attempt.
    pub session: Id,
    /// The agent's process: a new session of the same process replaces its old one at once.
    pub instance: Id,
    /// The migration: which volume of which machine. All zero for a question to the machine.
    pub migration: Id,
    /// What the connection is for.
    pub role: Role,
    /// Data connections of the session.
    pub data_connections: u16,
    /// What is to be copied.
    pub volume: VolumeKind,
}

/// Proves the secret to the target and demands its proof.
///
/// # Errors
/// [`Kind::Refused`] when either side does not know the secret or speaks another protocol.
pub fn prove_source(stream: &mut TlsStream, secret: &Secret, hello: &Hello) -> Result<()> {
    let bytes = encode(hello)?;
    let exporter = stream.exporter()?;
    let mut message = bytes.to_vec();
    message.extend_from_slice(proof(secret, SOURCE_LABEL, &exporter, &bytes).as_ref());
    stream.say(&message)?;
    let mut answer = [0u8; 1 + PROOF_LEN];
    stream.hear(&mut answer)?;
    match answer[0] {
        ACCEPTED => verify(secret, TARGET_LABEL, &exporter, &bytes, &answer[1..]).map_err(|()| {
            Error::new(
                Kind::Refused,
                "trust the target: it does not know this migration's secret",
            )
            .remedy("check the address, and that both sides use the same secret file")
        }),
        WRONG_PROTOCOL => Err(Error::new(Kind::Refused, "agree on a protocol with the target")
            .remedy("use the same release of go2cloud on both sides")),
        _ => Err(
            Error::new(Kind::Refused, "convince the target: it refused this secret")
                .remedy("check that both sides use the same secret file"),
        ),
    }
}

/// Hears the source's proof and answers it.
///
/// # Errors
/// [`Kind::Refused`] when the source does not know the secret or speaks another protocol.
pub fn prove_target(stream: &mut TlsStream, secret: &Secret) -> Result<Hello> {
    let mut message = [0u8; HELLO_LEN + PROOF_LEN];
    stream.hear(&mut message)?;
    let (bytes, proven) = message.split_at(HELLO_LEN);
    let exporter = stream.exporter()?;
    let mut answer = [0u8; 1 + PROOF_LEN];
    if verify(secret, SOURCE_LABEL, &exporter, bytes, proven).is_err() {
        answer[0] = WRONG_PROOF;
        stream.say(&answer)?;
        return Err(
            Error::new(Kind::Refused, "admit a source: it does not know the secret")
                .remedy("check that both sides use the same secret file"),
        );
    }
    let hello: Option<Hello> = postcard::take_from_bytes(bytes).ok().map(|(hello, _)| hello);
    let Some(hello) = hello.filter(|hello: &Hello| hello.protocol == PROTOCOL) else {
        answer[0] = WRONG_PROTOCOL;
        stream.say(&answer)?;
        return Err(Error::new(Kind::Refused, "agree on a protocol with the source")
            .remedy("use the same release of go2cloud on both sides"));
    };
    answer[0] = ACCEPTED;
    answer[1..].copy_from_slice(proof(secret, TARGET_LABEL, &exporter, bytes).as_ref());
    stream.say(&answer)?;
    Ok(hello)
}

fn encode(hello: &Hello) -> Result<[u8; HELLO_LEN]> {
    let mut bytes = [0u8; HELLO_LEN];
    postcard::to_slice(hello, &mut bytes)
        .map_err(|error| Error::new(Kind::Corrupt, "encode the greeting").because(error))?;
    Ok(bytes)
}

fn proof(secret: &Secret, label: &[u8], exporter: &[u8], hello: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    for part in [label, exporter, hello] {
        context.update(part);
    }
    context.sign()
}

/// Compares in constant time.
fn verify(
    secret: &Secret,
    label: &[u8],
    exporter: &[u8],
    hello: &[u8],
    proven: &[u8],
) -> std::result::Result<(), ()> {
    let message = [label, exporter, hello].concat();
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
        &message,
        proven,
    )
    .map_err(|_| ())
}

/// A random name.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn random_id() -> Result<Id> {
    let mut id = Id::default();
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id)
        .map_err(|_| Error::new(Kind::Medium, "get random numbers from the kernel"))?;
    Ok(id)
}
