//! Follows the model that the settings name: promotions and SIGHUP in, a proven model swapped into the handle out.
//!
//! A model that can't be loaded changes nothing: the one that scores stays, the failure is logged and counted.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::registry::{Promoted, Registry};
use super::{LoadError, ModelHandle, load};
use crate::config::ModelSettings;
use crate::metrics::Metrics;
use crate::scoring::Model;
use crate::shutdown::Shutdown;

/// How often the registry's pointer is read. It is one small file; a promotion need not be faster.
const POLL: Duration = Duration::from_secs(2);
/// How long after a failed load the same promotion is tried again: the file may have been on its way.
const RETRY: Duration = Duration::from_secs(30);

/// Starts following. SIGHUP loads again whatever the settings name; promotions are followed when the settings name no model. Needs a Tokio
/// runtime; ends with `shutdown`.
pub fn start(
    settings: ModelSettings,
    handle: ModelHandle,
    metrics: Metrics,
    shutdown: Shutdown,
) -> io::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut follower = Follower::new(settings, handle, metrics);
    Ok(tokio::spawn(async move {
        loop {
            let asked = tokio::select! {
                () = shutdown.requested() => return,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(POLL) => false,
            };
            // Reading a file and proving a model takes up to seconds: not on a thread that serves HTTP.
            let looked = tokio::task::spawn_blocking(move || {
                if asked {
                    follower.reload();
                } else {
                    follower.look();
                }
                follower
            });
            match looked.await {
                Ok(back) => follower = back,
                Err(failure) => return error!(%failure, "no longer following the registry"),
            }
        }
    }))
}

struct Follower {
    settings: ModelSettings,
    handle: ModelHandle,
    metrics: Metrics,
    /// The promotion that was loaded or tried last.
    seen: Option<Promoted>,
    failed_at: Option<Instant>,
}

impl Follower {
    fn new(settings: ModelSettings, handle: ModelHandle, metrics: Metrics) -> Follower {
        let seen = Registry::open(&settings.registry).active().ok().flatten();
        Follower { settings, handle, metrics, seen, failed_at: None }
    }

    /// Loads when the pointer has moved, or when an earlier load failed a while ago.
    fn look(&mut self) {
        if !self.settings.model.is_empty() {
            return;
        }
        let retries = self.failed_at.is_some_and(|at| at.elapsed() >= RETRY);
        match Registry::open(&self.settings.registry).active() {
            Ok(active) if active == self.seen && !retries => {}
            Ok(_) => self.reload(),
            Err(failure) if self.failed_at.is_none() || retries => self.keep(&failure.into()),
            Err(_) => {}
        }
    }

    fn reload(&mut self) {
        self.seen = Registry::open(&self.settings.registry).active().ok().flatten();
        match load(&self.settings) {
            Ok(model) => self.swap(model),
            Err(failure) => self.keep(&failure),
        }
    }

    fn swap(&mut self, model: Model) {
        self.failed_at = None;
        self.metrics.model_reloads.with_label_values(&["ok"]).inc();
        self.metrics.set_model(model.version(), model.sha256());
        let model = Arc::new(model);
        let before = self.handle.replace(Arc::clone(&model));
        info!(version = model.version(), before = before.version(), "model swapped");
    }

    fn keep(&mut self, failure: &LoadError) {
        self.failed_at = Some(Instant::now());
        self.metrics.model_reloads.with_label_values(&["failed"]).inc();
        let cause = std::error::Error::source(failure).map(ToString::to_string).unwrap_or_default();
        let version = self.handle.current().version().to_owned();
        warn!(%failure, cause, version, hint = failure.hint(), "model not swapped, the one before stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{builtin, builtin_bytes};
    use crate::scoring::Artifact;

    #[test]
    fn promotions_are_followed_and_a_broken_file_keeps_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path());
        for version in ["a", "b"] {
            let mut artifact = Artifact::read(builtin_bytes()).unwrap();
            artifact.header.version = version.to_owned();
            registry.publish(&artifact.write()).unwrap();
        }
        let settings = ModelSettings { model: String::new(), registry: folder.path().to_owned() };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let handle = ModelHandle::new(Arc::new(builtin().unwrap()));
        let mut follower = Follower::new(settings, handle.clone(), metrics.clone());
        let reloads = |result| metrics.model_reloads.with_label_values(&[result]).get();

        follower.look();
        assert_eq!((reloads("ok"), reloads("failed")), (0, 0));
        registry.promote("a").unwrap();
        follower.look();
        assert_eq!(handle.current().version(), "a");
        registry.promote("b").unwrap();
        std::fs::write(folder.path().join("b.vigie"), b"VIGIEMDL").unwrap();
        follower.look();
        follower.look();
        assert_eq!(handle.current().version(), "a");
        assert_eq!((reloads("ok"), reloads("failed")), (1, 1));
        registry.rollback().unwrap();
        follower.look();
        assert_eq!((reloads("ok"), reloads("failed")), (2, 1));
    }
}
