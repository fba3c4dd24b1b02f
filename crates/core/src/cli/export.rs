//! `export`: a model as one file for another program: its weights under the names of the library that will read them, or a
//! graph.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

use super::{Common, Console, print_line};
use crate::domain::{Domain, Opened};
use crate::files::{ELSEWHERE, vacant, write_atomic_bytes};
use crate::model::{self, Head};
use crate::net::{Params, adapt};
use crate::onnx::{self, Output};
use crate::{Error, Result, checkpoint, fit};

/// The names that the description itself uses.
const OWN: &str = "safetensors";
/// A graph, weights included.
const GRAPH: &str = "onnx";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ExportArgs {
    /// A run, a model folder, a weights file, or a name from `models list`
    #[arg(value_name = "MODEL")]
    model: String,
    /// A library whose names and shapes the tensors get, safetensors for topwork's own, or onnx for a graph
    #[arg(long, value_name = "NAME", default_value = OWN)]
    format: String,
    /// Matrices, kernels and tables in half precision (IEEE 754 binary16): half the size
    #[arg(long)]
    half: bool,
    /// The file to write: .safetensors or .onnx
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run<D: Domain>(args: ExportArgs, common: &Common) -> Result<()> {
    let console = Console::new(common.quiet);
    vacant(&args.out, ELSEWHERE)?;
    let library = (![OWN, GRAPH].contains(&args.format.as_str())).then_some(args.format.as_str());
    if let Some(other) = library.filter(|name| !D::LIBRARIES.contains(name)) {
        let known = [&[OWN, GRAPH][..], D::LIBRARIES].concat().join(", ");
        return Err(Error::input(format!("--format {other}"), "no such format", format!("use one of {known}")));
    }
    if args.half && args.format == GRAPH {
        return Err(Error::input(
            "--half",
            "graphs are in single precision",
            "leave it out, or choose another --format",
        ));
    }
    let mut opened = fit::open_any::<D>(&args.model, common.offline, &console)?;
    let head = opened.network.head.params();
    let complete = !head.is_empty() && head.iter().all(|spec| opened.weights.contains_key(&spec.name));
    if !complete {
        opened.network.head.layers.clear();
    }
    let (params, _) = model::fit(&opened.network, &opened.weights, Head::Keep, &Device::Cpu, &args.model)?;
    let (network, weights) = adapt::merge(&opened.network, &params)?;
    let written = if args.format == GRAPH {
        let output = match complete {
            true => Output::Logits,
            false => Output::Features { normalized: D::normalizes(&opened.pipeline) },
        };
        let outputs =
            opened.task.as_ref().map(|task| (task.kind.to_string(), serde_json::json!(task.outputs).to_string()));
        let preparation = D::preparation(&opened.pipeline).map(|line| ("preparation".to_string(), line));
        let properties: Vec<(String, String)> = outputs.into_iter().chain(preparation).collect();
        let graph = onnx::write(&network, &Params::new(weights), D::GRAPH_INPUTS, output, &properties)?;
        write_atomic_bytes(&args.out, &graph)?;
        format!("a graph of {} bytes is", graph.len())
    } else {
        if let Some(kind) = adapt::found(&network).first().map(adapt::Adapter::kind) {
            let reason = format!("it carries an adapter of kind {kind}, for which no other library has layers");
            return Err(Error::input(args.model, reason, "export a model without it, or as onnx"));
        }
        // A library may have a place for what the description has none for.
        let beside = opened.weights.iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        let weights = beside.chain(weights).collect();
        let mut tensors = D::state_dict(&Opened { network, weights, ..opened }, library)?;
        if args.half {
            tensors = halved(tensors)?;
        }
        checkpoint::write_safetensors(&args.out, &tensors, &BTreeMap::new())?;
        format!("{} tensors are", tensors.len())
    };
    print_line(&if common.json {
        serde_json::json!({ "model": args.model, "format": args.format, "file": args.out }).to_string()
    } else {
        format!("{written} in {}", args.out.display())
    })
}

/// What has two axes or more, in half precision; vectors are few numbers, of any size.
fn halved(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let half = |(name, tensor): (String, Tensor)| {
        if tensor.rank() < 2 || tensor.dtype() != DType::F32 {
            return Ok((name, tensor));
        }
        let largest = tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        if largest > f32::from(half::f16::MAX) {
            let reason = format!("a number of {name} is {largest:e}, more than half precision holds");
            return Err(Error::input("--half", reason, "leave it out"));
        }
        Ok((name, tensor.to_dtype(DType::F16)?))
    };
    tensors.into_iter().map(half).collect()
}
