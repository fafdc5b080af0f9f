//! The HTTP server: settings, a model and a metrics registry in, a running [`Server`] out.
//!
//! `connection` carries requests, over `tls` when asked to, `guard` lets them in, `score` and `perspective` answer those with texts, and what
//! only shows something is answered here.

mod connection;
mod error;
mod guard;
mod perspective;
mod score;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use prometheus::{Registry, TextEncoder};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{HttpSettings, InputSettings};
use crate::metrics::Metrics;
use crate::models::ModelHandle;
use crate::scoring::{Model, Scratch};
use connection::Limits;
use error::ApiError;
use guard::Token;
pub use tls::TlsError;

/// Says whether the service takes messages, or in a few words of ours why not; asked at each `GET /ready`.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("could not read http address \"{address}\"")]
    Address { address: String, source: io::Error },
    #[error("could not listen on {address}: the port is in use")]
    InUse { address: String },
    #[error("could not listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("could not read token file {}", path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    #[error("token file {} is empty", path.display())]
    EmptyToken { path: PathBuf },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl HttpError {
    /// The next step for the person who started the program.
    pub fn hint(&self) -> &'static str {
        match self {
            HttpError::Address { .. } => "write it as HOST:PORT, such as 127.0.0.1:9464, or `off` for no http",
            HttpError::InUse { .. } => {
                "stop the program that listens there, or choose another port: --http 127.0.0.1:9465 (port 0 takes a free one, `off` none)"
            }
            HttpError::Listen { .. } => {
                "choose an address of this machine and a port of 1024 or more: --http 127.0.0.1:9464"
            }
            HttpError::TokenFile { .. } => {
                "give this user the right to read it, or set http.token_file to another file"
            }
            HttpError::EmptyToken { .. } => {
                "write one line into it, such as the output of `openssl rand -hex 32`, or leave http.token_file empty to ask for none"
            }
            HttpError::Tls(error) => error.hint(),
        }
    }
}

/// A running server. Dropping it stops taking requests; [`Server::shutdown`] also waits for those under way.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens; the real port when port 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests and lets those under way finish; after `grace` it waits no longer, and they end with the process.
    pub async fn shutdown(self, grace: Duration) {
        // An error means that the server has ended already.
        let _ = self.stop.send(());
        let mut task = self.task;
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            warn!(grace_ms = grace.as_millis() as u64, "http requests are still under way and not waited for");
            task.abort();
        }
    }
}

/// Whether the settings ask for no server.
pub fn is_off(settings: &HttpSettings) -> bool {
    settings.http.eq_ignore_ascii_case("off")
}

/// Listens on `settings.http` and serves until the [`Server`] is shut down.
///
/// `registry` is what `/metrics` shows; `metrics` counts the requests. Call it inside a tokio runtime, and not when [`is_off`].
pub async fn start(
    settings: &HttpSettings,
    input: &InputSettings,
    model: ModelHandle,
    registry: Registry,
    metrics: Metrics,
    ready: ReadyCheck,
) -> Result<Server, HttpError> {
    // Token and certificates first: a server that would refuse everybody does not take the port.
    let tls = tls::acceptor(settings)?;
    let asks_who = !settings.token_file.is_empty() || !settings.tls_client_ca.is_empty();
    let router = router(settings, input, model, registry, metrics, ready)?;
    let listener = TcpListener::bind(settings.http.as_str()).await.map_err(|source| {
        let address = settings.http.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse { address },
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied => HttpError::Listen { address, source },
            _ => HttpError::Address { address, source },
        }
    })?;
    let address =
        listener.local_addr().map_err(|source| HttpError::Listen { address: settings.http.clone(), source })?;
    if !address.ip().is_loopback() && !asks_who {
        warn!(%address, "http is open to other machines and asks for no token; set http.token_file or http.tls_client_ca");
    }
    let (stop, stopped) = oneshot::channel::<()>();
    info!(%address, tls = tls.is_some(), "http listening");
    let limits = Limits::new(settings);
    // A dropped sender stops the server as well.
    let task = tokio::spawn(connection::serve(listener, router, tls, limits, async { drop(stopped.await) }));
    Ok(Server { address, stop, task })
}

