//! Looking at what a model sees: the verbs `explain` and `show-batch`.

mod explain;
pub(crate) mod raster;
mod show_batch;

pub use explain::ExplainArgs;
pub use show_batch::{ShowBatchArgs, shown_flag};

pub(crate) use explain::run as explain;
pub(crate) use show_batch::run as show_batch;

use std::path::Path;

use topwork_core::{Error, Result};

/// Refuses to write over what is there; `remedy` is how to do otherwise.
fn vacant(path: &Path, remedy: &str) -> Result<()> {
    if path.exists() {
        return Err(Error::input(path.display(), "it exists already", remedy));
    }
    Ok(())
}
