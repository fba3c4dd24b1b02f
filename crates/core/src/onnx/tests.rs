//! Graphs are well formed, and hold what the description and the parameters say. That ONNX Runtime computes the same with
//! them as torch does is for `xtask/parity/onnx.py`.

use std::collections::BTreeSet;

use super::*;
use crate::net::{
    Act, Asks, Attention, BatchNorm, Conv, Distances, Embed, Index, Layer, LayerNorm, Linear, Padding, PoolRows,
    Residual, Stage, Table, Window,
};
use crate::seed::Seed;
use candle_core::Device;

const ROWS: Inputs = Inputs::Rows { columns: &["ids", "kinds"], mask: "mask" };

fn linear(name: &str, inputs: usize, outputs: usize) -> Linear {
    Linear { name: name.into(), inputs, outputs, bias: true, update: None }
}

fn network(layers: Vec<Layer>, width: usize, input: Vec<usize>) -> Network {
    let head = Stage { name: "head".into(), layers: vec![Layer::Linear(linear("fc", width, 3))] };
    Network { name: "small".into(), stages: vec![Stage { name: "all".into(), layers }], head, input }
}

fn pictures() -> Network {
    let window = Window { padding: Padding::Same, ..Window::square(3, 2) };
    let conv = Conv { name: "conv".into(), inputs: 3, outputs: 8, window, groups: 1, bias: false, update: None };
    let squeeze = Conv { name: "squeeze".into(), inputs: 8, window: Window::square(1, 1), bias: true, ..conv.clone() };
    let norm = BatchNorm { name: "bn".into(), width: 8, eps: 1e-3, momentum: 0.1 };
    let gate = Layer::Gate(vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Conv(squeeze), Layer::Act(Act::Sigmoid)]);
    let layers = vec![
        Layer::Conv(conv),
        Layer::BatchNorm(norm),
        Layer::Residual(Residual { body: vec![Layer::Act(Act::Relu6)], shortcut: vec![], then: vec![gate] }),
        Layer::AdaptiveAvgPool([2, 3]),
        Layer::Flatten,
        Layer::Dropout(0.5),
    ];
    network(layers, 48, vec![9, 9, 3])
}

fn sentences(asks: Asks) -> Network {
    let table = |name: &str, rows, index| Table { name: name.into(), rows, index };
    let tables = vec![table("words", 11, Index::Column(0)), table("places", 7, Index::Position(1))];
    let distances = Distances { name: "near".into(), buckets: 8, farthest: 16, shared: false };
    let [query, key, value, output] = ["q", "k", "v", "o"].map(|name| linear(name, 6, 6));
    let attention = Attention {
        query,
        key,
        value,
        output,
        heads: 2,
        dropout: 0.1,
        prefix: None,
        distances: Some(distances),
        asks,
        window: None,
    };
    let shortcut = if asks == Asks::First { vec![Layer::PoolRows(PoolRows::First)] } else { vec![] };
    let norm = LayerNorm { name: "ln".into(), width: 6, eps: 1e-12 };
    let layers = vec![
        Layer::Embed(Embed { tables, width: 6, window: None }),
        Layer::Residual(Residual {
            body: vec![Layer::Attention(attention)],
            shortcut,
            then: vec![Layer::LayerNorm(norm)],
        }),
        Layer::PoolRows(PoolRows::Mean),
    ];
    network(layers, 6, vec![2])
}

fn written(network: &Network, inputs: Inputs, output: Output) -> proto::Model {
    let params = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap();
    let bytes = write(network, &params, inputs, output, &[("classes".into(), "[]".into())]).unwrap();
    proto::Model::decode(&bytes[..]).unwrap()
}

fn operators(model: &proto::Model) -> Vec<&str> {
    model.graph.as_ref().unwrap().node.iter().map(|node| node.op_type.as_str()).collect()
}