/// What the server does with a request, without a socket: a tower service that takes requests and gives answers. Fails when the token
/// file cannot be read. Call it inside a tokio runtime.
pub fn router(
    settings: &HttpSettings,
    input: &InputSettings,
    model: ModelHandle,
    registry: Registry,
    metrics: Metrics,
    ready: ReadyCheck,
) -> Result<Router, HttpError> {
    let app = Arc::new(App {
        model,
        registry,
        metrics,
        ready,
        token: Token::read(&settings.token_file)?,
        timeout: Duration::from_millis(settings.timeout_ms),
        requests: Arc::new(Semaphore::new(settings.max_requests.clamp(1, Semaphore::MAX_PERMITS))),
        max_requests: settings.max_requests,
        max_texts: settings.max_texts,
        max_body_bytes: settings.max_body_bytes,
        input: input.clone(),
        scratches: Mutex::new(Vec::new()),
        page_policy: page_policy(),
    });
    let router = ROUTES.iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods()));
    Ok(router
        .fallback(async |uri: Uri| ApiError::no_route(uri.path()))
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(DefaultBodyLimit::max(settings.max_body_bytes))
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app))
}

/// What every handler sees.
struct App {
    model: ModelHandle,
    registry: Registry,
    metrics: Metrics,
    ready: ReadyCheck,
    token: Option<Token>,
    timeout: Duration,
    requests: Arc<Semaphore>,
    max_requests: usize,
    max_texts: usize,
    max_body_bytes: usize,
    input: InputSettings,
    /// Scratch memory between requests; never more pieces than requests at once.
    scratches: Mutex<Vec<Scratch>>,
    page_policy: HeaderValue,
}

/// Texts of up to this many bytes are scored where the request is read: under a millisecond, less than a thread costs.
const N_BYTES_INLINE: usize = 4096;

impl App {
    /// Runs a job that scores `n_bytes` of text, off the async workers when it is long.
    ///
    /// The slot of the request goes with the job: a job that outlives its request's timeout still counts as work.
    async fn work<T: Send + 'static>(
        self: &Arc<App>,
        slot: guard::Slot,
        n_bytes: usize,
        job: impl FnOnce(&Model, &mut Scratch) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = Arc::clone(self);
        let run = move || {
            let scratch = app.scratches.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut scratch = scratch.unwrap_or_default();
            let done = job(&app.model.current(), &mut scratch);
            app.scratches.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
            drop(slot);
            done
        };
        if n_bytes <= N_BYTES_INLINE {
            return Ok(run());
        }
        tokio::task::spawn_blocking(run).await.map_err(|_| ApiError::stopped())
    }
}

const PERSPECTIVE: &str = "/v1alpha1/comments:analyze";

type Methods = fn() -> MethodRouter<Arc<App>>;

/// Every route; `openapi.json` describes each.
const ROUTES: [(&str, Methods); 9] = [
    ("/", || get(page)),
    ("/score", || post(score::score)),
    ("/explain", || post(score::explain)),
    (PERSPECTIVE, || post(perspective::analyze)),
    ("/model", || get(model)),
    ("/metrics", || get(metrics)),
    ("/live", || get(live)),
    ("/ready", || get(ready)),
    ("/openapi.json", || get(openapi)),
];

/// The paths that the server answers.
pub fn routes() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|&(path, _)| path)
}

const PAGE: &str = include_str!("page.html");

async fn page(State(app): State<Arc<App>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, app.page_policy.clone()),
    ];
    (headers, PAGE).into_response()
}

/// Allows the page its own script and style, by their hashes, and nothing else.
fn page_policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        content_hash("<script>", "</script>"),
        content_hash("<style>", "</style>"),
    );
    HeaderValue::from_str(&policy).expect("base64 and ascii words make a header")
}

fn content_hash(open: &str, close: &str) -> String {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    let content = PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    let (content, _) = content.expect("page.html has one script and one style");
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(content)))
}

/// The description in the model file, with the file's hash; the canary texts stay out (they are samples of hate).
async fn model(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let model = app.model.current();
    let description: Result<BTreeMap<&str, &RawValue>, _> = serde_json::from_str(model.description());
    let mut description = description.map_err(|_| ApiError::stopped())?;
    description.remove("canaries");
    let sha256 = serde_json::value::to_raw_value(model.sha256()).map_err(|_| ApiError::stopped())?;
    description.insert("sha256", &sha256);
    Ok(axum::Json(description).into_response())
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = TextEncoder::new().encode_to_string(&app.registry.gather()).map_err(|_| ApiError::stopped())?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

async fn live() -> Response {
    axum::Json(serde_json::json!({"live": true})).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    (app.ready)().map_err(ApiError::not_ready)?;
    let model = app.model.current();
    Ok(axum::Json(serde_json::json!({"ready": true, "model": model.version()})).into_response())
}

async fn openapi() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, headers, include_str!("openapi.json")).into_response()
}
