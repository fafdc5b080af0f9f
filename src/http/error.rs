//! What a client is told when a request fails: a fact and a hint in, JSON out. Never a word of the client's text.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A failed request: `{"error": …, "hint": …}`.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub error: String,
    pub hint: String,
}

impl ApiError {
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError { status, error: error.into(), hint: hint.into() }
    }

    pub fn no_route(path: &str) -> ApiError {
        let routes: Vec<_> = super::routes().collect();
        // The path is shown shortened: it is the client's own, but may be long.
        let path: String = path.chars().take(80).collect();
        ApiError::new(StatusCode::NOT_FOUND, format!("no route {path}"), format!("there are {}", routes.join(" ")))
    }

    pub fn wrong_method() -> ApiError {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method not allowed on this route",
            "POST texts to /score and /explain, GET the others; /openapi.json describes each",
        )
    }

    pub fn unauthorized() -> ApiError {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "token missing or wrong",
            "send the header `authorization: Bearer TOKEN` with the token of http.token_file",
        )
    }

    pub fn busy(max_requests: usize) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{max_requests} requests are under way, no more are taken"),
            "try again in a second, or raise http.max_requests",
        )
    }

    pub fn timeout(limit: Duration) -> ApiError {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("request took longer than {} ms", limit.as_millis()),
            "send less text at once, or raise http.timeout_ms",
        )
    }

    pub fn too_large(max_body_bytes: usize) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("body is larger than {max_body_bytes} bytes"),
            "send fewer texts at once, or raise http.max_body_bytes",
        )
    }

    pub fn body(rejection: &BytesRejection, max_body_bytes: usize) -> ApiError {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::too_large(max_body_bytes);
        }
        ApiError::new(StatusCode::BAD_REQUEST, "body ended early", "send as many bytes as content-length says")
    }

    /// JSON that does not parse; says where, never what stands there.
    pub fn not_json(error: &serde_json::Error) -> ApiError {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("body is not JSON (line {}, column {})", error.line(), error.column()),
            r#"send {"text": "…"}, or the bare text with `content-type: text/plain`"#,
        )
    }

    pub fn too_deep(deepest: usize) -> ApiError {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("body is nested deeper than {deepest} levels"),
            "send the text in an outer object, or raise input.max_depth",
        )
    }

    pub fn too_many_texts(n_texts: usize, max_texts: usize) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{n_texts} texts in one request, more than {max_texts}"),
            "send them in several requests, or raise http.max_texts",
        )
    }

    pub fn not_utf8() -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "body is not UTF-8", "encode the text as UTF-8")
    }

    pub fn not_ready(why: &str) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}"),
            "`vigie check` says what is missing; /live tells whether the process runs",
        )
    }

    /// Work that ended without a result: the service stops, or has a fault of its own.
    pub fn stopped() -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "request could not be finished", "try again; see the log")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = axum::Json(json!({"error": self.error, "hint": self.hint}));
        let mut response = (self.status, body).into_response();
        add_headers(&mut response);
        response
    }
}

/// The headers that a refusal owes its client.
pub fn add_headers(response: &mut Response) {
    let (name, value) = match response.status() {
        // Basic is offered so that a browser asks; the user name does not matter.
        StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer realm=\"vigie\", Basic realm=\"vigie\""),
        StatusCode::SERVICE_UNAVAILABLE => (header::RETRY_AFTER, "1"),
        // The rest of a refused body is not read.
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => (header::CONNECTION, "close"),
        _ => return,
    };
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
