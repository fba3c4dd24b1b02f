//! The operations on slices, forward and backward, for who keeps a tape of his own: what the tensor operations are made
//! of, without a tensor for every step.
//!
//! Lengths are the caller's business: functions panic when a slice is shorter than the sizes say.

pub use crate::act::{forward as act, gradient as act_gradient};
pub use crate::add::in_place as add;
pub use crate::attention::{AttentionGradients, AttentionPass};
pub use crate::conv::ConvPass;
pub use crate::cpu::column_sums;
pub use crate::dropout::in_place as dropout;
pub use crate::embed::{forward as embed, table_gradient as embed_gradient};
pub use crate::gate::{factor_gradient as gate_factor_gradient, forward as gate, in_place as gate_in_place};
pub use crate::linear::{
    forward as linear, input_gradient as linear_input_gradient, weight_gradient as linear_weight_gradient,
};
pub use crate::norm::batch::{BatchNormPass, BatchNormSums};
pub use crate::norm::layer::{backward as layer_norm_backward, forward as layer_norm};
pub use crate::pool::{AveragePass, MaxPoolPass};
pub use crate::rows::{first_gradient, max_gradient, mean_gradient};
