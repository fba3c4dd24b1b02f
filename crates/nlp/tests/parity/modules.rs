//! Folders as sentence-transformers saves them, opened, against what it makes of texts: the pooling, the linear layers and the
//! scaling that their files speak of, behind encoders of every member of the family.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use topwork_core::checkpoint::write_safetensors;
use topwork_core::device::Place;
use topwork_core::domain::Domain;
use topwork_core::testing::parameter;
use topwork_nlp::models::bert::{BertConfig, Pooling};
use topwork_nlp::{Embedder, Sentences};

use super::assert_close;

#[derive(Deserialize)]
struct Stored {
    gain: f64,
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// The folder of the tokenizer among the fixtures, where its words are not among the files.
    tokenizer: Option<String>,
    /// By their paths in the folder.
    files: BTreeMap<String, String>,
    embeddings: Vec<Vec<f32>>,
}

impl Case {
    /// The folder, with weights by the formula.
    fn folder(&self, gain: f64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        for name in ["tokenizer.json", "vocab.json", "merges.txt"] {
            let of = self.tokenizer.as_ref().map(|tokenizer| fixtures.join(tokenizer).join(name));
            of.filter(|file| file.exists()).map(|file| fs::copy(file, at(name)).unwrap());
        }
        let value = |name: &str, shape: &[usize]| {
            Tensor::from_vec(parameter(name, shape, gain), shape.to_vec(), &Device::Cpu).unwrap()
        };
        for (name, text) in &self.files {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
            let Some(linear) = name.strip_suffix("/config.json").filter(|path| path.ends_with("_Dense")) else {
                continue;
            };
            let said: Value = serde_json::from_str(text).unwrap();
            let [inputs, outputs] = ["in_features", "out_features"].map(|key| said[key].as_u64().unwrap() as usize);
            let mut shapes = vec![("linear.weight", vec![outputs, inputs])];
            shapes.extend((said["bias"] == true).then(|| ("linear.bias", vec![outputs])));
            let tensors = shapes.iter().map(|(key, shape)| (key.to_string(), value(&format!("{linear}.{key}"), shape)));
            write_safetensors(&at(&format!("{linear}/model.safetensors")), &tensors.collect(), &BTreeMap::new())
                .unwrap();
        }
        let config = BertConfig::parse(&self.files["config.json"], "config.json").unwrap();
        let stages = config.network(Pooling::Mean, 2).stages;
        let tensors =
            stages.iter().flat_map(|stage| stage.params()).map(|p| (p.name.clone(), value(&p.name, &p.shape)));
        write_safetensors(&at("model.safetensors"), &tensors.collect(), &BTreeMap::new()).unwrap();
        folder
    }
}

#[test]
fn folders_of_sentence_transformers_embed_as_there() {
    let stored: Stored = serde_json::from_str(include_str!("modules.json")).unwrap();
    assert_eq!(stored.cases.len(), 13);
    let texts: Vec<&str> = stored.texts.iter().map(String::as_str).collect();
    for case in &stored.cases {
        let folder = case.folder(stored.gain);
        let model = Sentences::open(folder.path(), None).unwrap();
        let found = Embedder::new(model, Place::default(), &case.name).unwrap().embed(&texts).unwrap();
        assert_eq!(found.len(), case.embeddings.len());
        for ((text, found), expected) in texts.iter().zip(&found).zip(&case.embeddings) {
            assert_eq!(found.len(), expected.len(), "{}", case.name);
            assert_close(&format!("{}: {text:?}", case.name), found, expected, 1e-5);
        }
    }
}
