//! CPU operations with gradients, as candle custom operations. Knows tensors; knows nothing of learning.
#![allow(missing_docs)]

/// Elementwise non-linearities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// x Φ(x) (Hendrycks & Gimpel 2016).
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// tanh x.
    Tanh,
}
