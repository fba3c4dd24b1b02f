//! Work done ahead of its use by threads of its own, handed out in the order of its source.
//!
//! The threads are not rayon's, so that reading and decoding never wait for a matrix product nor starve one. What is handed
//! out depends on the source alone, never on the number of threads; how far ahead is bounded, so that memory does not grow
//! with the source.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use crate::guard::caught;

/// How many threads work ahead where nobody says: one for each core.
pub fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// An iterator over `work(item)` for all items of a source, in its order, computed ahead. Dropping it ends the work.
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    /// Where no thread could be started, the work is done by who wants it.
    pull: Box<dyn FnMut() -> Option<T> + Send>,
    threads: Vec<JoinHandle<()>>,
}

/// What a [`Prefetch`] has after some time.
#[derive(Debug, PartialEq)]
pub(crate) enum Next<T> {
    /// The next result.
    Ready(T),
    /// Nothing yet.
    Late,
    /// Nothing any more.
    End,
    /// Nothing any more: the source or the work panicked.
    Broken,
}

struct Shared<T> {
    window: Mutex<Window<T>>,
    /// The result that is next is there, or nobody works any more.
    filled: Condvar,
    /// There is room for further results, or nobody wants them.
    emptied: Condvar,
    ahead: usize,
}

struct Window<T> {
    /// Results from the next one on, where they are there.
    results: VecDeque<Option<T>>,
    /// Items taken from the source, and results handed out.
    taken: usize,
    delivered: usize,
    working: usize,
    stopped: bool,
    broken: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Window<T>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item and its number, when there is room for its result.
    fn take<S: Iterator>(&self, source: &Mutex<S>) -> Option<(usize, S::Item)> {
        // A source that makes one wait (a pipe) is waited for under its own lock: what is ready is handed out meanwhile.
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |window: &mut Window<T>| !window.stopped && window.taken >= window.delivered + self.ahead;
        let window = self.emptied.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if window.stopped {
            return None;
        }
        drop(window);
        let item = source.next()?;
        let mut window = self.lock();
        window.taken += 1;
        Some((window.taken - 1, item))
    }

    fn put(&self, position: usize, result: T) {
        let mut window = self.lock();
        let place = position - window.delivered;
        if window.results.len() <= place {
            window.results.resize_with(place + 1, || None);
        }
        window.results[place] = Some(result);
        if place == 0 {
            self.filled.notify_one();
        }
    }

