//! The trainable forward pass.
