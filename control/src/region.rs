//! Regions: names that the operator chose for the places served.

/// Names served when none are given: one for this machine, and the one that the published examples use.
pub const DEFAULT: [&str; 2] = ["local-1", "ap-guangzhou"];

/// Letters, digits and hyphens, beginning with a letter, up to 64.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
