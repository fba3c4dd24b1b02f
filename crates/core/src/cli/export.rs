//! `export`: a model's weights as one file, under the names of the library that will read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Device;

use super::{Common, Console, print_line};
use crate::domain::{Domain, Opened};
use crate::model::{self, Head};
use crate::net::adapt;
use crate::seed::Seed;
use crate::{Error, Result, checkpoint, fit};

/// The names that the description itself uses.
const OWN: &str = "safetensors";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ExportArgs {
    /// A run, a model folder, a weights file, or a name from `models list`
    #[arg(value_name = "MODEL")]
    model: String,
    /// A library whose names and shapes the tensors get, or safetensors for topwork's own
    #[arg(long, value_name = "NAME", default_value = OWN)]
    format: String,
    /// The .safetensors file to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run<D: Domain>(args: ExportArgs, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    if args.out.exists() {
        return Err(Error::input(args.out.display(), "it exists already", "choose another --out"));
    }
    let library = (args.format != OWN).then_some(args.format.as_str());
    if let Some(other) = library.filter(|name| !D::LIBRARIES.contains(name)) {
        let known = [&[OWN][..], D::LIBRARIES].concat().join(", ");
        return Err(Error::input(format!("--format {other}"), "no such format", format!("use one of {known}")));
    }
    let opened = fit::open_any::<D>(&args.model, common.offline, &console)?;
    // A model that is no classifier has no head to write.
    let of_head: Vec<String> = opened.network.head.params().into_iter().map(|spec| spec.name).collect();
    let bare = opened.classes.is_none() && !of_head.iter().any(|name| opened.weights.contains_key(name));
    let head = if bare { Head::Fresh(Seed(0)) } else { Head::Keep };
    let (params, _) = model::fit(&opened.network, &opened.weights, head, &Device::Cpu, &args.model)?;
    let (network, mut weights) = adapt::merge(&opened.network, &params)?;
    if bare {
        weights.retain(|name, _| !of_head.contains(name));
    }
    if let Some(kind) = adapt::found(&network).first().map(adapt::Adapter::kind) {
        let reason = format!("it carries an adapter of kind {kind}, for which no other library has layers");
        return Err(Error::input(args.model, reason, "export a model without it"));
    }
    // A library may have a place for what the description has none for.
    let weights = opened.weights.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).chain(weights).collect();
    let tensors = D::state_dict(&Opened { network, weights, ..opened }, library)?;
    checkpoint::write_safetensors(&args.out, &tensors, &BTreeMap::new())?;
    print_line(&if common.json {
        serde_json::json!({ "model": args.model, "format": args.format, "file": args.out }).to_string()
    } else {
        format!("{} tensors are in {}", tensors.len(), args.out.display())
    })
}
