//! Every member of the BERT family through the binary: fitted, saved in its upstream layout, used again.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use support::{Home, home, member};
use topwork_core::checkpoint;
use topwork_nlp::models::bert::family::FAMILIES;

/// The tensors of a run's model.
fn tensors(home: &Home, run: &str) -> BTreeMap<String, Tensor> {
    checkpoint::read(&home.path(run).join("model/model.safetensors")).unwrap()
}

fn train(home: &Home, kind: &str, out: &str, flags: &[&str]) -> String {
    let model = member(kind);
    let data = ["train", "--train", "train.tsv", "--validation", "dev.tsv", "--model", &model, "--out", out];
    home.run(&[&data[..], flags].concat()).well()
}

#[test]
fn every_member_is_fitted_and_judged_again_as_in_training() {
    for family in FAMILIES {
        let (home, kind) = (home(), family.model_type);
        for (strategy, flags) in [
            ("feature-extraction", &[][..]),
            ("fine-tuning", &["--epochs", "2"]),
            ("lora", &["--epochs", "2", "--rank", "2"]),
            ("adapter", &["--epochs", "2", "--rank", "2"]),
        ] {
            train(&home, kind, strategy, &[&["--strategy", strategy], flags].concat());
            let config = home.json(&format!("{strategy}/model/config.json"));
            assert_eq!(config["architectures"][0], format!("{}ForSequenceClassification", family.class));
            let judged = home.run(&["evaluate", strategy, "--validation", "dev.tsv", "--json"]).well();
            let judged: serde_json::Value = serde_json::from_str(&judged).unwrap();
            let summary = home.json(&format!("{strategy}/summary.json"));
            for name in ["accuracy", "loss"] {
                let (again, then) = (judged[name].as_f64().unwrap(), summary[name].as_f64().unwrap());
                assert!((again - then).abs() < 1e-5, "{kind}, {strategy}: {name} {again} against {then}");
            }
        }
        let out = home.path("fine-tuning").display().to_string();
        let answers = home.run(&["embed", &out, "--text", "a film is very lovely", "--json"]).well();
        let vector: serde_json::Value = serde_json::from_str(&answers).unwrap();
        assert_eq!(vector["embedding"].as_array().unwrap().len(), 16, "{kind}");
    }
}

#[test]
fn a_solved_head_with_a_layer_inside_leaves_that_as_it_starts() {
    let home = home();
    train(&home, "roberta", "a", &[]);
    train(&home, "roberta", "b", &["--l2", "7"]);
    let (a, b) = (tensors(&home, "a"), tensors(&home, "b"));
    let values = |of: &BTreeMap<String, Tensor>, name: &str| of[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&a, "classifier.dense.weight"), values(&b, "classifier.dense.weight"));
    assert_ne!(values(&a, "classifier.out_proj.weight"), values(&b, "classifier.out_proj.weight"));
}

#[test]
fn what_layers_share_is_one_stage_and_learns_as_one_parameter() {
    let home = home();
    // All repetitions and the pooler learn; what lies before them does not.
    train(&home, "albert", "run", &["--strategy", "partial", "--last-stages", "2", "--epochs", "1"]);
    let before = checkpoint::read(&Path::new(&member("albert")).join("model.safetensors")).unwrap();
    let after = tensors(&home, "run");
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let moved = |name: &str| flat(&before[name]) != flat(&after[&format!("albert.{name}")]);
    assert!(moved("encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight") && moved("pooler.weight"));
    assert!(!moved("embeddings.word_embeddings.weight") && !moved("encoder.embedding_hidden_mapping_in.weight"));
    assert_eq!(before.len() + 2, after.len(), "one copy of each, and the classifier");
}
