//! Stands before every route: a request in, its answer or a refusal out, counted, timed and with security headers.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use super::{App, HttpError, PERSPECTIVE, perspective};

/// A request's place among those worked on at once; free again when the last holder drops it.
pub type Slot = Arc<OwnedSemaphorePermit>;

/// Probes answer when the service is busy, and to programs that know no token.
const PROBES: [&str; 3] = ["/live", "/ready", "/metrics"];

const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("other", MatchedPath::as_str);
    let answered = match admit(&app, route, &mut request) {
        Ok(()) => {
            tokio::time::timeout(app.timeout, next.run(request)).await.map_err(|_| ApiError::timeout(app.timeout))
        }
        Err(refused) => Err(refused),
    };
    let mut response = answered.unwrap_or_else(|error| match route {
        PERSPECTIVE => perspective::refuse(error),
        _ => error.into_response(),
    });
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    app.metrics.http_requests.with_label_values(&[route, response.status().as_str()]).inc();
    app.metrics.http_request_seconds.with_label_values(&[route]).observe(started.elapsed().as_secs_f64());
    response
}

/// Refuses a request without the token or without a free slot; puts the slot into the request.
fn admit(app: &App, route: &str, request: &mut Request) -> Result<(), ApiError> {
    if PROBES.contains(&route) {
        return Ok(());
    }
    if let Some(token) = &app.token {
        let shown = token.is_shown(request.headers()) || (route == PERSPECTIVE && token.is_key(request.uri()));
        if !shown {
            return Err(ApiError::unauthorized());
        }
    }
    let slot = Arc::clone(&app.requests).try_acquire_owned().map_err(|_| ApiError::busy(app.max_requests))?;
    request.extensions_mut().insert::<Slot>(Arc::new(slot));
    Ok(())
}

/// The bearer token, kept as its hash: hashes of equal length compare in constant time, whatever a client sends.
pub struct Token {
    sha256: [u8; 32],
}

impl Token {
    /// Reads the token file; `None` when no file is named.
    pub fn read(path: &str) -> Result<Option<Token>, HttpError> {
        if path.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(path);
        let token = match fs::read_to_string(&path) {
            Ok(token) => token,
            Err(source) => return Err(HttpError::TokenFile { path, source }),
        };
        match token.trim() {
            "" => Err(HttpError::EmptyToken { path }),
            token => Ok(Some(Token { sha256: Sha256::digest(token).into() })),
        }
    }

    fn is(&self, candidate: &[u8]) -> bool {
        self.sha256.ct_eq(Sha256::digest(candidate).as_slice()).into()
    }

    /// As `Bearer TOKEN`, or as the password of Basic, which is how a browser can send it.
    fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, credentials)) = shown.and_then(|shown| shown.split_once(' ')) else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(credentials.trim().as_bytes());
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).unwrap_or_default();
        let password = decoded.iter().position(|&byte| byte == b':').map(|colon| &decoded[colon + 1..]);
        scheme.eq_ignore_ascii_case("basic") && password.is_some_and(|password| self.is(password))
    }

    /// As `?key=TOKEN`: the only place where a Perspective API client can put it.
    fn is_key(&self, uri: &Uri) -> bool {
        #[derive(Deserialize)]
        struct Key {
            key: String,
        }
        Query::<Key>::try_from_uri(uri).is_ok_and(|Query(Key { key })| self.is(key.as_bytes()))
    }
}
