//! Carries requests over connections: a listening socket and a router in, every connection served within its bounds, until told to stop.
//!
//! No client can hold a connection without getting on: the TLS handshake, the head of a request, the request itself (`guard`) and each part
//! of its answer have a time limit, and the number of connections has a bound. So a thousand slow clients cost at most a thousand places,
//! each for a while.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::config::HttpSettings;

/// Bytes of a request's head, and of what is read ahead of it. The longest head of an honest client is a few kilobytes.
const MOST_BUFFERED_BYTES: usize = 64 << 10;
/// Between two tries when no connection can be taken, as when the process is out of file handles.
const RETRY: Duration = Duration::from_secs(1);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    n_connections: usize,
    /// For the TLS handshake and the head of a request, also the wait for the next request.
    head: Duration,
    /// For the client to take a part of its answer.
    write: Duration,
}

impl Limits {
    pub fn new(settings: &HttpSettings) -> Limits {
        Limits {
            n_connections: settings.max_connections.clamp(1, Semaphore::MAX_PERMITS),
            head: Duration::from_millis(settings.header_timeout_ms),
            write: Duration::from_millis(settings.timeout_ms),
        }
    }
}

/// Serves until `stopped`, then takes no more connections and waits until those under way have answered what they were asked.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    stopped: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MOST_BUFFERED_BYTES);
    let server = Arc::new(Connections { http, router, tls, limits });
    let places = Arc::new(Semaphore::new(limits.n_connections));
    let under_way = GracefulShutdown::new();
    let mut stopped = pin!(stopped);
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stopped => break,
        };
        let (server, watcher) = (Arc::clone(&server), under_way.watcher());
        tokio::spawn(async move {
            if let Err(error) = server.carry(stream, watcher).await {
                // A client that goes away or breaks the protocol is its own affair.
                debug!(%error, "http connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    under_way.shutdown().await;
}

/// The next connection with its place among those open at once. Clients beyond the last place wait in the system's queue.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Gone before we took it.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "http connections cannot be taken");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What all connections share.
struct Connections {
    http: http1::Builder,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Connections {
    async fn carry(&self, stream: TcpStream, watcher: Watcher) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // An answer is written at once: nothing is gained by waiting for more.
        stream.set_nodelay(true)?;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.write));
        let stream = Box::pin(stream);
        match &self.tls {
            None => Ok(self.answer(stream, watcher).await?),
            Some(tls) => {
                let secured = tokio::time::timeout(self.limits.head, tls.accept(stream)).await??;
                Ok(self.answer(secured, watcher).await?)
            }
        }
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        watcher: Watcher,
    ) -> hyper::Result<()> {
        let service = TowerToHyperService::new(self.router.clone());
        watcher.watch(self.http.serve_connection(TokioIo::new(stream), service)).await
    }
}
