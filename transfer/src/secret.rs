//! The migration's secret: what both peers must know before they say anything to each other.

use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Shortest secret accepted, in bytes: 128 bits if they are random hexadecimal digits.
const LEN_MIN: usize = 32;
/// Longest secret accepted, in bytes.
const LEN_MAX: usize = 512;

/// A shared secret. Never printed, never serialised; its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes a secret from text, for instance the control plane's migration password.
    ///
    /// # Errors
    /// Shorter than 32 or longer than 512 bytes after trimming white space.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let text = text.trim_ascii();
        if !(LEN_MIN..=LEN_MAX).contains(&text.len()) {
            return Err(
                Error::new(Kind::Usage, format!("use a secret of {} bytes", text.len())).remedy(format!(
                    "it must have {LEN_MIN} to {LEN_MAX} bytes, for instance: openssl rand -hex 32"
                )),
            );
        }
        Ok(Self(Zeroizing::new(text.to_vec())))
    }

    /// Reads a secret from the first line of a file.
    ///
    /// # Errors
    /// The file cannot be read, or [`Secret::parse`] refuses its first line.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|error| Error::io("read the secret file", path, error))?;
        let text = Zeroizing::new(text);
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Self::parse(line).map_err(|error| error.on(path))
    }

    /// A new random secret: 64 hexadecimal digits.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), bytes.as_mut())
            .map_err(|_| Error::new(Kind::Medium, "get random numbers from the kernel"))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::parse(Zeroizing::new(text).as_bytes())
    }

    /// The bytes, for key derivation and for handing the secret to the peer by another secured channel.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}
