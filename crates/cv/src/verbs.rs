//! The verbs that photos have beside those of all domains.

use topwork_core::Result;
use topwork_core::cli::{self, Common, TrainArgs};
use topwork_core::domain;

use crate::look::{ExplainArgs, ShowBatchArgs, shown_flag};
use crate::{Photos, look, pretrain};

/// Verbs of photos alone.
#[derive(Debug, clap::Subcommand)]
pub enum Verbs {
    /// Train a network from random weights on many labelled photos, to make a model that others start from
    #[command(mut_args(cli::pretraining_flag))]
    Pretrain(Box<TrainArgs<Photos>>),
    /// Show where in photos a model finds what speaks for a class, and what it mistakes
    Explain(Box<ExplainArgs>),
    /// Show photos as training sees them: random views, mixed or not, on one sheet
    #[command(mut_args(shown_flag))]
    ShowBatch(Box<ShowBatchArgs>),
}

impl domain::Verbs for Verbs {
    fn run(self, common: &Common) -> Result<()> {
        match self {
            Self::Pretrain(args) => cli::pretrain(*args, &pretrain::recipe(), common),
            Self::Explain(args) => look::explain(&args, common),
            Self::ShowBatch(args) => look::show_batch(&args, common),
        }
    }
}
