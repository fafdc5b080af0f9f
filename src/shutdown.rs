//! One wish to stop, shared by all parts: SIGTERM, SIGINT or a call in, a flag that threads and tasks can wait on out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::info;

/// The wish to stop. Clones share it; it is never taken back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requested: AtomicBool,
    // Guards nothing but the moment between a waiter's last look at the flag and its sleep.
    sleep: Mutex<()>,
    woken: Condvar,
    notify: Notify,
}

impl Shutdown {
    /// Makes a flag that only [`Shutdown::request`] sets.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Asks everything to stop. Asking again changes nothing.
    pub fn request(&self) {
        self.shared.requested.store(true, Ordering::SeqCst);
        let _asleep = self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.woken.notify_all();
        self.shared.notify.notify_waiters();
    }

    /// Says whether stopping was asked for.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.load(Ordering::SeqCst)
    }

    /// Blocks the thread until stopping is asked for, at most `timeout`. Returns whether it was.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut asleep = self.shared.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_requested() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            asleep = self.shared.woken.wait_timeout(asleep, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits in async code until stopping is asked for.
    pub async fn requested(&self) {
        let notified = self.shared.notify.notified();
        tokio::pin!(notified);
        // Registered before the look at the flag, so that a request in between is not missed.
        notified.as_mut().enable();
        if !self.is_requested() {
            notified.await;
        }
    }

    /// Lets SIGTERM and SIGINT ask for the stop. Needs a Tokio runtime; a second SIGINT ends the process at once, as people expect.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => info!(signal = "SIGTERM", "stopping"),
                _ = interrupt.recv() => info!(signal = "SIGINT", "stopping"),
            }
            shutdown.request();
            interrupt.recv().await;
            std::process::exit(130);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wakes_threads_and_tasks() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.wait_timeout(Duration::ZERO));
        let waiter = std::thread::spawn({
            let shutdown = shutdown.clone();
            move || shutdown.wait_timeout(Duration::from_secs(60))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let asked = shutdown.clone();
            tokio::join!(shutdown.requested(), async move { asked.request() });
            shutdown.requested().await;
        });
        assert!(waiter.join().unwrap());
    }
}
