//! Buffers whose address satisfies `O_DIRECT`: aligned to 4096 bytes, which is a multiple of every sector size.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

/// Alignment of addresses, offsets and lengths of direct I/O, in bytes.
pub const ALIGNMENT: usize = 4096;

/// A growing byte buffer whose first byte lies on a 4096-byte boundary.
///
/// All of its memory has been initialised once: growing within the capacity costs nothing.
#[derive(Default)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            memory: Vec::new(),
            start: 0,
            len: 0,
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0u8; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "a byte pointer can always be aligned");
        Self { memory, start, len }
    }

    /// An empty buffer with room for `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        let mut buffer = Self::zeroed(len);
        buffer.clear();
        buffer
    }

    /// How many bytes it holds before it has to move.
    pub fn capacity(&self) -> usize {
        self.memory.len().saturating_sub(ALIGNMENT)
    }

    /// Makes room for `additional` bytes behind its end.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len + additional;
        if needed > self.capacity() {
            let mut larger = Self::with_capacity(needed.max(2 * self.capacity()));
            larger.len = self.len;
            larger.copy_from_slice(self);
            *self = larger;
        }
    }

    /// Makes it `len` bytes long. What is added may hold anything that the buffer held before.
    pub fn set_len(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len));
        self.len = len;
    }

    /// Keeps the first `len` bytes; none are added.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends a copy of `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len;
        self.set_len(end + bytes.len());
        self[end..].copy_from_slice(bytes);
    }

    /// Appends up to `len` bytes from `offset` of `file`, in bytes; fewer where the file ends. On an error the buffer is as
    /// before.
    ///
    /// # Errors
    /// What `pread` gives.
    pub fn append_from(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<()> {
        let start = self.len;
        self.set_len(start + len);
        let mut filled = 0;
        while filled < len {
            match rustix::io::pread(file, &mut self[start + filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.truncate(start);
                    return Err(error);
                }
            }
        }
        self.truncate(start + filled);
        Ok(())
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl From<&[u8]> for AlignedBuffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::new();
        buffer.extend_from_slice(bytes);
        buffer
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        Self::from(&self[..])
    }
}

impl PartialEq for AlignedBuffer {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for AlignedBuffer {}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_first_byte_is_aligned_whatever_the_length() {
        for len in [0, 1, 511, 4096, 65_537, 1 << 20] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn it_grows_like_a_vector_and_stays_aligned() {
        let mut expected: Vec<u8> = Vec::new();
        let mut buffer = AlignedBuffer::new();
        for round in 1..200usize {
            let piece = vec![round as u8; round * 37 % 5000];
            expected.extend_from_slice(&piece);
            buffer.extend_from_slice(&piece);
            if round % 7 == 0 {
                expected.truncate(expected.len() / 2);
                buffer.truncate(expected.len());
            }
            assert_eq!(buffer[..], expected[..]);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
        }
        let capacity = buffer.capacity();
        buffer.clear();
        buffer.set_len(capacity);
        assert_eq!((buffer.len(), buffer.capacity()), (capacity, capacity));
    }

    #[test]
    fn it_appends_what_is_there_and_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        let mut data = AlignedBuffer::from(&b"before"[..]);
        data.append_from(file.as_file().as_fd(), 10, 50).unwrap();
        assert_eq!(data[..], [b"before", &content[10..60]].concat());
        data.append_from(file.as_file().as_fd(), 99_990, 50).unwrap();
        assert_eq!(data.len(), 6 + 50 + 10);
        assert_eq!(data[56..], content[99_990..]);
    }
}
