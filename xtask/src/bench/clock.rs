//! How long the processors worked for this process: on a machine that others share, the clock on the wall says little.

/// Linux counts the time of a process in hundredths of a second, whatever its kernel's own tick (`USER_HZ`).
const TICKS: f64 = 100.0;

/// User and system seconds that this process has taken on all processors; `None` where the system does not tell.
fn processor() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// Runs from when it is made.
pub struct Clock(Option<f64>);

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self(processor())
    }

    /// Seconds of processors since; 0 where the system does not tell.
    pub fn processor(&self) -> f64 {
        self.0.and_then(|before| Some(processor()? - before)).unwrap_or(0.0)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time() {
        let (clock, start) = (Clock::start(), std::time::Instant::now());
        let mut sum = 0u64;
        while start.elapsed().as_secs() < 60 && clock.processor() == 0.0 {
            sum = (0..1_000_000u64).fold(sum, |a, b| std::hint::black_box(a.wrapping_add(b * b)));
        }
        assert!(clock.processor() > 0.0, "{sum}");
    }
}
