//! Runs independent jobs on all cores; what comes out does not depend on how many there are.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The results of jobs `0..n`, in that order. A job that panics panics here.
pub fn map<T: Send>(n: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= n {
                return done;
            }
            done.push((at, job(at)));
        }
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(n);
        let handles: Vec<_> = (0..n_threads).map(|_| scope.spawn(worker)).collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let found = super::map(50, |job| {
            std::thread::sleep(std::time::Duration::from_micros(200 * (50 - job as u64)));
            job * 2
        });
        assert!(found.into_iter().eq((0..50).map(|job| job * 2)));
        assert!(super::map(0, |job| job).is_empty());
    }
}
