//! Random names: ids of records, keys, tokens, codes.

use ring::rand::{SecureRandom, SystemRandom};

/// Characters of ids.
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of keys, tokens and codes.
const MIXED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn draw(alphabet: &[u8], count: usize) -> String {
    // Bytes at or above the greatest multiple of the alphabet's size are drawn again, so that no character is likelier.
    let usable = 256 - 256 % alphabet.len();
    let random = SystemRandom::new();
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let mut bytes = [0_u8; 64];
        random.fill(&mut bytes).expect("the kernel gives random bytes");
        let drawn = bytes.iter().filter(|byte| usize::from(**byte) < usable);
        text.extend(
            drawn
                .take(count - text.len())
                .map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])),
        );
    }
    text
}

/// An id: `prefix` and 8 lower-case letters or digits.
#[must_use]
pub fn id(prefix: &str) -> String {
    format!("{prefix}{}", draw(LOWER, 8))
}

/// Letters and digits, for secrets: 43 of them carry 256 bits.
#[must_use]
pub fn secret(count: usize) -> String {
    draw(MIXED, count)
}

/// A random UUID, as `RequestId` is.
#[must_use]
pub fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random bytes");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a text, in hexadecimal digits: how tokens and codes are kept.
#[must_use]
pub fn fingerprint(text: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}