/// Every value is there before it is read, is made once, and every constant is read.
fn well_formed(model: &proto::Model) {
    let graph = model.graph.as_ref().unwrap();
    let mut known: BTreeSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|constant| constant.name.as_str()).collect();
    known.extend(&constants);
    assert_eq!(known.len(), graph.input.len() + graph.initializer.len());
    let mut read = BTreeSet::new();
    for node in &graph.node {
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{} reads {input}", node.name);
            read.insert(input.as_str());
        }
        assert!(known.insert(&node.output[0]), "{} is made twice", node.output[0]);
    }
    assert!(graph.output.iter().all(|output| known.contains(output.name.as_str())));
    assert_eq!(constants.difference(&read).next(), None);
    for constant in &graph.initializer {
        let count: i64 = constant.dims.iter().product();
        let size = if constant.data_type == proto::FLOAT { 4 } else { 8 };
        assert_eq!(constant.raw_data.len() as i64, count * size, "{}", constant.name);
    }
}

#[test]
fn pictures_become_operators_on_channels_first() {
    let model = written(&pictures(), Inputs::Channels("input"), Output::Logits);
    well_formed(&model);
    let all = "Conv BatchNormalization Clip Add GlobalAveragePool Conv Sigmoid Mul MatMul MatMul Flatten MatMul Add";
    assert_eq!(operators(&model).join(" "), all);
    let graph = model.graph.unwrap();
    assert_eq!(graph.output[0].name, "logits");
    // "SAME": 9 pixels at stride 2 want one zero on either side.
    let pads = graph.node[0].attribute.iter().find(|a| a.name == "pads").unwrap();
    assert_eq!(pads.ints, [1, 1, 1, 1]);
    // 5 pixels down to 2: windows of 3 that share the middle.
    let down = graph.initializer.iter().find(|c| c.name == "average_2_of_5").unwrap();
    let values: Vec<f32> = down.raw_data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let third = 1.0 / 3.0;
    assert_eq!(values, [third, third, third, 0.0, 0.0, 0.0, 0.0, third, third, third]);
}

#[test]
fn weights_are_those_of_the_parameters() {
    let network = pictures();
    let params = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap();
    let graph = written(&network, Inputs::Channels("input"), Output::Logits).graph.unwrap();
    let constant = |name: &str| graph.initializer.iter().find(|c| c.name == name).unwrap();
    let values = |name: &str| params.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    assert_eq!(constant("conv.weight").raw_data, bytes(values("conv.weight")));
    let turned = params.get("fc.weight").unwrap().t().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(constant("fc.weight.turned").raw_data, bytes(turned));
}

#[test]
fn sentences_are_padded_and_masked() {
    for asks in [Asks::Every, Asks::First] {
        let model = written(&sentences(asks), ROWS, Output::Logits);
        well_formed(&model);
        assert_eq!(operators(&model).contains(&"ReduceSum"), asks == Asks::Every);
        // Where one row asks, the terms by distance are those of one row.
        let cuts = operators(&model).iter().filter(|op| **op == "Slice").count();
        assert_eq!(cuts, if asks == Asks::First { 2 } else { 0 });
        let graph = model.graph.unwrap();
        let names: Vec<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["ids", "mask"], "no table has a row for the second column");
    }
}

#[test]
fn what_layers_share_is_computed_once() {
    let mut network = sentences(Asks::Every);
    let again = network.stages[0].layers[1].clone();
    network.stages[0].layers.insert(2, again);
    let model = written(&network, ROWS, Output::Logits);
    well_formed(&model);
    let count = |wanted: &str| operators(&model).iter().filter(|op| **op == wanted).count();
    assert_eq!((count("Softmax"), count("Range"), count("Sub")), (2, 1, 2), "positions, distances and the mask");
}

#[test]
fn a_backbone_gives_its_features() {
    let model = written(&sentences(Asks::Every), ROWS, Output::Features { normalized: true });
    well_formed(&model);
    let graph = model.graph.unwrap();
    assert_eq!(graph.output[0].name, "features");
    assert!(!graph.initializer.iter().any(|c| c.name.starts_with("fc")));
    assert_eq!(graph.node.last().unwrap().op_type, "Div");
    assert_eq!(model.metadata_props[0].key, "classes");
}

#[test]
fn an_adapter_beside_a_weight_has_to_be_merged_first() {
    let mut network = pictures();
    let Some(Layer::Conv(conv)) = network.stages[0].layers.first_mut() else { panic!() };
    conv.update = Some(crate::net::Update::Rescale(crate::net::Side::Outputs));
    let params = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap();
    let error = write(&network, &params, Inputs::Channels("input"), Output::Logits, &[]).unwrap_err();
    assert!(error.to_string().contains("merge it"), "{error}");
}
