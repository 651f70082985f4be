//! What a target attests under a receipt: which receipt, and what the target itself knows about the copy.
//!
//! A target does not sign what a source tells it. It names the receipt by its digest and adds its own facts: what its
//! journal has sealed, and what it found when it last re-read its medium. Whoever checks a receipt compares these facts
//! with the source's. Signing goes over an errand ([`crate::link::errand`]), so that it needs no session, works for
//! trees and disks alike, and also when a migration has failed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
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
    /// What its journal has sealed; nothing before the first session.
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

/// File in the journal's folder with what is known.
const FILE: &str = "holdings.json";

/// What a target knows about its copy, written by its sessions. Durable, so that a receiver that is started anew
/// attests what the one before it found: its first note comes before the source hears that a round is sealed.
#[derive(Debug)]
pub struct Holdings {
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    sealed: Option<Sealed>,
    verified: Option<Verified>,
}

impl Holdings {
    /// What an earlier receiver left in the journal's folder, or nothing. What is not understood is not attested.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let known = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "not understood: nothing is attested until the next session");
                Known::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::default(),
            Err(error) => return Err(Error::io("read what the target holds", path, error)),
        };
        Ok(Self {
            folder: folder.to_owned(),
            known: Mutex::new(known),
        })
    }

    /// Notes what the journal has sealed, durably. An earlier verification is void if that is something else.
    ///
    /// # Errors
    /// The journal's folder cannot be written.
    pub fn seal(&self, sealed: Sealed) -> Result<()> {
        let known = self.lock();
        if known.sealed.as_ref() == Some(&sealed) {
            return Ok(());
        }
        self.note(
            known,
            Known {
                sealed: Some(sealed),
                verified: None,
            },
        )
    }

    /// Notes that the medium was re-read and found equal, durably.
    ///
    /// # Errors
    /// The journal's folder cannot be written.
    pub fn verify(&self, verified: Verified) -> Result<()> {
        let known = self.lock();
        let sealed = known.sealed.clone();
        self.note(
            known,
            Known {
                sealed,
                verified: Some(verified),
            },
        )
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it notes")
    }

    fn note(&self, mut known: MutexGuard<'_, Known>, new: Known) -> Result<()> {
        let path = self.folder.join(FILE);
        let write = || {
            let aside = self.folder.join(format!("{FILE}.new"));
            let mut file = File::create(&aside)?;
            file.write_all(&serde_json::to_vec(&new)?)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| Error::io("note what the target holds", &path, error))?;
        *known = new;
        Ok(())
    }

    /// Signs what is known, under the receipt with this digest.
    pub(crate) fn countersign(&self, receipt: &[u8; 32], key: &SigningKey) -> Result<Answer> {
        let statement = {
            let known = self.lock();
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
        let holdings = Holdings::open(folder.path()).unwrap();
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
        holdings.seal(sealed(1)).unwrap();
        holdings.verify(Verified::default()).unwrap();
        holdings.seal(sealed(1)).unwrap();
        let statement = sign(b"r").check(b"r").unwrap();
        assert_eq!(
            (statement.sealed, statement.verified),
            (Some(sealed(1)), Some(Verified::default()))
        );
        let again = Holdings::open(folder.path()).unwrap();
        assert_eq!(*again.lock(), *holdings.lock(), "a receiver that starts anew");
        holdings.seal(sealed(2)).unwrap();
        let mut signed = sign(b"r");
        assert_eq!(signed.check(b"r").unwrap().verified, None);
        assert!(signed.check(b"another").is_err());
        signed.statement = signed.statement.replace("\"generation\":2", "\"generation\":3");
        assert!(signed.check(b"r").is_err());
    }

    #[test]
    fn what_is_not_understood_is_not_attested() {
        let folder = tempfile::tempdir().unwrap();
        let holdings = Holdings::open(folder.path()).unwrap();
        holdings.seal(sealed(1)).unwrap();
        fs::write(folder.path().join(FILE), "{\"sealed\":7").unwrap();
        let holdings = Holdings::open(folder.path()).unwrap();
        assert_eq!(*holdings.lock(), Known::default());
        holdings.seal(sealed(2)).unwrap();
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(holdings.seal(sealed(3)).is_err(), "no place to note it");
        assert_eq!(holdings.lock().sealed, Some(sealed(2)));
    }
}
