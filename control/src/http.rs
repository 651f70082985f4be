//! The door: HTTP in, HTTP 200 with `application/json` out, whatever was asked.
//!
//! A request is read within its size limit, understood ([`request`]), authenticated ([`auth`]), counted ([`rate`]), checked
//! against its table, and run. What it changes goes on even if the client hangs up.

pub mod auth;
pub mod body;
mod enrol;
pub mod listener;
pub mod rate;
pub mod request;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::routing::{any, get};
use csm::envelope::{self, ErrorBody};
use serde_json::Value;

use crate::actions;
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::metrics::Metrics;
use crate::schema::{self, Effect};
use crate::{clock, identity};
use auth::Authenticated;
use body::Bodies;
use rate::RateLimiter;
use request::Incoming;

/// Largest POST of version 3, in bytes: the reference's 10 MB.
pub const POST_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Largest POST of version 1, in bytes: the reference's 1 MB.
pub const FORM_BYTES_MAX: usize = 1024 * 1024;
/// Largest query of a GET, in bytes: the reference's 32 KB.
pub const QUERY_BYTES_MAX: usize = 32 * 1024;
/// What the door needs.
pub struct Door {
    /// What all requests share.
    pub app: Arc<App>,
    /// Counts requests.
    pub rate: RateLimiter,
    /// Counts everything else.
    pub metrics: Metrics,
    bodies: Bodies,
}

impl Door {
    /// Opens it.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        let rate = RateLimiter::new(app.settings.rate_limit);
        Self {
            app,
            rate,
            metrics: Metrics::default(),
            bodies: Bodies::default(),
        }
    }
}

/// All paths.
pub fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/enrol", any(enrol::enrol))
        .route("/console", get(console))
        .fallback(api)
        .with_state(door)
}

/// Peer address, as both listeners give it.
pub type Peer = ConnectInfo<listener::PeerAddress>;

async fn metrics(State(door): State<Arc<Door>>) -> Response<Body> {
    let text = door.app.engine.peek(|world| door.metrics.render(world));
    plain(StatusCode::OK, "text/plain; version=0.0.4", text)
}

async fn health(State(door): State<Arc<Door>>) -> Response<Body> {
    match door.app.engine.read(|_| Ok(())).await {
        Ok(()) => plain(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        Err(error) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            format!("{}\n", error.message),
        ),
    }
}

async fn console() -> Response<Body> {
    let mut response = plain(
        StatusCode::OK,
        "text/html; charset=utf-8",
        include_str!("console.html").to_owned(),
    );
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    response.headers_mut().insert(
        "content-security-policy",
        header::HeaderValue::from_static(policy),
    );
    response
}

fn plain(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}

fn respond(result: &ApiResult<serde_json::Map<String, Value>>, request_id: &str) -> Response<Body> {
    let text = match result {
        Ok(members) => envelope::success(members, request_id),
        Err(error) => {
            let error = ErrorBody {
                code: error.code.as_str().to_owned(),
                message: error.message.clone(),
            };
            envelope::failure(&error, request_id)
        }
    };
    plain(StatusCode::OK, envelope::CONTENT_TYPE, text)
}

async fn api(
    State(door): State<Arc<Door>>,
    ConnectInfo(listener::PeerAddress(peer)): Peer,
    request: Request<Body>,
) -> Response<Body> {
    let begun = Instant::now();
    let request_id = identity::uuid();
    let (action, who, result) = match understand(&door, peer, request, &request_id).await {
        Ok(call) => {
            let (action, who) = (call.action, call.caller.secret_id.clone());
            (Some(action), who, run(&door, call).await)
        }
        Err(error) => (None, String::new(), Err(error)),
    };
    let name = action.map_or("", |action| action.name);
    let code = result.as_ref().err().map_or("OK", |error| error.code.as_str());
    door.metrics.count(name, code, begun.elapsed());
    let is_rare = action.is_none_or(|action| action.effect == Effect::Change) || result.is_err();
    let ms = begun.elapsed().as_millis() as u64;
    if is_rare {
        tracing::info!(target: "request", %request_id, action = name, who, %peer, code, ms);
    } else {
        tracing::debug!(target: "request", %request_id, action = name, who, %peer, code, ms);
    }
    respond(&result, &request_id)
}

