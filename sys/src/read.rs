//! Reading into memory that nobody has to zero first.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

/// Appends up to `len` bytes from `offset` of `file` to `data`; fewer where the file ends. On an error `data` is as
/// before.
///
/// # Errors
/// What `pread` gives.
pub fn append_at(file: BorrowedFd<'_>, offset: u64, len: usize, data: &mut Vec<u8>) -> Result<()> {
    let start = data.len();
    data.reserve(len);
    while data.len() < start + len {
        let filled = data.len() - start;
        let free = &mut data.spare_capacity_mut()[..len - filled];
        let count = match rustix::io::pread(file, free, offset + filled as u64) {
            Ok(([], _)) => break,
            Ok((read, _)) => read.len(),
            Err(Errno::INTR) => continue,
            Err(error) => {
                data.truncate(start);
                return Err(error);
            }
        };
        let end = data.len() + count;
        // SAFETY: the kernel has written the `count` bytes behind the old length, and they lie within the capacity.
        unsafe { data.set_len(end) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn it_appends_what_is_there_and_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        let mut data = b"before".to_vec();
        super::append_at(file.as_file().as_fd(), 10, 50, &mut data).unwrap();
        assert_eq!(data, [b"before", &content[10..60]].concat());
        super::append_at(file.as_file().as_fd(), 99_990, 50, &mut data).unwrap();
        assert_eq!(data.len(), 6 + 50 + 10);
        assert_eq!(data[56..], content[99_990..]);
    }
}
