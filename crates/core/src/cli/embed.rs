//! `embed`: streams the pooled features of each photo or sentence, to standard output or into a file of vectors.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use serde_json::json;

use super::predict::tell;
use super::{Common, Console, print_line};
use crate::batched::batched;
use crate::domain::Domain;
use crate::embedder::Embedder;
use crate::observe::Observer;
use crate::vectors::Vectors;
use crate::{Error, Result};

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
    /// Write the vectors to this new file instead, whose ending tells the format: .npy, .safetensors or .parquet
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run<D: Domain>(args: EmbedArgs<D>, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    let place = common.place()?;
    let file = args.out.as_deref().map(Vectors::create).transpose()?.map(RefCell::new);
    let model = D::used(super::open::<D>(&args.model, args.adapter.as_deref(), common)?, &args.inputs)?;
    let mut embedder = Embedder::<D>::new(model, place, &args.model)?;
    if args.normalize {
        embedder = embedder.normalized();
    }
    let told = Cell::new(0);
    let outcome = tell(
        batched(D::inputs(&args.inputs, embedder.pipeline())?, |samples: &[_]| embedder.embed_samples(samples)),
        |name, vector| {
            if let Some(file) = &file {
                told.set(told.get() + 1);
                console.progress("embed", told.get(), 0);
                return file.borrow_mut().push(name, &vector);
            }
            print_line(&if common.json {
                json!({ "input": name, "embedding": vector }).to_string()
            } else {
                let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
                format!("{name}\t{}", numbers.join("\t"))
            })
        },
        |name, error| {
            if common.json && file.is_none() {
                print_line(&json!({ "input": name, "error": error.to_string() }).to_string())
            } else {
                Ok(())
            }
        },
    );
    let (Some(file), Some(out)) = (file, &args.out) else { return outcome };
    // What could not be read is missing from the file, and told as an error; whatever else went wrong leaves no file.
    if matches!(&outcome, Err(error) if told.get() == 0 || !matches!(error, Error::Input { .. })) {
        return outcome;
    }
    let (rows, width) = file.into_inner().finish()?;
    print_line(&if common.json {
        json!({ "file": out, "vectors": rows, "numbers": width }).to_string()
    } else {
        format!("{rows} vectors of {width} numbers are in {}", out.display())
    })?;
    outcome
}
