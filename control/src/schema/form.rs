//! Forms of texts: ids, times, versions, enumerations.

use crate::code::{ApiError, ApiResult, Code};

/// The form that a text must have beyond its length and characters.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Any.
    Any,
    /// One of a list.
    OneOf(&'static [&'static str], Code),
    /// What a function says; the text says what it wants.
    Matches(fn(&str) -> bool, &'static str, Code),
}

impl Check {
    pub(super) fn verify(self, path: &str, text: &str) -> ApiResult<()> {
        match self {
            Check::Any => Ok(()),
            Check::OneOf(values, code) => {
                if values.contains(&text) {
                    return Ok(());
                }
                Err(ApiError::new(
                    code,
                    format!("{path} must be one of {}", values.join(", ")),
                ))
            }
            Check::Matches(matches, wanted, code) => {
                if matches(text) {
                    return Ok(());
                }
                Err(ApiError::new(code, format!("{path} must be {wanted}")))
            }
        }
    }
}

fn tail(text: &str, prefix: &str, min: usize, max: usize) -> bool {
    text.strip_prefix(prefix).is_some_and(|tail| {
        (min..=max).contains(&tail.len())
            && tail
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// `migrate-` and 8 lower-case letters or digits.
#[must_use]
pub fn is_job_id(text: &str) -> bool {
    tail(text, "migrate-", 8, 8)
}

/// `ss-` and 8 lower-case letters or digits.
#[must_use]
pub fn is_source_id(text: &str) -> bool {
    tail(text, "ss-", 8, 8)
}

/// `ins-` and 8 lower-case letters or digits.
#[must_use]
pub fn is_instance_id(text: &str) -> bool {
    tail(text, "ins-", 8, 8)
}

/// `lhins-` or `lhmins-` and 8 lower-case letters or digits.
#[must_use]
pub fn is_lighthouse_id(text: &str) -> bool {
    tail(text, "lhins-", 8, 8) || tail(text, "lhmins-", 8, 8)
}

/// Either kind of instance id, or empty.
pub(super) fn is_any_instance_id(text: &str) -> bool {
    text.is_empty() || is_instance_id(text) || is_lighthouse_id(text)
}

pub(super) fn is_image_id(text: &str) -> bool {
    tail(text, "img-", 8, 8)
}

pub(super) fn is_vpc_id(text: &str) -> bool {
    tail(text, "vpc-", 1, 32)
}

pub(super) fn is_subnet_id(text: &str) -> bool {
    tail(text, "subnet-", 1, 32)
}

pub(super) fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A family in upper case, a dot and a size, of no bare-metal family (`BM…`, `EBM…`, `CPM…`).
#[must_use]
pub fn is_virtual_instance_type(text: &str) -> bool {
    let Some((family, size)) = text.split_once('.') else {
        return false;
    };
    let upper = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    upper(family) && upper(size) && !["BM", "EBM", "CPM"].iter().any(|metal| family.starts_with(metal))
}

pub(super) fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .is_ok_and(|bytes| bytes.len() <= 16 * 1024)
}

/// The numbers of a version such as `2.1.3` or `1.0.0-rc1`; `None` if it is none.
#[must_use]
pub fn version_numbers(text: &str) -> Option<Vec<u32>> {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let numbers = plain.split('.').map(|part| {
        part.parse()
            .ok()
            .filter(|_| part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let numbers = numbers.collect::<Option<Vec<u32>>>()?;
    (2..=4).contains(&numbers.len()).then_some(numbers)
}

pub(super) fn is_version(text: &str) -> bool {
    version_numbers(text).is_some()
}

/// Seconds since 1970 of a time written exactly as `YYYY-MM-DDThh:mm:ssZ`.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let shape = b"0000-00-00T00:00:00Z";
    let fits = text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, form)| {
            if *form == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == *form
            }
        });
    if !fits {
        return None;
    }
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}

pub(super) fn is_time(text: &str) -> bool {
    parse_time(text).is_some()
}

pub(super) fn is_time_or_empty(text: &str) -> bool {
    text.is_empty() || is_time(text)
}

/// Digits without sign, up to 12.
pub(super) fn is_digits_or_empty(text: &str) -> bool {
    text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A decimal number from 0 to 100.
pub(super) fn is_progress(text: &str) -> bool {
    text.len() <= 20
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text
            .parse::<f64>()
            .is_ok_and(|number| (0.0..=100.0).contains(&number))
}
