//! Text encoders: descriptions as values, and the cards of the pre-trained weights known by name.

pub mod bert;
mod cards;

pub use cards::{CARDS, EMBEDDED, HUB_FILES};
