//! A network as an ONNX graph (opset 20), for ONNX Runtime, OpenVINO and whatever else reads one.
//!
//! The graph comes from the description that everything else comes from: `lower` has an entry for every kind of layer.
//! Images go in with the channels first, `[samples, channels, height, width]`, at the size of the description; sequences as
//! `[samples, rows]`, padded, with a mask that is 1 where there is a row. Out come `logits` `[samples, classes]`, or of a
//! network that pools no rows `[samples, rows, classes]`, or, of a backbone, `features` `[samples, width]`. How inputs are prepared is not in the graph.

mod build;
mod lower;
mod proto;

use prost::Message;

use crate::net::{Network, Params};
use crate::{Error, Result};

use build::Builder;
use lower::{Flow, Lowering};

/// How the inputs of a domain's networks are called by the library that its models come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// One tensor, with the channels first.
    Channels(&'static str),
    /// A tensor of indices for each column of a row, as far as the network looks at it, and the mask.
    Rows {
        /// In order.
        columns: &'static [&'static str],
        /// 1 where there is a row, 0 where there is padding.
        mask: &'static str,
    },
}

/// What comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The head's.
    Logits,
    /// The backbone's, pooled.
    Features {
        /// Scaled to length 1.
        normalized: bool,
    },
}

/// The file's bytes. `properties` are kept beside the graph, as they are.
///
/// # Errors
/// When a parameter is missing, or all of them are more than a file may hold (2 GB).
pub fn write(
    network: &Network,
    params: &Params,
    inputs: Inputs,
    output: Output,
    properties: &[(String, String)],
) -> Result<Vec<u8>> {
    let mut builder = Builder::default();
    let start = Flow::input(network, inputs, &mut builder);
    let mut lowering = Lowering { builder: &mut builder, params, inputs };
    let mut flow = network.stages.iter().try_fold(start, |flow, stage| lowering.layers(&stage.layers, flow))?;
    let name = match output {
        Output::Logits => {
            flow = lowering.layers(&network.head.layers, flow)?;
            "logits"
        }
        Output::Features { normalized } => {
            if normalized {
                flow = lowering.normalized(&flow);
            }
            "features"
        }
    };
    builder.finish(&flow.value, name, &flow.dims());
    let size = builder.bytes();
    if size > i32::MAX as usize {
        let reason = format!("its parameters take {size} bytes, and an ONNX file holds 2 GB");
        return Err(Error::input(&network.name, reason, "export it as safetensors"));
    }
    let property = |(key, value): &(String, String)| proto::Property { key: key.clone(), value: value.clone() };
    let model = proto::Model {
        ir_version: proto::IR_VERSION,
        producer_name: "topwork".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: proto::OPSET }],
        metadata_props: properties.iter().map(property).collect(),
        graph: Some(builder.graph(&network.name)),
    };
    Ok(model.encode_to_vec())
}

#[cfg(test)]
mod tests;
