//! Work done ahead of its consumer: on several threads, in order, with a bounded number of results in memory.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// An iterator over `work(item)` for all items of a source, in its order, computed ahead.
pub struct Prefetch<T> {
    results: Receiver<Receiver<T>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `threads` threads that compute at most about `ahead` results before they are asked for. The source is
    /// read on a thread of its own, so that a slow one (a pipe) delays nothing that is ready. Dropping the iterator
    /// ends the work.
    pub fn new<S>(source: S, threads: usize, ahead: usize, work: impl Fn(S::Item) -> T + Send + Sync + 'static) -> Self
    where
        S: Iterator + Send + 'static,
        S::Item: Send + 'static,
    {
        let (promise, results) = sync_channel::<Receiver<T>>(ahead.max(1));
        let (hand_out, jobs) = sync_channel::<(S::Item, SyncSender<T>)>(0);
        let (jobs, work) = (Arc::new(Mutex::new(jobs)), Arc::new(work));
        for _ in 0..threads.max(1) {
            let (jobs, work) = (Arc::clone(&jobs), Arc::clone(&work));
            thread::spawn(move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((item, slot)) = job else { break };
                    // A consumer that has gone does not want it any more.
                    let _ = slot.send(work(item));
                }
            });
        }
        thread::spawn(move || {
            for item in source {
                let (slot, result) = sync_channel(1);
                if promise.send(result).is_err() || hand_out.send((item, slot)).is_err() {
                    break;
                }
            }
        });
        Self { results }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    /// # Panics
    /// When `work` did, so that no result goes missing unnoticed.
    fn next(&mut self) -> Option<T> {
        let result = self.results.recv().ok()?.recv();
        Some(result.unwrap_or_else(|_| panic!("the work on an item ended early")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_source() {
        let slow_first = |i: u64| {
            thread::sleep(Duration::from_millis(if i.is_multiple_of(4) { 5 } else { 0 }));
            i
        };
        let out: Vec<u64> = Prefetch::new(0..50, 4, 8, slow_first).collect();
        assert_eq!(out, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn an_unread_result_holds_the_source_back() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut ahead = Prefetch::new(0..10_000, 2, 4, move |_: i32| counter.fetch_add(1, Ordering::SeqCst));
        ahead.next();
        thread::sleep(Duration::from_millis(50));
        assert!(begun.load(Ordering::SeqCst) < 12, "{begun:?}");
    }
}
