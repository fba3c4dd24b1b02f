//! What a long job tells whoever started it: messages, progress, and where the time went.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Listens to a job. The binaries draw progress bars with it; tests stop a run with it.
pub trait Observer: Sync {
    /// A line worth reading.
    fn message(&self, _text: &str) {}
    /// `done` of `total` units of `part` (`extract train`, `train`, `validate`) are complete.
    fn progress(&self, _part: &str, _done: usize, _total: usize) {}
    /// A step at a learning rate, and the loss of its batch before it; NaN where the loss or its gradient is no number.
    fn step(&self, _rate: f64, _loss: f64) {}
    /// Asked after every step; true ends the run there, as if it had been killed.
    fn stop(&self) -> bool {
        false
    }
    /// Asked after every step; true ends the run there with a checkpoint of that step.
    fn pause(&self) -> bool {
        false
    }
}

/// Listens to nothing.
pub struct Silent;

impl Observer for Silent {}

/// Time and work of one part of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Samples that went through.
    pub items: u64,
}

/// Time and work by part: `load` (waiting for samples), `extract`, `train`, `solve`, `validate`, `checkpoint`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// By name.
    pub parts: BTreeMap<String, Part>,
}

impl Timings {
    /// Adds `items` samples and the time since `start` to a part.
    pub fn add(&mut self, part: &str, start: Instant, items: usize) {
        let entry = self.parts.entry(part.to_string()).or_default();
        entry.seconds += start.elapsed().as_secs_f64();
        entry.items += items as u64;
    }

    /// Takes `seconds` out of a part that were counted in another one.
    pub fn deduct(&mut self, part: &str, seconds: f64) {
        if let Some(part) = self.parts.get_mut(part) {
            part.seconds = (part.seconds - seconds).max(0.0);
        }
    }

    /// Seconds of one part; 0 when it never ran.
    pub fn seconds(&self, part: &str) -> f64 {
        self.parts.get(part).map_or(0.0, |p| p.seconds)
    }
}
