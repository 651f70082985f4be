//! Reading bodies within limits of size, time and memory.
//!
//! A body that is too long is still read to its end, up to a bound, and thrown away: a client that is cut off while it
//! sends never sees the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::{HeaderMap, header};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::POST_BYTES_MAX;
use crate::code::{ApiError, ApiResult, Code};

/// Bodies above this wait for one of few places, so that memory stays bounded: 4 × 10 MB beside 1000 × 32 KiB.
const SMALL_BYTES_MAX: usize = 32 * 1024;
const LARGE_AT_A_TIME: usize = 4;
/// So much of a body that is too long is read and thrown away.
const THROWN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a body may take: 10 MB at 200 KB/s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reads bodies.
#[derive(Debug)]
pub struct Bodies {
    large: Semaphore,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            large: Semaphore::new(LARGE_AT_A_TIME),
        }
    }
}

impl Bodies {
    /// Reads a body; the place that comes with a large one is to be held as long as its bytes.
    ///
    /// # Errors
    ///
    /// When it is too long, too slow, or ends early.
    pub async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> ApiResult<(Bytes, Option<SemaphorePermit<'_>>)> {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let is_large = match length {
            Some(length) => (SMALL_BYTES_MAX..usize::MAX).contains(&length),
            None => headers.contains_key(header::TRANSFER_ENCODING),
        };
        let place = if is_large {
            self.large.acquire().await.ok()
        } else {
            None
        };
        let read = tokio::time::timeout(TIMEOUT, collect(body, length.unwrap_or(0)));
        let slow = |_| {
            ApiError::new(
                Code::InvalidParameter,
                format!("the body took more than {} s", TIMEOUT.as_secs()),
            )
        };
        Ok((read.await.map_err(slow)??, place))
    }
}

async fn collect(mut body: Body, expected: usize) -> ApiResult<Bytes> {
    let mut bytes = Vec::with_capacity(expected.min(POST_BYTES_MAX));
    let mut thrown = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| ApiError::new(Code::InvalidParameter, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if thrown == 0 && bytes.len() + data.len() <= POST_BYTES_MAX {
            bytes.extend_from_slice(&data);
            continue;
        }
        bytes = Vec::new();
        thrown += data.len();
        if thrown > THROWN_BYTES_MAX {
            break;
        }
    }
    if thrown == 0 {
        Ok(bytes.into())
    } else {
        Err(ApiError::new(
            Code::LimitExceeded,
            format!("a request has at most {POST_BYTES_MAX} bytes"),
        ))
    }
}
