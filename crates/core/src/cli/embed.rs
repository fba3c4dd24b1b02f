//! `embed`: streams the pooled features of each photo or sentence.

use std::path::PathBuf;

use serde_json::json;

use super::predict::stream;
use super::{Common, Console, print_line};
use crate::classifier::model_folder;
use crate::data::{Activation, Sample};
use crate::domain::Domain;
use crate::model::{self, Head};
use crate::net::frozen::Frozen;
use crate::seed::Seed;
use crate::{Result, device, fit};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct EmbedArgs<D: Domain> {
    /// A run directory, a model folder, or the name of a pre-trained model
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    inputs: D::InputArgs,
    /// Scale each vector to length 1
    #[arg(long)]
    normalize: bool,
}

pub(super) fn run<D: Domain>(args: EmbedArgs<D>, common: &Common) -> Result<()> {
    let device = device::parse(common.device())?;
    let console = Console::new(common.quiet);
    let folder = PathBuf::from(&args.model);
    let opened = if folder.is_dir() {
        D::open(&model_folder(&folder)?, None)?
    } else {
        fit::open_model::<D>(&args.model, common.offline, &console)?
    };
    let (params, _) = model::fit(&opened.network, &opened.weights, Head::Fresh(Seed(0)), &device, &args.model)?;
    let stages: Vec<_> = opened.network.stages.iter().collect();
    let backbone = Frozen::compile(&stages, &params, &device)?;
    let compute = |samples: &[Sample]| -> Result<Vec<Vec<f32>>> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let mut vectors = backbone.run(&Activation::collate(samples, &device)?)?.data.to_vec2::<f32>()?;
        if args.normalize {
            vectors.iter_mut().for_each(|vector| {
                let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|v| *v /= length);
            });
        }
        Ok(vectors)
    };
    stream(
        D::inputs(&args.inputs, &opened.pipeline)?,
        compute,
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
