//! Batch normalization (Ioffe & Szegedy 2015) and layer normalization (Ba et al. 2016).

pub(crate) mod batch;
pub(crate) mod layer;

pub use batch::{BatchStats, batch_norm_eval, batch_norm_mixed, batch_norm_train};
pub use layer::layer_norm;
pub(crate) use layer::rows as layer_norm_rows;

use candle_core::{Result, Tensor, bail};

/// The width of the last dimension, after checking that the vectors have it too.
fn width(op: &str, x: &Tensor, vectors: &[&Tensor]) -> Result<usize> {
    let Some(&width) = x.dims().last() else { bail!("{op}: a scalar has no last dimension") };
    match vectors.iter().find(|v| v.dims() != [width]) {
        Some(v) => bail!("{op}: a vector of shape {:?} does not fit an input of shape {:?}", v.dims(), x.dims()),
        None => Ok(width),
    }
}
