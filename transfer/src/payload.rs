//! Payloads that carry data and say what they are: the data, what they are (postcard), `u32` length of the latter.
//!
//! The data come first so that they lie where direct I/O can take them, at the source as read and at the target as received.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sys::aligned::AlignedBuffer;

use crate::error::{Error, Kind, Result};

/// Appends to `data` what they are.
///
/// # Errors
/// Never for what postcard can express.
pub fn describe<D: Serialize + ?Sized>(mut data: AlignedBuffer, description: &D) -> Result<AlignedBuffer> {
    let description = postcard::to_stdvec(description)
        .map_err(|error| Error::new(Kind::Corrupt, "encode a frame").because(error))?;
    data.extend_from_slice(&description);
    data.extend_from_slice(&(description.len() as u32).to_le_bytes());
    Ok(data)
}

/// Takes a payload apart: what the data are, and the data.
///
/// # Errors
/// [`Kind::Corrupt`]: truncated, malformed, or bytes are left over.
pub fn open<D: DeserializeOwned>(payload: &[u8]) -> Result<(D, &[u8])> {
    let broken = |what| {
        Error::new(Kind::Corrupt, format!("understand a frame with {what}"))
            .remedy("use the same release of go2cloud on both sides")
    };
    let (rest, len) = payload
        .split_last_chunk::<4>()
        .ok_or_else(|| broken("no description"))?;
    let begin = rest.len().checked_sub(u32::from_le_bytes(*len) as usize);
    let (data, description) = rest.split_at(begin.ok_or_else(|| broken("a truncated description"))?);
    match postcard::take_from_bytes(description) {
        Ok((description, [])) => Ok((description, data)),
        Ok(_) => Err(broken("bytes left over")),
        Err(error) => Err(broken("a malformed description").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_payload() {
        let payload = describe(AlignedBuffer::from(&b"xyz"[..]), &(300u32, "ab")).unwrap();
        assert_eq!(crate::signature::hex(&payload), "78797aac0202616205000000");
        let opened: ((u32, String), &[u8]) = open(&payload).unwrap();
        assert_eq!(opened, ((300, "ab".to_owned()), &b"xyz"[..]));
        for cut in 1..payload.len() {
            assert!(open::<(u32, String)>(&payload[..payload.len() - cut]).is_err());
        }
        assert!(open::<u32>(&payload).is_err(), "bytes left over");
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes: Vec<u8>, len in 0u32..64) {
            let mut payload = bytes;
            payload.extend_from_slice(&len.to_le_bytes());
            drop(open::<Vec<(u64, String)>>(&payload));
        }
    }
}
