//! `vigie serve`: settings in, the running service out. The only place where the parts are put together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use prometheus::Registry;
use tokio::runtime::Runtime;
use tracing::{info, warn};

use super::{Failure, logging};
use crate::cli::ServeArgs;
use crate::config::{Environment, Settings};
use crate::http::{self, ReadyCheck, Server};
use crate::metrics::Metrics;
use crate::models::{self, ModelHandle, reload};
use crate::shutdown::Shutdown;
use crate::stream::{self, Service};

/// How long HTTP requests under way may take once the service stops.
const HTTP_GRACE: Duration = Duration::from_secs(2);
/// What the stream gets beyond its own drain timeout: leaving the group and closing clients take a moment.
const STREAM_GRACE: Duration = Duration::from_secs(10);

pub fn run(args: &ServeArgs, environment: &Environment) -> Result<(), Failure> {
    let settings = Settings::load(&args.flags(), environment)?;
    logging::start(&settings.log, environment)?;
    let shutdown = Shutdown::new();
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        shutdown.on_signals().context("could not wait for signals")?;
        let parts = Parts::start(&settings, &shutdown).await?;
        shutdown.requested().await;
        parts.drain(&settings).await
    });
    // A model that is being loaded must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// The runtime of everything that waits: HTTP, timers, signals. The stream has threads of its own.
pub fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Ok(runtime.context("could not start the runtime")?)
}

/// The running service.
pub struct Parts {
    server: Option<Server>,
    service: Service,
}

impl Parts {
    /// Starts every part in order. A port in use or a broken model shows before the group is joined.
    pub async fn start(settings: &Settings, shutdown: &Shutdown) -> Result<Parts, Failure> {
        let model = ModelHandle::new(Arc::new(models::load(&settings.model)?));
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).context("could not register metrics")?;
        let server = if http::is_off(&settings.http) {
            None
        } else {
            let ready = ready_check(&metrics);
            Some(http::start(&settings.http, &settings.input, model.clone(), registry, metrics.clone(), ready).await?)
        };
        let service = stream::start(settings, model.clone(), metrics.clone(), shutdown.clone())?;
        reload::start(settings.model.clone(), model.clone(), metrics, shutdown.clone())
            .context("could not wait for SIGHUP")?;
        let address = server.as_ref().map(|server| server.local_address().to_string());
        info!(
            version = model.current().version(),
            brokers = settings.kafka.brokers,
            group = settings.kafka.group,
            input_topic = settings.kafka.input_topic,
            http = address.as_deref().unwrap_or("off"),
            "started"
        );
        Ok(Parts { server, service })
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> Option<std::net::SocketAddr> {
        self.server.as_ref().map(Server::local_address)
    }

    /// Says whether the stream has ended.
    pub fn is_finished(&self) -> bool {
        self.service.is_finished()
    }

    /// Waits until all that was taken is delivered and committed, then stops HTTP: `/ready` says no, `/metrics` shows the drain meanwhile.
    pub async fn drain(self, settings: &Settings) -> Result<(), Failure> {
        let deadline = Duration::from_millis(settings.pipeline.drain_timeout_ms) + STREAM_GRACE;
        let service = self.service;
        let joined = tokio::time::timeout(deadline, tokio::task::spawn_blocking(move || service.join())).await;
        if let Some(server) = self.server {
            server.shutdown(HTTP_GRACE).await;
        }
        match joined {
            Ok(Ok(result)) => {
                result?;
                info!("stopped");
                Ok(())
            }
            Ok(Err(panicked)) => Err(Failure::work(panicked)),
            Err(_) => {
                // A client that can't be closed (its broker is gone) would hold the process for ever; what was not committed is read again.
                warn!(deadline_ms = deadline.as_millis() as u64, "drain not finished in time");
                let late = anyhow!("could not finish in {} s what was taken", deadline.as_secs());
                let late = Failure::work(late)
                    .hint("start again: nothing is lost, the records that were not confirmed are read again");
                eprintln!("{late}");
                std::process::exit(1)
            }
        }
    }
}

fn ready_check(metrics: &Metrics) -> ReadyCheck {
    let ready = metrics.ready.clone();
    Arc::new(move || if ready.get() == 1 { Ok(()) } else { Err("not taking messages yet, or no longer") })
}
