//! Transfer learning, the same for a photo and a sentence.
//!
//! A [`net::Network`] is a value; a [`strategy::Strategy`] turns it into a [`plan::Plan`]; the trainer executes the
//! plan on a [`data::Dataset`] and leaves a run directory. What is particular to photos or text comes in through
//! [`domain::Domain`].
//!
//! With the domain of the example `signals`, where a row of a table is a signal: one model learns from many of them, another
//! one starts from it.
//!
//! ```
//! # #[path = "../examples/signals.rs"] mod signals;
//! # use signals::generate;
//! # fn main() -> topwork_core::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = |name: &str| folder.path().join(name);
//! use signals::{DataArgs, Signals};
//! use topwork_core::{classifier::Classifier, fit::Fit, observe::Silent};
//!
//! # std::fs::write(path("many.csv"), generate(&[0.05, 0.1, 0.2], 0.3, 60, 0)).unwrap();
//! # std::fs::write(path("few.csv"), generate(&[0.07, 0.15], 0.3, 8, 1)).unwrap();
//! let data = |name| DataArgs { train: Some(path(name)), ..DataArgs::default() };
//! let source = path("source");
//! Fit::<Signals>::new(data("many.csv")).strategy("from-scratch").out(&source).run(&Silent)?;
//!
//! let fit = Fit::<Signals>::new(data("few.csv")).model(&source.display().to_string()).strategy("fine-tuning");
//! let finished = fit.out(path("run")).run(&Silent)?;
//! println!("{}", finished.summary.metrics);
//!
//! let signal = [0.0; 128];
//! for prediction in Classifier::<Signals>::load(path("run"))?.predict(&[&signal[..]])? {
//!     println!("{} {:.3}", prediction.label(), prediction.probability());
//! }
//! # Ok(())
//! # }
//! ```

pub mod adapter;
pub mod advise;
pub mod batched;
pub mod bounded;
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
pub mod guard;
pub mod loader;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod net;
pub mod observe;
mod occlusion;
pub mod onnx;
pub mod outputs;
pub mod plan;
pub mod plan_file;
mod pooled;
pub mod prefetch;
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
