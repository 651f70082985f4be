//! How long increments are synchronised: `IncrementalTime`, in both forms that are read.
//!
//! The reference calls it an end time, its error codes bound a duration, and the tool's flag counts minutes. So
//! `YYYY-MM-DDThh:mm:ssZ` is the end, counted from the start of the job, and a whole number is minutes; either must come
//! to at least one hour and at most seven days.

use crate::code::{ApiError, ApiResult, Code};
use crate::schema::parse_time;

const HOUR: i64 = 60 * 60;
const WEEK: i64 = 7 * 24 * HOUR;

/// Checks the text. `begin` is when the job starts, in seconds since 1970.
///
/// # Errors
///
/// The code for the form, or for too short or too long.
pub fn check(text: &str, begin: i64) -> ApiResult<()> {
    if text.is_empty() {
        return Ok(());
    }
    let seconds = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(60)
    } else {
        let form = "IncrementalTime must be minutes, or an end such as 2026-01-31T08:00:00Z";
        parse_time(text).ok_or_else(|| ApiError::new(Code::InvalidTimeFormat, form))? - begin
    };
    if seconds < HOUR {
        return Err(ApiError::new(
            Code::IncrementalTimeLessThanOneHour,
            "increments take at least one hour",
        ));
    }
    if seconds > WEEK {
        return Err(ApiError::new(
            Code::IncrementalTimeGreaterThanSevenDays,
            "increments take at most seven days",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::code::Code;

    #[test]
    fn both_forms_and_their_bounds() {
        let begin = 1_800_000_000;
        let end = |seconds: i64| crate::clock::text(begin + seconds);
        let code = |text: &str| check(text, begin).err().map(|error| error.code);
        assert_eq!(code(""), None);
        assert_eq!(code("60"), None);
        assert_eq!(code("10080"), None);
        assert_eq!(code("59"), Some(Code::IncrementalTimeLessThanOneHour));
        assert_eq!(code("10081"), Some(Code::IncrementalTimeGreaterThanSevenDays));
        assert_eq!(
            code("99999999999999999999999"),
            Some(Code::IncrementalTimeGreaterThanSevenDays)
        );
        assert_eq!(code(&end(3600)), None);
        assert_eq!(code(&end(3599)), Some(Code::IncrementalTimeLessThanOneHour));
        assert_eq!(code(&end(7 * 86400)), None);
        assert_eq!(
            code(&end(7 * 86400 + 1)),
            Some(Code::IncrementalTimeGreaterThanSevenDays)
        );
        assert_eq!(code(&end(-5)), Some(Code::IncrementalTimeLessThanOneHour));
        for bad in [
            "soon",
            "2026-01-31",
            "2026-01-31 08:00:00",
            "-60",
            "1h",
            "2026-13-31T08:00:00Z",
        ] {
            assert_eq!(code(bad), Some(Code::InvalidTimeFormat), "{bad}");
        }
    }
}
