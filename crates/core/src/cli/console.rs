//! What a run tells the person who started it: a bar with rate and time left on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::observe::Observer;

/// Writes to standard error; standard output is for results.
pub struct Console {
    quiet: bool,
    terminal: bool,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    part: String,
    bar: Option<ProgressBar>,
    told: Option<Instant>,
}

/// Whether the user pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Between two plain lines of progress.
const SILENCE: Duration = Duration::from_secs(10);

impl Console {
    /// Says nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), current: Mutex::default() }
    }

    /// Lets Ctrl-C end a run after its present step, with a checkpoint, instead of at once; a second one does not wait.
    pub fn catch_interrupts(&self) {
        let asked = || {
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step; press again to stop at once");
        };
        // Without a handler, Ctrl-C does what it does to any program.
        let _ = ctrlc::set_handler(asked);
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Console {
    fn message(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.lock().bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn pause(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }

    fn progress(&self, part: &str, done: usize, total: usize) {
        if self.quiet {
            return;
        }
        let mut current = self.lock();
        if current.part != part {
            if let Some(bar) = current.bar.take() {
                bar.finish_and_clear();
            }
            *current = Current { part: part.into(), bar: None, told: Some(Instant::now()) };
        }
        if total == 0 {
            // Nobody knows how many there will be.
            if current.told.is_none_or(|told| told.elapsed() >= SILENCE) {
                current.told = Some(Instant::now());
                eprintln!("{part}: {done}");
            }
        } else if self.terminal {
            let bar = current.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{prefix:<14} {wide_bar} {pos}/{len} {per_sec} {eta} left");
                let bar = ProgressBar::new(total as u64).with_prefix(part.to_string());
                style.map(|style| bar.set_style(style)).ok();
                bar
            });
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            if done >= total {
                bar.finish_and_clear();
                current.bar = None;
                current.part.clear();
            }
        } else if current.told.is_none_or(|told| told.elapsed() >= SILENCE) {
            current.told = Some(Instant::now());
            eprintln!("{part}: {done} of {total}");
        }
    }
}
