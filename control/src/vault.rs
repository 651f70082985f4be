//! Sealing of secrets that the database keeps.
//!
//! The database alone reveals no secret key: each is sealed with AES-256-GCM under a key that lies in a file of its own
//! beside the database (mode 0600). The record's id is bound in, so that sealed texts cannot be moved between records.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use csm::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;

/// What goes wrong with secrets.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key file cannot be used.
    #[error("cannot use the key file {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The key file has another form.
    #[error(
        "the key file {0} must hold exactly {KEY_LEN} bytes and be readable for its owner only (chmod 600)"
    )]
    Form(String),
    /// A sealed text does not open.
    #[error("a sealed secret does not open: the key file does not belong to this database")]
    Sealed,
}

/// Seals and opens.
pub struct Vault {
    key: LessSafeKey,
}

impl Vault {
    /// Reads the key file, or makes it.
    ///
    /// # Errors
    ///
    /// When the file cannot be used or others may read it.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let wrap = |source| VaultError::File {
            path: path.display().to_string(),
            source,
        };
        let mut bytes = Zeroizing::new([0_u8; KEY_LEN]);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
        {
            Ok(mut file) => {
                SystemRandom::new()
                    .fill(&mut *bytes)
                    .expect("the kernel gives random bytes");
                file.write_all(&*bytes)
                    .and_then(|()| file.sync_all())
                    .map_err(wrap)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut file = std::fs::File::open(path).map_err(wrap)?;
                let metadata = file.metadata().map_err(wrap)?;
                if metadata.len() != KEY_LEN as u64 || metadata.permissions().mode() & 0o077 != 0 {
                    return Err(VaultError::Form(path.display().to_string()));
                }
                file.read_exact(&mut *bytes).map_err(wrap)?;
            }
            Err(error) => return Err(wrap(error)),
        }
        let key = UnboundKey::new(&AES_256_GCM, &*bytes).expect("the key has the cipher's length");
        Ok(Self {
            key: LessSafeKey::new(key),
        })
    }

    /// Seals a text for a record.
    #[must_use]
    pub fn seal(&self, record_id: &str, secret: &Secret) -> String {
        let mut nonce = [0_u8; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .expect("the kernel gives random bytes");
        let mut bytes = secret.reveal().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(record_id),
                &mut bytes,
            )
            .expect("secrets are far shorter than the cipher's limit");
        let mut sealed = nonce.to_vec();
        sealed.append(&mut bytes);
        STANDARD.encode(sealed)
    }

    /// Opens what was sealed for the same record.
    ///
    /// # Errors
    ///
    /// When it was sealed under another key or for another record.
    pub fn unseal(&self, record_id: &str, sealed: &str) -> Result<Secret, VaultError> {
        let bytes = STANDARD.decode(sealed).map_err(|_| VaultError::Sealed)?;
        let (nonce, body) = bytes.split_at_checked(NONCE_LEN).ok_or(VaultError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Sealed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(record_id), &mut body)
            .map_err(|_| VaultError::Sealed)?;
        let text = std::str::from_utf8(plain).map_err(|_| VaultError::Sealed)?;
        Ok(Secret::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_texts_open_only_for_their_record_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let vault = Vault::open(&path).unwrap();
        let sealed = vault.seal("one", &Secret::new("hunter2"));
        assert!(!sealed.contains("hunter2"));
        let again = Vault::open(&path).unwrap();
        assert_eq!(again.unseal("one", &sealed).unwrap().reveal(), "hunter2");
        assert!(again.unseal("two", &sealed).is_err(), "moved to another record");
        let other = Vault::open(&folder.path().join("other")).unwrap();
        assert!(other.unseal("one", &sealed).is_err(), "another key");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Vault::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Vault::open(&path), Err(VaultError::Form(_))));
    }
}
