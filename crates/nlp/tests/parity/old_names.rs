//! A pickle of PyTorch with the names of the first checkpoints, `gamma` and `beta`, beside the same tensors as safetensors under
//! the names of today (`xtask/parity/old_names.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use serde::Deserialize;
use topwork_core::checkpoint;
use topwork_core::data::{Activation, Sample};
use topwork_core::domain::Domain;
use topwork_core::net::Params;
use topwork_core::net::forward::{Mode, Pass};
use topwork_nlp::Sentences;
use topwork_nlp::tokenizer::Tokens;

use super::assert_rows_close;

#[derive(Deserialize)]
struct Expected {
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
    pooler_output: Vec<Vec<f32>>,
}

#[test]
fn a_pickle_with_old_names_is_the_same_model() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let old = fixtures.join("old_names");
    let expected: Expected = serde_json::from_str(&fs::read_to_string(old.join("expected.json")).unwrap()).unwrap();
    let names = checkpoint::read(&old.join("pytorch_model.bin")).unwrap();
    assert!(
        names.keys().any(|name| name.ends_with("LayerNorm.gamma"))
            && names.keys().all(|name| !name.ends_with("LayerNorm.weight"))
    );
    let first = |segments: &Vec<u32>| segments.iter().filter(|&&segment| segment == 0).count();
    let samples: Vec<Sample> = expected
        .ids
        .iter()
        .zip(&expected.segments)
        .map(|(ids, segments)| Tokens::sample(ids, first(segments)))
        .collect();
    let mut opened = Vec::new();
    for weights in ["pytorch_model.bin", "model.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        let files = [old.join("config.json"), old.join(weights), fixtures.join("tokenizer/vocab.txt")];
        for file in files {
            fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        let model = Sentences::open(folder.path(), None).unwrap();
        let params = Params::new(model.weights.clone());
        let pass = Pass::new(&params, Mode::Eval);
        let input = Activation::collate(&samples, &Device::Cpu).unwrap();
        let pooled = model.network.stages.iter().fold(input, |x, stage| pass.stage(stage, x, true).unwrap());
        assert_rows_close(&format!("{weights}: pooler output"), &pooled, &expected.pooler_output);
        let values = model.weights.iter().map(|(name, tensor)| {
            (name.clone(), (tensor.dims().to_vec(), tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()))
        });
        opened.push(values.collect::<BTreeMap<_, _>>());
    }
    assert_eq!(opened[0].keys().collect::<Vec<_>>(), opened[1].keys().collect::<Vec<_>>());
    assert!(opened[0] == opened[1], "bit for bit");
}
