//! Transfer learning, the same for a photo and a sentence.
//!
//! A [`net::Network`] is a value; a [`strategy::Strategy`] turns it into a [`plan::Plan`]; the trainer executes the
//! plan on a [`data::Dataset`] and leaves a run directory. What is particular to photos or text comes in through
//! [`domain::Domain`].

pub mod adapter;
pub mod advise;
pub mod cache;
pub mod calibration;
pub mod checkpoint;
pub mod classifier;
pub mod cli;
pub mod compare;
pub mod data;
pub mod device;
pub mod domain;
pub mod draw;
pub mod embedder;
mod error;
pub mod events;
pub mod files;
pub mod find_lr;
pub mod fit;
pub mod folds;
pub mod loader;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod net;
pub mod observe;
pub mod onnx;
pub mod outputs;
pub mod plan;
pub mod plan_file;
mod pooled;
pub mod rank;
pub mod report;
pub mod run;
pub mod seed;
pub mod snapshots;
pub mod source;
pub mod strategy;
pub mod summary;
pub mod task;
#[doc(hidden)]
pub mod testing;
pub mod train;
pub mod transferability;
pub mod vectors;

pub use error::{Error, Result};
