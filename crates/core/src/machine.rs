//! What a job may use of the machine that it runs on: the flags that say so, the same for every verb that computes.

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::device::Place;
use crate::source;
use crate::{Error, Result};

/// Disk space for kept features unless `--cache-limit` says otherwise.
const CACHE_GB: f64 = 10.0;

/// Device, precision, disk and network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// Most disk space that kept features may take, in GB; 0 keeps none [default: 10]
    #[arg(long, value_name = "GB")]
    pub cache_limit: Option<f64>,
    /// Where to compute (set by --device)
    #[arg(skip)]
    pub device: Option<String>,
    /// What matrix products of all that is frozen multiply (set by --precision)
    #[arg(skip)]
    pub precision: Option<String>,
    /// Never touch the network (set by --offline)
    #[arg(skip)]
    pub offline: bool,
}

impl Machine {
    /// Where to compute.
    ///
    /// # Errors
    /// As [`Place::parse`].
    pub fn place(&self) -> Result<Place> {
        Place::parse(self.device.as_deref(), self.precision.as_deref())
    }

    /// Where activations of frozen stages are kept.
    ///
    /// # Errors
    /// When `--cache-limit` is no amount of disk space.
    pub fn cache(&self) -> Result<Cache> {
        match self.cache_limit {
            Some(0.0) => Ok(Cache::none()),
            Some(gb) if !(gb.is_finite() && gb > 0.0) => Err(Error::input(
                format!("--cache-limit {gb}"),
                "it is no amount of disk space",
                "give gigabytes, or 0 to keep nothing",
            )),
            limit => Ok(Cache::at(source::cache_dir().join("features"), (limit.unwrap_or(CACHE_GB) * 1e9) as u64)),
        }
    }
}
