//! `embed`: streams the pooled features of each photo or sentence.

use std::path::PathBuf;

use serde_json::json;

use super::predict::stream;
use super::{Common, Console, print_line};
use crate::Result;
use crate::domain::Domain;
use crate::embedder::Embedder;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct EmbedArgs<D: Domain> {
    /// A run directory, a model folder, or the name of a pre-trained model
    #[arg(value_name = "MODEL")]
    model: String,
    /// Put this adapter folder on the model: the adapter/ of a run
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    inputs: D::InputArgs,
    /// Scale each vector to length 1 [default: where the model's own library does]
    #[arg(long)]
    normalize: bool,
}

pub(super) fn run<D: Domain>(args: EmbedArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let place = common.place()?;
    let mut embedder = match &args.adapter {
        Some(adapter) => {
            let model = super::open::<D>(&args.model, Some(adapter), common)?;
            Embedder::<D>::new(model, place, &args.model)?
        }
        None => Embedder::<D>::load(&args.model, common.offline, place, &console)?,
    };
    if args.normalize {
        embedder = embedder.normalized();
    }
    stream(
        D::inputs(&args.inputs, embedder.pipeline())?,
        |samples| embedder.embed_samples(samples),
        |name, vector| {
            print_line(&if common.json {
                json!({ "input": name, "embedding": vector }).to_string()
            } else {
                let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
                format!("{name}\t{}", numbers.join("\t"))
            })
        },
        |name, error| {
            if common.json {
                print_line(&json!({ "input": name, "error": error.to_string() }).to_string())
            } else {
                Ok(())
            }
        },
    )
}
