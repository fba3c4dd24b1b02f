//! What a long job tells whoever started it: messages, progress, and where the time went.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::memory;

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
    /// What it took of memory, where the system tells.
    #[serde(default)]
    pub memory: Option<Memory>,
}

/// Memory of the process at the end of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The largest resident set so far, in bytes.
    pub peak: u64,
    /// By how much this part raised it, in bytes.
    pub raised: u64,
}

/// Asking the system for memory takes a few hundredths of a millisecond; what is shorter than this is not worth it, and what
/// it raised is seen in what comes next.
const WORTH_ASKING: Duration = Duration::from_millis(2);

/// Time and work by part: `load` (waiting for samples), `extract`, `train`, `solve`, `validate`, `checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// By name.
    pub parts: BTreeMap<String, Part>,
    /// The largest resident set before the first of them, in bytes, where the system tells.
    #[serde(default)]
    pub before: Option<u64>,
    /// The same by now.
    #[serde(default)]
    peak: Option<u64>,
}

impl Default for Timings {
    /// Nothing yet: from here on.
    fn default() -> Self {
        let before = memory::peak();
        Self { parts: BTreeMap::new(), before, peak: before }
    }
}

impl Timings {
    /// Adds `items` samples and the time since `start` to a part.
    pub fn add(&mut self, part: &str, start: Instant, items: usize) {
        let took = start.elapsed();
        let asked = took >= WORTH_ASKING || !self.parts.contains_key(part);
        self.note(part, took, items, if asked { memory::peak() } else { None });
    }

    /// The same of a part that took so long, with the largest resident set if that was asked for.
    fn note(&mut self, part: &str, took: Duration, items: usize, peak: Option<u64>) {
        // What the system tells is not exact, and may be a little less than before.
        let peak = peak.map(|now| now.max(self.peak.unwrap_or(0)));
        let raised = peak.zip(self.peak).map_or(0, |(now, before)| now - before);
        self.peak = peak.or(self.peak);
        let entry = self.parts.entry(part.to_string()).or_default();
        entry.seconds += took.as_secs_f64();
        entry.items += items as u64;
        if let Some(peak) = peak {
            let memory = entry.memory.get_or_insert_default();
            (memory.peak, memory.raised) = (peak, memory.raised + raised);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_takes_memory_is_the_one_that_raised_the_peak() {
        let mut timings = Timings { parts: BTreeMap::new(), before: Some(100), peak: Some(100) };
        let told =
            [("load", Some(100)), ("train", Some(150)), ("load", None), ("train", Some(170)), ("load", Some(169))];
        told.into_iter().for_each(|(part, peak)| timings.note(part, Duration::from_secs(1), 2, peak));
        let of = |part: &str| timings.parts[part].memory.unwrap();
        assert_eq!((of("load"), of("train")), (Memory { peak: 170, raised: 0 }, Memory { peak: 170, raised: 70 }));
        assert_eq!((timings.seconds("load"), timings.parts["load"].items), (3.0, 6));
    }

    #[test]
    fn where_the_system_does_not_tell_there_is_no_memory() {
        let mut timings = Timings { parts: BTreeMap::new(), before: None, peak: None };
        timings.note("load", Duration::ZERO, 1, None);
        assert_eq!(timings.parts["load"].memory, None);
    }
}