    fn next(&self, until: Option<Instant>) -> Next<T> {
        let mut window = self.lock();
        loop {
            if matches!(window.results.front(), Some(Some(_)))
                && let Some(Some(result)) = window.results.pop_front()
            {
                window.delivered += 1;
                // Half of it at once, so that who fills it is woken rarely.
                if window.taken - window.delivered <= self.ahead / 2 {
                    self.emptied.notify_all();
                }
                return Next::Ready(result);
            }
            if window.working == 0 {
                return if window.broken { Next::Broken } else { Next::End };
            }
            let Some(until) = until else {
                window = self.filled.wait(window).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Late;
            }
            window = self.filled.wait_timeout(window, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.emptied.notify_all();
    }

    /// A thread goes. Where it did not get to the end, its result is missing for ever: the others go too.
    fn leave(&self, at_the_end: bool) {
        let mut window = self.lock();
        window.working -= 1;
        window.broken |= !at_the_end;
        window.stopped |= !at_the_end;
        self.emptied.notify_all();
        self.filled.notify_one();
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `threads` threads that compute at most `ahead` results before they are asked for.
    pub fn new<S>(source: S, threads: usize, ahead: usize, work: impl Fn(S::Item) -> T + Send + Sync + 'static) -> Self
    where
        S: Iterator + Send + 'static,
    {
        let threads = threads.max(1);
        let window = Window {
            results: VecDeque::new(),
            taken: 0,
            delivered: 0,
            working: threads,
            stopped: false,
            broken: false,
        };
        let shared =
            Shared { window: Mutex::new(window), filled: Condvar::new(), emptied: Condvar::new(), ahead: ahead.max(1) };
        let (shared, source, work) = (Arc::new(shared), Arc::new(Mutex::new(source.fuse())), Arc::new(work));
        let spawn = |i: usize| {
            let (shared, source, work) = (shared.clone(), source.clone(), work.clone());
            Builder::new().name(format!("prefetch {i}")).spawn(move || {
                let done = caught(|| {
                    while let Some((position, item)) = shared.take(&source) {
                        shared.put(position, work(item));
                    }
                });
                shared.leave(done.is_some());
            })
        };
        let started: Vec<JoinHandle<()>> = (0..threads).filter_map(|i| spawn(i).ok()).collect();
        shared.lock().working -= threads - started.len();
        let pull = move || source.lock().unwrap_or_else(PoisonError::into_inner).next().map(|item| work(item));
        Self { shared, pull: Box::new(pull), threads: started }
    }

    /// The next result, waited for `patience` long.
    pub(crate) fn next_within(&mut self, patience: Duration) -> Next<T> {
        self.wait(Some(Instant::now() + patience))
    }

    /// The next result, waited for as long as it takes.
    pub(crate) fn next_or_broken(&mut self) -> Next<T> {
        self.wait(None)
    }

    fn wait(&mut self, until: Option<Instant>) -> Next<T> {
        if self.threads.is_empty() {
            return caught(&mut self.pull).map_or(Next::Broken, |next| next.map_or(Next::End, Next::Ready));
        }
        self.shared.next(until)
    }
}

impl<T> Prefetch<T> {
    /// Ends the work and waits until no thread is left of it: not for a source that may make them wait.
    pub(crate) fn end(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // What a panic took away was told where it was missing.
            let _ = thread.join();
        }
    }
}

impl<T: Send + 'static> Iterator for Prefetch<T> {
    type Item = T;

    /// # Panics
    /// When the source or the work did, so that no result goes missing unnoticed.
    fn next(&mut self) -> Option<T> {
        match self.next_or_broken() {
            Next::Ready(result) => Some(result),
            Next::Broken => panic!("the work on an item ended early"),
            Next::Late | Next::End => None,
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::thread::sleep;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    #[test]
    fn results_come_in_the_order_of_the_source() {
        let slow_first = |i: u64| {
            sleep(Duration::from_millis(if i.is_multiple_of(4) { 5 } else { 0 }));
            i
        };
        for ahead in [1, 2, 8] {
            let out: Vec<u64> = Prefetch::new(0..50, 4, ahead, slow_first).collect();
            assert_eq!(out, (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_unread_result_holds_the_source_back() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut ahead = Prefetch::new(0..10_000, 2, 4, move |_: i32| counter.fetch_add(1, Ordering::SeqCst));
        ahead.next();
        sleep(MOMENT);
        assert!(begun.load(Ordering::SeqCst) <= 5, "{begun:?}");
    }

    #[test]
    fn what_is_ready_comes_while_the_source_makes_one_wait() {
        let (sender, receiver) = channel();
        let mut ahead = Prefetch::new(receiver.into_iter(), 3, 8, |i: i32| 2 * i);
        assert_eq!(ahead.next_within(MOMENT), Next::Late);
        sender.send(1).unwrap();
        assert_eq!(ahead.next(), Some(2));
        assert_eq!(ahead.next_within(MOMENT), Next::Late);
        drop(sender);
        assert_eq!(ahead.next_or_broken(), Next::End);
    }

    #[test]
    fn dropping_it_does_not_wait_for_a_source_that_does() {
        let (_sender, receiver) = channel::<i32>();
        drop(Prefetch::new(receiver.into_iter(), 2, 8, |i| i));
    }

    #[test]
    fn work_that_panics_is_told_behind_what_came_before_it() {
        let work = |i: i32| {
            assert!(i < 20);
            i
        };
        let mut ahead = Prefetch::new(0..50, 3, 4, work);
        for i in 0..20 {
            assert_eq!(ahead.next_or_broken(), Next::Ready(i));
        }
        assert_eq!(ahead.next_or_broken(), Next::Broken);
    }
}
