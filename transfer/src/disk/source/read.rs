//! Reads chunks: only what is used, around what the medium cannot read.

use std::io;
use std::ops::Range;

use rustix::io::Errno;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::medium::Medium;

/// Free space up to this length between two used parts is read over: one request costs more than 32 KiB.
const GAP_LEN_MAX: u64 = 32 * 1024;
/// Length of a retry after a read error, in bytes; then single sectors.
const RETRY_LEN: u64 = 4096;

/// What a disk answers when it cannot read a place of itself: `BLK_STS_IOERR`, `_MEDIUM`, `_TARGET` and `_PROTECTION`, and a
/// file system beneath an image whose checksum does not fit. Anything else is no property of the place: the device is gone,
/// memory is short, or we asked wrongly.
const MEDIUM_ERRORS: [Errno; 5] = [
    Errno::IO,
    Errno::NODATA,
    Errno::REMOTEIO,
    Errno::ILSEQ,
    Errno::BADMSG,
];

/// Fills `buffer`, which stands for the medium from `start` on, with the `parts` of it; everything else becomes zero.
///
/// Returns the bytes read and the ranges that cannot be read even sector by sector; these become zero, too.
///
/// # Errors
/// Reading fails for another reason than the place: nothing can be said of what is there.
pub fn read_parts(
    medium: &dyn Medium,
    buffer: &mut [u8],
    start: u64,
    parts: &[Range<u64>],
) -> io::Result<(u64, Vec<Range<u64>>)> {
    let (mut bytes_read, mut filled_to) = (0, start);
    let mut bad = Vec::new();
    for group in parts.chunk_by(|a, b| b.start - a.end <= GAP_LEN_MAX) {
        let range = group[0].start..group[group.len() - 1].end;
        bytes_read += range.end - range.start;
        slice(buffer, start, &(filled_to..range.start)).fill(0);
        filled_to = range.end;
        read_range(medium, buffer, start, range, &mut bad)?;
        for pair in group.windows(2) {
            slice(buffer, start, &(pair[0].end..pair[1].start)).fill(0);
        }
    }
    let end = start + buffer.len() as u64;
    slice(buffer, start, &(filled_to..end)).fill(0);
    // What cannot be read but is not used either is no loss.
    bad.retain(|range| {
        parts
            .iter()
            .any(|part| part.start < range.end && range.start < part.end)
    });
    Ok((bytes_read, bad))
}

fn slice<'a>(buffer: &'a mut [u8], start: u64, range: &Range<u64>) -> &'a mut [u8] {
    &mut buffer[(range.start - start) as usize..(range.end - start) as usize]
}

fn read_range(
    medium: &dyn Medium,
    buffer: &mut [u8],
    start: u64,
    range: Range<u64>,
    bad: &mut Vec<Range<u64>>,
) -> io::Result<()> {
    match medium.read(slice(buffer, start, &range), range.start) {
        Ok(()) => return Ok(()),
        Err(error) if is_of_the_medium(&error) => {}
        Err(error) => return Err(error),
    }
    let step = match range.end - range.start {
        0..=RETRY_LEN => medium.sector_len(),
        _ => RETRY_LEN,
    };
    if range.end - range.start <= step {
        slice(buffer, start, &range).fill(0);
        match bad.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => bad.push(range),
        }
        return Ok(());
    }
    let mut at = range.start;
    while at < range.end {
        let end = ((at / step + 1) * step).min(range.end);
        read_range(medium, buffer, start, at..end, bad)?;
        at = end;
    }
    Ok(())
}

fn is_of_the_medium(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| MEDIUM_ERRORS.contains(&errno))
}

/// The bytes of a run of chunks on a medium of `len` bytes.
pub fn bytes_of(chunks: &Range<u64>, len: u64) -> Range<u64> {
    chunks.start * CHUNK_LEN..(chunks.end * CHUNK_LEN).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A medium with content `offset / 512 + 1` in every sector, and bad sectors.
    struct Scratched {
        bad: Vec<u64>,
        error: Errno,
        reads: Mutex<Vec<Range<u64>>>,
    }

    impl Medium for Scratched {
        fn length(&self) -> u64 {
            1 << 20
        }
        fn sector_len(&self) -> u64 {
            512
        }
        fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let end = offset + buffer.len() as u64;
            self.reads.lock().unwrap().push(offset..end);
            if self
                .bad
                .iter()
                .any(|sector| offset < (sector + 1) * 512 && sector * 512 < end)
            {
                return Err(self.error.into());
            }
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = ((offset + index as u64) / 512 + 1) as u8;
            }
            Ok(())
        }
        fn write(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!("the source is never written to")
        }
        fn zero(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("the source is never written to")
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bad_sectors_are_found_one_by_one_and_the_rest_is_read() {
        let medium = Scratched {
            bad: vec![3, 17, 18, 200],
            error: Errno::NODATA,
            reads: Mutex::default(),
        };
        let mut buffer = vec![9u8; 131_072];
        // Sector 200 is not used, but read over.
        let parts = [0..200 * 512, 201 * 512..131_072];
        let (bytes, bad) = read_parts(&medium, &mut buffer, 0, &parts).unwrap();
        assert_eq!(bytes, 131_072);
        assert_eq!(bad, [3 * 512..4 * 512, 17 * 512..19 * 512]);
        for (sector, content) in buffer.chunks(512).enumerate() {
            let expected = if [3, 17, 18, 200].contains(&sector) {
                0
            } else {
                (sector + 1) as u8
            };
            assert!(content.iter().all(|byte| *byte == expected), "sector {sector}");
        }
    }

    #[test]
    fn what_is_no_property_of_the_place_is_no_bad_sector() {
        for error in [Errno::NXIO, Errno::NODEV, Errno::NOMEM, Errno::INVAL] {
            let medium = Scratched {
                bad: vec![3],
                error,
                reads: Mutex::default(),
            };
            let whole = 0..65_536;
            let read = read_parts(&medium, &mut vec![0; 65_536], 0, std::slice::from_ref(&whole));
            assert_eq!(read.unwrap_err().raw_os_error(), Some(error.raw_os_error()));
        }
    }

    #[test]
    fn free_space_is_not_read() {
        let medium = Scratched {
            bad: Vec::new(),
            error: Errno::IO,
            reads: Mutex::default(),
        };
        let mut buffer = vec![9u8; 131_072];
        let parts = [65_536..69_632, 131_072..135_168];
        let (bytes, bad) = read_parts(&medium, &mut buffer, 65_536, &parts).unwrap();
        assert_eq!((bytes, bad.len()), (8192, 0));
        assert_eq!(*medium.reads.lock().unwrap(), [65_536..69_632, 131_072..135_168]);
        assert!(
            buffer[4096..65_536].iter().all(|byte| *byte == 0),
            "not used, not sent"
        );
    }
}
