//! The binary `topwork-cv`: everything it does is in `topwork_core::cli` and in this crate's library.

fn main() {}
