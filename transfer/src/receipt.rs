//! What a target attests under a receipt: which receipt, and what the target itself knows about the copy.
//!
//! A target does not sign what a source tells it. It names the receipt by its digest and adds its own facts: what its
//! journal has sealed, and what it found when it last re-read its medium. Whoever checks a receipt compares these facts
//! with the source's. Signing goes over an errand ([`crate::link::errand`]), so that it needs no session, works for
//! trees and disks alike, and also when a migration has failed.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::link::errand::{Answer, Errand, Errands};
use crate::progress::{Sealed, Verified};
use crate::secret::Secret;
use crate::signature::{SigningKey, hex, is_signed};

/// Version of the statement's form.
const VERSION: u32 = 1;
/// Longest statement that a source takes, in bytes: a version, some numbers and four digests.
const STATEMENT_LEN_MAX: usize = 16 * 1024;

/// What a target attests; its JSON text is what is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Version of this form.
    pub version: u32,
    /// Version of the receiver.
    pub receiver: String,
    /// BLAKE3 digest of the receipt that was shown to the target, hexadecimal.
    pub receipt: String,
    /// What its journal has sealed; nothing when no round has been sealed since it started.
    pub sealed: Option<Sealed>,
    /// What it found when it re-read its medium; nothing when it did not, or sealed something else since.
    pub verified: Option<Verified>,
    /// Its own time, in seconds since 1970.
    pub signed_at: u64,
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Countersigned {
    /// The text that is signed: a [`Statement`] as JSON.
    pub statement: String,
    /// The target's public key, hexadecimal.
    pub public_key: String,
    /// Signature of the text, hexadecimal.
    pub signature: String,
}

impl Countersigned {
    /// The statement, if the signature is good and it speaks of `receipt`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`], with the reason.
    pub fn check(&self, receipt: &[u8]) -> Result<Statement> {
        let bad =
            |why: &str| Error::new(Kind::Corrupt, "believe the target's signature").because(why.to_owned());
        if !is_signed(self.statement.as_bytes(), &self.public_key, &self.signature) {
            return Err(bad("it does not fit: the target's statement was changed"));
        }
        let statement: Statement = serde_json::from_str(&self.statement)
            .map_err(|error| bad("the statement cannot be read").because(error))?;
        if statement.version != VERSION {
            return Err(bad(
                "the statement is of another version: use the release that wrote it",
            ));
        }
        if statement.receipt != digest_of(receipt) {
            return Err(bad("it belongs to another receipt"));
        }
        Ok(statement)
    }
}

/// Digest of a receipt's text, hexadecimal.
fn digest_of(receipt: &[u8]) -> String {
    hex(blake3::hash(receipt).as_bytes())
}

/// Lets the target sign `receipt`; the addresses are tried in order.
///
/// # Errors
/// The target cannot be reached, does not know the secret, or does not sign.
pub fn countersign(target: &[SocketAddr], secret: &Secret, receipt: &[u8]) -> Result<Countersigned> {
    let errand = Errand::Countersign {
        receipt: *blake3::hash(receipt).as_bytes(),
    };
    match Errands::connect(target, secret)?.run(&errand)? {
        Answer::Countersigned {
            statement,
            public_key,
            signature,
        } if statement.len() <= STATEMENT_LEN_MAX => {
            let countersigned = Countersigned {
                statement,
                public_key,
                signature,
            };
            countersigned.check(receipt)?;
            Ok(countersigned)
        }
        answer => Err(answer.unexpected()),
    }
}

/// What a target knows about its copy, written by its sessions.
#[derive(Debug, Default)]
pub struct Holdings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sealed: Option<Sealed>,
    verified: Option<Verified>,
}

impl Holdings {
    /// Notes what the journal has sealed. An earlier verification is void if that is something else.
    pub fn seal(&self, sealed: Sealed) {
        let mut known = self.0.lock().expect("nothing panics while it notes");
        if known.sealed.as_ref() != Some(&sealed) {
            known.verified = None;
            known.sealed = Some(sealed);
        }
    }

    /// Notes that the medium was re-read and found equal.
    pub fn verify(&self, verified: Verified) {
        self.0.lock().expect("nothing panics while it notes").verified = Some(verified);
    }

    /// Signs what is known, under the receipt with this digest.
    pub(crate) fn countersign(&self, receipt: &[u8; 32], key: &SigningKey) -> Result<Answer> {
        let statement = {
            let known = self.0.lock().expect("nothing panics while it notes");
            Statement {
                version: VERSION,
                receiver: env!("CARGO_PKG_VERSION").to_owned(),
                receipt: hex(receipt),
                sealed: known.sealed.clone(),
                verified: known.verified.clone(),
                signed_at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs()),
            }
        };
        let statement = serde_json::to_string(&statement)
            .map_err(|error| Error::new(Kind::Corrupt, "write the statement").because(error))?;
        Ok(Answer::Countersigned {
            public_key: key.public_key(),
            signature: key.sign(statement.as_bytes()),
            statement,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(generation: u64) -> Sealed {
        Sealed {
            generation,
            state: "ab".into(),
        }
    }

    #[test]
    fn a_statement_is_bound_to_its_receipt_and_to_what_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::of(&folder.path().join("key")).unwrap();
        let holdings = Holdings::default();
        let sign = |receipt: &[u8]| {
            let answer = holdings
                .countersign(blake3::hash(receipt).as_bytes(), &key)
                .unwrap();
            let Answer::Countersigned {
                statement,
                public_key,
                signature,
            } = answer
            else {
                panic!("{answer:?}")
            };
            Countersigned {
                statement,
                public_key,
                signature,
            }
        };
        assert_eq!(sign(b"r").check(b"r").unwrap().sealed, None);
        holdings.seal(sealed(1));
        holdings.verify(Verified::default());
        holdings.seal(sealed(1));
        let statement = sign(b"r").check(b"r").unwrap();
        assert_eq!(
            (statement.sealed, statement.verified),
            (Some(sealed(1)), Some(Verified::default()))
        );
        holdings.seal(sealed(2));
        let mut signed = sign(b"r");
        assert_eq!(signed.check(b"r").unwrap().verified, None);
        assert!(signed.check(b"another").is_err());
        signed.statement = signed.statement.replace("\"generation\":2", "\"generation\":3");
        assert!(signed.check(b"r").is_err());
    }
}
