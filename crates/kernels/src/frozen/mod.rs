//! Inference on slices, for what is frozen: weights packed once, activation and residual fused, no gradients, no tensors
//! and no allocation but scratch memory that the caller keeps.
//!
//! Lengths are the caller's business: functions panic when a slice is shorter than the sizes say.

mod attention;
mod conv;
mod linear;
pub(crate) mod panels;
mod pieces;
mod precision;

pub use attention::{Rows, attention};
pub use conv::PackedConv;
pub use linear::PackedLinear;
pub use pieces::{
    act_in_place, adaptive_avg_pool, add, channels_first, embed_sum, gate, layer_norm, max_pool, pool_rows_first,
    pool_rows_max, pool_rows_mean,
};

pub use precision::Precision;

use crate::act::Act;

/// The lowest and highest result that an activation means, and what remains to be applied.
pub(crate) fn limits(act: Option<Act>) -> ((f32, f32), Option<Act>) {
    match act {
        Some(Act::Relu) => ((0.0, f32::INFINITY), None),
        Some(Act::Relu6) => ((0.0, 6.0), None),
        other => ((f32::NEG_INFINITY, f32::INFINITY), other),
    }
}

#[cfg(test)]
mod tests;
