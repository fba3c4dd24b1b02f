//! Pooling of images `[b, h, w, c]`.

pub(crate) mod average;
pub(crate) mod max;

pub use average::{AveragePass, adaptive_avg_pool2d, avg_pool2d, global_avg_pool};
pub use max::{MaxPoolPass, max_pool2d};
