//! Looking at what a model sees: the verbs `explain` and `show-batch`.

mod explain;
pub(crate) mod raster;
mod show_batch;

pub use explain::ExplainArgs;
pub use show_batch::{ShowBatchArgs, shown_flag};

pub(crate) use explain::run as explain;
pub(crate) use show_batch::run as show_batch;
