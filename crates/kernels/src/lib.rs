//! CPU operations with gradients, as candle custom operations. Knows tensors; knows nothing of learning.
//!
//! Everything is `f32` with the channels last: images `[b, h, w, c]`, sequences packed as `[rows, width]` with the rows of
//! each sample behind each other and a list of lengths, so that no padding is ever computed. Weights have the shapes that
//! checkpoints have. On devices other than the CPU every operation is a composition of candle's own.
//!
//! Results have the same bits for every number of threads: work is split by shapes alone. They may differ between
//! instruction sets ([`instruction_set`]).

mod act;
mod add;
mod attention;
pub mod ceiling;
mod conv;
mod cpu;
mod dropout;
mod embed;
pub mod frozen;
mod gate;
mod lanes;
mod linear;
mod loss;
mod matmul;
mod norm;
mod optim;
pub mod passes;
mod pool;
mod rows;
mod simd;
#[cfg(test)]
mod testing;
mod transpose;

pub use act::{Act, act};
pub use add::add;
pub use attention::{Beside, Queries, attention, attention_beside, softmax};
pub use conv::{ConvSpec, conv2d};
pub use cpu::Values;
pub use dropout::dropout;
pub use embed::embed;
pub use gate::gate;
pub use linear::linear;
pub use loss::cross_entropy;
pub use norm::{BatchStats, batch_norm_eval, batch_norm_mixed, batch_norm_train, layer_norm};
pub use optim::{AdamWHyper, AdamWState, SgdHyper, SgdState, adamw_step, pull_step, sgd_step, sum_of_squares};
pub use pool::{adaptive_avg_pool2d, avg_pool2d, global_avg_pool, max_pool2d};
pub use rows::{pool_rows_first, pool_rows_max, pool_rows_mean};
pub use simd::{NoInstructions, check_instructions, instruction_set, instruction_sets};
