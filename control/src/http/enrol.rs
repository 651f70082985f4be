//! `POST /enrol`: an enrolment code for temporary credentials. Not signed: the code is the proof.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, Request, Response};
use serde_json::{Map, Value};

use super::listener::PeerAddress;
use super::{Door, Peer, respond};
use crate::actions::{self, ENROL_ACTION};
use crate::code::{ApiError, ApiResult, Code};
use crate::{clock, identity};

/// Longest request, in bytes: a code has 36 characters.
const BODY_BYTES_MAX: usize = 4096;

pub(super) async fn enrol(
    State(door): State<Arc<Door>>,
    ConnectInfo(PeerAddress(peer)): Peer,
    request: Request<Body>,
) -> Response<Body> {
    let begun = Instant::now();
    let request_id = identity::uuid();
    let address = peer.ip().to_string();
    let result = exchange(&door, &address, request, &request_id).await;
    let code = result.as_ref().err().map_or("OK", |error| error.code.as_str());
    door.metrics.count(ENROL_ACTION, code, begun.elapsed());
    tracing::info!(target: "request", %request_id, action = ENROL_ACTION, %peer, code);
    respond(&result, &request_id)
}

async fn exchange(
    door: &Door,
    address: &str,
    request: Request<Body>,
    request_id: &str,
) -> ApiResult<Map<String, Value>> {
    if request.method() != Method::POST {
        return Err(ApiError::new(
            Code::UnsupportedProtocol,
            "an enrolment code is exchanged by POST",
        ));
    }
    if !door.rate.admit(address, ENROL_ACTION, Instant::now()) {
        return Err(ApiError::new(
            Code::RequestLimitExceeded,
            "too many enrolments from this address; wait a second",
        ));
    }
    let too_long = |_| {
        ApiError::new(
            Code::LimitExceeded,
            format!("an enrolment has at most {BODY_BYTES_MAX} bytes"),
        )
    };
    let bytes = to_bytes(request.into_body(), BODY_BYTES_MAX)
        .await
        .map_err(too_long)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|_| ApiError::new(Code::InvalidParameter, "the body must be {\"Code\":\"…\"}"))?;
    let code = value["Code"]
        .as_str()
        .ok_or_else(|| ApiError::new(Code::MissingParameter, "Code is required"))?;
    actions::exchange(&door.app, code, address, clock::now(), request_id).await
}
