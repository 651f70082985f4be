//! Tells a swap area, whose content never matters, from something else over the signature of an old one.
//!
//! The signature ends the first page; what came later may have left it alone. So the header must be sound, too, as mkswap
//! makes it: `union swap_header` of linux/swap.h, behind 1024 bytes of zeros.

use crate::disk::message::is_zero;

const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";
/// The signature ends the first page, whatever the page size was.
const PAGE_LENS: [usize; 4] = [4096, 8192, 16_384, 65_536];
/// Version, last page and number of bad pages follow what is kept free for a boot loader, labels of disks and the like.
const HEADER_OFFSET: usize = 1024;
/// Where the list of bad pages begins, 4 bytes each.
const BAD_PAGES_OFFSET: usize = 1536;

/// Length of the pages of a swap area that begins so, if there is the signature of one.
pub fn page_len(head: &[u8]) -> Option<usize> {
    let is_signed = |page: &usize| head.get(page - SIGNATURE.len()..*page) == Some(SIGNATURE);
    PAGE_LENS.into_iter().find(is_signed)
}

/// Whether an area of `len` bytes has a sound header.
pub fn is_sound(head: &[u8], len: u64) -> bool {
    let number = |index: usize| {
        let bytes = head.get(HEADER_OFFSET + index * 4..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let (Some(page), Some(version), Some(last_page), Some(bad_pages)) =
        (page_len(head), number(0), number(1), number(2))
    else {
        return false;
    };
    let bad_pages_max = (page - SIGNATURE.len() - BAD_PAGES_OFFSET) / 4;
    version == 1
        && last_page > 0
        && (u64::from(last_page) + 1) * page as u64 <= len
        && bad_pages as usize <= bad_pages_max
        && is_zero(&head[..HEADER_OFFSET])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sound_header_is_taken_for_one() {
        let len = 8 << 20;
        let mut sound = vec![0; 128 * 1024];
        sound[4096 - 10..4096].copy_from_slice(SIGNATURE);
        sound[1024] = 1;
        sound[1028..1032].copy_from_slice(&2047u32.to_le_bytes());
        assert!(is_sound(&sound, len) && page_len(&sound) == Some(4096));
        assert!(!is_sound(&sound, len - 4096), "it ends before its last page");
        // A boot loader, another version, no page, more bad pages than there is room for.
        for (at, value) in [(0, 0xeb), (1024, 2), (1029, 0), (1034, 1)] {
            let mut other = sound.clone();
            other[at] = value;
            other[1028] &= if at == 1029 { 0 } else { 0xff };
            assert!(!is_sound(&other, len), "byte {at}");
        }
        assert!(page_len(&sound[..2048]).is_none() && !is_sound(&sound[..1030], len));
    }
}
