//! Keys that sign receipts (Ed25519): one for each source and one for each target, made at first use and kept in a file
//! that only its owner can read.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Name of the algorithm, for people: nothing else is ever accepted.
pub const ALGORITHM: &str = "Ed25519";

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key in the file `path`, which is made when it is not there.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds no key.
    pub fn of(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(Error::io("read the key of the receipts", path, error)),
        };
        // Keys of older releases stand in quotes.
        let bytes = unhex(text.trim().trim_matches('"')).map(Zeroizing::new);
        bytes
            .and_then(|bytes| Ed25519KeyPair::from_pkcs8(&bytes).ok())
            .map(Self)
            .ok_or_else(|| {
                Error::new(Kind::Corrupt, "understand the key of the receipts")
                    .on(path)
                    .remedy("restore the file, or remove it: later receipts are then signed by a new key")
            })
    }

    /// The public key, hexadecimal.
    pub fn public_key(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// The signature of `bytes`, hexadecimal.
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex(self.0.sign(bytes).as_ref())
    }
}

/// Whether `signature` is that of `bytes` by `public_key`, both hexadecimal.
pub fn is_signed(bytes: &[u8], public_key: &str, signature: &str) -> bool {
    let (Some(public_key), Some(signature)) = (unhex(public_key), unhex(signature)) else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    key.verify(bytes, &signature).is_ok()
}

fn make(path: &Path) -> Result<Zeroizing<String>> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| Error::new(Kind::Medium, "get random numbers from the kernel"))?;
    let text = Zeroizing::new(hex(document.as_ref()));
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Error::io("keep the key of the receipts", path, error))?;
    Ok(text)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_file_is_one_key_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/receipt.key");
        let key = SigningKey::of(&path).unwrap();
        let again = SigningKey::of(&path).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let signature = key.sign(b"text");
        assert!(is_signed(b"text", &key.public_key(), &signature));
        assert!(!is_signed(b"texd", &key.public_key(), &signature));
        assert!(!is_signed(b"text", &key.public_key(), &signature[2..]));
        assert!(!is_signed(b"text", "", "") && !is_signed(b"text", "zz", "+1"));
        fs::write(&path, "no key").unwrap();
        assert!(SigningKey::of(&path).is_err());
    }
}
