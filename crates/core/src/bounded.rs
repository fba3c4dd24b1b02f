//! Untrusted text in memory that does not grow with it: a bound on what one row may take.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of a line, and of a row of CSV, which may have several lines.
pub const MOST_OF_ROW: u64 = 16 << 20;

/// Set behind a file of CSV: a row of its own, which is no text, unless a quote is open.
pub const END: &[u8] = b"\n\xff";

/// How many bytes a [`Bounded`] may still give.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicU64>);

impl Allowance {
    /// So many to begin with.
    pub fn of(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// From now on so many.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// How many are left.
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A source that fails with [`ErrorKind::FileTooLarge`] where it would give more than it is allowed.
#[derive(Debug)]
pub struct Bounded<R> {
    source: R,
    allowance: Allowance,
}

impl<R: Read> Bounded<R> {
    /// As much of `source` as `allowance` says when it is read.
    pub fn new(source: R, allowance: &Allowance) -> Self {
        Self { source, allowance: allowance.clone() }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.left();
        if left == 0 && !to.is_empty() {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let most = usize::try_from(left).map_or(to.len(), |left| left.min(to.len()));
        let count = self.source.read(&mut to[..most])?;
        self.allowance.set(left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gives_what_it_is_allowed_and_more_when_it_is_allowed_more() {
        let allowance = Allowance::of(3);
        let mut source = Bounded::new(&b"abcdef"[..], &allowance);
        let mut found = Vec::new();
        assert_eq!(source.read_to_end(&mut found).unwrap_err().kind(), ErrorKind::FileTooLarge);
        allowance.set(4);
        source.read_to_end(&mut found).unwrap();
        assert_eq!((found.as_slice(), allowance.left()), (&b"abcdef"[..], 1));
    }
}
