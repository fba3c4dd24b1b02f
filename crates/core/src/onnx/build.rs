//! The graph while it grows: nodes in order, constants by name, names for what flows between.

use std::collections::BTreeSet;

use super::proto::{self, Attribute, Node, ValueInfo};

/// Nodes and constants.
#[derive(Default)]
pub struct Builder {
    graph: proto::Graph,
    constants: BTreeSet<String>,
}

impl Builder {
    /// Declares an input.
    pub fn input(&mut self, name: &str, kind: i32, dims: &[&str]) {
        self.graph.input.push(ValueInfo::tensor(name, kind, dims));
    }

    /// Adds a node, unless the very same is there: every operator used is a function. Gives the name of what comes out.
    pub fn node<const N: usize>(&mut self, op: &str, inputs: [&str; N], attribute: Vec<Attribute>) -> String {
        let same = |node: &&Node| node.op_type == op && node.input == inputs && node.attribute == attribute;
        if let Some(node) = self.graph.node.iter().find(same) {
            return node.output[0].clone();
        }
        let output = format!("{op}_{}", self.graph.node.len());
        self.graph.node.push(Node {
            input: inputs.map(String::from).to_vec(),
            output: vec![output.clone()],
            name: output.clone(),
            op_type: op.into(),
            attribute,
        });
        output
    }

    /// Adds a constant of floats, unless one of that name is there; gives the name.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        self.constant(name, dims, proto::FLOAT, || values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Adds whole numbers, of rank 1 or, of a `scalar`, 0; gives their name.
    pub fn ints(&mut self, values: &[i64], scalar: bool) -> String {
        let text: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("{}_{}", if scalar { "int" } else { "ints" }, text.join("_"));
        let dims = if scalar { vec![] } else { vec![values.len()] };
        self.constant(&name, &dims, proto::INT64, || values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A number.
    pub fn float(&mut self, value: f32) -> String {
        self.floats(&format!("float_{value:e}"), &[], &[value])
    }

    fn constant(&mut self, name: &str, dims: &[usize], data_type: i32, bytes: impl Fn() -> Vec<u8>) -> String {
        if self.constants.insert(name.into()) {
            let dims = dims.iter().map(|&d| d as i64).collect();
            self.graph.initializer.push(proto::Tensor { dims, data_type, name: name.into(), raw_data: bytes() });
        }
        name.into()
    }

    /// Hands out `value`, of this shape, under `name`.
    pub fn finish(&mut self, value: &str, name: &str, dims: &[String]) {
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        self.graph.output.push(ValueInfo::tensor(name, proto::FLOAT, &dims));
        let last = self.graph.node.iter_mut().find(|node| node.output[0] == value);
        match last {
            // Nothing reads it but whoever runs the graph.
            Some(node) => node.output[0] = name.into(),
            None => self.graph.node.push(Node {
                input: vec![value.into()],
                output: vec![name.into()],
                name: name.into(),
                op_type: "Identity".into(),
                attribute: vec![],
            }),
        }
    }

    /// Bytes of all constants.
    pub fn bytes(&self) -> usize {
        self.graph.initializer.iter().map(|constant| constant.raw_data.len()).sum()
    }

    /// The graph.
    pub fn graph(self, name: &str) -> proto::Graph {
        proto::Graph { name: name.into(), ..self.graph }
    }
}
