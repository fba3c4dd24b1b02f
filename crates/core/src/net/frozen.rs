//! The frozen forward pass.