/// Runs a call in a task of its own, so that it ends even if the client does not wait for it, and writes it down.
async fn run(door: &Arc<Door>, call: Call) -> ApiResult<serde_json::Map<String, Value>> {
    let app = door.app.clone();
    let task = tokio::spawn(async move {
        let result = actions::run(&app, &call).await;
        let is_written = call.audited.load(std::sync::atomic::Ordering::Acquire);
        if call.action.effect != Effect::Read && !is_written {
            let code = result.as_ref().err().map_or("OK", |error| error.code.as_str());
            app.engine.note(call.audit(code)).await;
        }
        result
    });
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request ended in a defect of this program");
        Err(ApiError::new(
            Code::InternalError,
            "this is a defect of the control plane; its log says more",
        ))
    })
}

/// From bytes to a call that may be run.
async fn understand(
    door: &Door,
    peer: SocketAddr,
    request: Request<Body>,
    request_id: &str,
) -> ApiResult<Call> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::GET && parts.method != Method::POST {
        return Err(ApiError::new(
            Code::UnsupportedProtocol,
            "only GET and POST are served",
        ));
    }
    if parts.uri.path() != "/" {
        return Err(ApiError::new(
            Code::UnsupportedProtocol,
            "the API has one path, /",
        ));
    }
    let (bytes, _place) = door.bodies.read(&parts.headers, body).await?;
    let query = parts.uri.query().unwrap_or_default();
    let incoming = Incoming::read(&parts.method, query, &parts.headers, &bytes)?;
    let now = clock::now();
    let authenticated = match auth::authenticate(&door.app, &incoming, now) {
        Err(error) if error.code == Code::SecretIdNotFound => {
            // The key may have been made a moment ago, by another program.
            door.app.engine.refresh_keys().await;
            auth::authenticate(&door.app, &incoming, now)?
        }
        other => other?,
    };
    build(door, peer, &incoming, authenticated, now, request_id)
}

fn build(
    door: &Door,
    peer: SocketAddr,
    incoming: &Incoming<'_>,
    authenticated: Authenticated,
    now: i64,
    request_id: &str,
) -> ApiResult<Call> {
    let Authenticated {
        caller,
        service,
        mark,
    } = authenticated;
    let unknown = || {
        ApiError::new(
            Code::InvalidAction,
            format!("{} has no action {:.64}", service.name(), incoming.action),
        )
    };
    let action = schema::find(service, &incoming.action).ok_or_else(unknown)?;
    if incoming.version != service.version() {
        let message = format!(
            "{} is served in version {} only",
            service.name(),
            service.version()
        );
        return Err(ApiError::new(Code::NoSuchVersion, message));
    }
    if !door.rate.admit(&caller.secret_id, action.name, Instant::now()) {
        let message = format!(
            "more than {} calls of {} in a second",
            door.rate.per_second(),
            action.name
        );
        return Err(ApiError::new(Code::RequestLimitExceeded, message));
    }
    if caller.source.is_some() && action.audience == schema::Audience::Account {
        let message = format!("temporary credentials may not call {}", action.name);
        return Err(ApiError::new(Code::AuthUnauthorized, message));
    }
    check_region(door, action, &incoming.region)?;
    if let Some((mark, expires)) = mark
        && (action.effect != Effect::Read || incoming.is_version_1())
    {
        door.app.engine.admit(&mark, expires, action.effect)?;
    }
    let (tree, encoding) = incoming.parameters()?;
    let params = schema::check(action, tree, encoding)?;
    Ok(Call {
        service,
        action,
        params,
        caller,
        region: incoming.region.clone(),
        now,
        request_id: request_id.to_owned(),
        address: peer.ip().to_string(),
        audited: false.into(),
    })
}

fn check_region(door: &Door, action: &schema::Action, region: &str) -> ApiResult<()> {
    let known = &door.app.settings.regions;
    if !action.regional || known.iter().any(|known| known == region) {
        return Ok(());
    }
    if region.is_empty() {
        return Err(ApiError::new(Code::MissingParameter, "Region is required"));
    }
    let message = format!("there is no region {region:.64}; there are {}", known.join(", "));
    Err(ApiError::new(Code::UnsupportedRegion, message))
}
