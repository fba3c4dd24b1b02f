//! Twenty steps on labels, any number of which a sample has, and on measured values, by the trainer itself: what chooses the
//! loss of a task is on the way. Every step sees all samples, so that their order is of no importance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use topwork_core::cache::Cache;
use topwork_core::data::{Dataset, Sample, Subset, View};
use topwork_core::device::Place;
use topwork_core::loader::Strictness;
use topwork_core::observe::Observer;
use topwork_core::plan::Plan;
use topwork_core::run::RunDir;
use topwork_core::seed::Seed;
use topwork_core::task::{Kind, Task};
use topwork_core::train::{self, Companions, Job, OnNan};

use super::{AdamW, Start, assert_close, member};

#[derive(Deserialize)]
struct Stored {
    gain: f64,
    optimizer: AdamW,
    tasks: Vec<Trained>,
}

#[derive(Deserialize)]
struct Trained {
    name: String,
    kind: Kind,
    config: Value,
    outputs: usize,
    ids: Vec<Vec<u32>>,
    segments: Vec<Vec<u32>>,
    targets: Vec<Vec<f32>>,
    losses: Vec<f32>,
    #[serde(rename = "final")]
    whole: BTreeMap<String, Vec<f32>>,
    final_start: BTreeMap<String, Vec<f32>>,
}

/// Sequences with numbers.
struct Numbered {
    samples: Vec<Sample>,
    targets: Vec<Vec<f32>>,
}

impl Dataset for Numbered {
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn target(&self, _i: usize) -> u32 {
        0
    }
    fn numbers(&self, i: usize) -> &[f32] {
        &self.targets[i]
    }
    fn name(&self, i: usize) -> String {
        format!("sequence {i}")
    }
    fn digest(&self, i: usize) -> topwork_core::Result<[u8; 32]> {
        let mut digest = [0; 32];
        digest[0] = i as u8;
        Ok(digest)
    }
    fn rows(&self, i: usize) -> usize {
        self.samples[i].rows
    }
    fn load(&self, i: usize, _view: View) -> topwork_core::Result<Sample> {
        Ok(self.samples[i].clone())
    }
}

/// Keeps the losses of steps.
#[derive(Default)]
struct Losses(Mutex<Vec<f32>>);

impl Observer for Losses {
    fn step(&self, _rate: f64, loss: f64) {
        self.0.lock().unwrap().push(loss as f32);
    }
}

/// All stages and the head learn at a constant rate, each step in `parts` parts.
fn plan(start: &Start, optimizer: &AdamW, epochs: usize, parts: usize) -> Plan {
    let names = start.network.stages.iter().map(|stage| stage.name.as_str()).chain(["head"]);
    let learn: Vec<Value> = names.map(|stage| json!({"stage": stage, "rate": 1.0})).collect();
    let AdamW { betas: [beta1, beta2], eps, learning_rate, weight_decay } = *optimizer;
    let phase = json!({
        "kind": "train", "name": "all", "boundary": 0, "learn": learn, "batch_norm": "frozen", "epochs": epochs,
        "batch_size": start.samples.len(), "accumulate": parts, "learning_rate": learning_rate,
        "optimizer": {"name": "adamw", "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay},
        "schedule": {"warmup": 0.0, "decay": "constant"}, "clip_norm": null, "augment": false, "views": 1,
        "objective": {"label_smoothing": 0.0, "class_weights": "none"}, "patience": null,
    });
    serde_json::from_value(json!({"strategy": "fine-tuning", "start": "pretrained", "phases": [phase]})).unwrap()
}

#[test]
fn labels_and_values_train_as_in_transformers() {
    let stored: Stored = serde_json::from_str(include_str!("training_numbers.json")).unwrap();
    assert_eq!(stored.tasks.iter().map(|task| task.outputs).collect::<Vec<_>>(), [5, 1, 3]);
    let (folder, place) = (tempfile::tempdir().unwrap(), Place::default());
    for (number, trained) in stored.tasks.iter().enumerate() {
        let Trained { config, outputs, ids, segments, .. } = trained;
        let start = Start::new(|pooling| member(config, pooling, *outputs), stored.gain, ids, segments);
        let task = Task { kind: trained.kind, outputs: (0..*outputs).map(|i| i.to_string()).collect() };
        let data = Arc::new(Numbered { samples: start.samples.clone(), targets: trained.targets.clone() });
        for parts in [1, 3] {
            let losses = Losses::default();
            let outcome = train::execute(Job {
                network: &start.network,
                plan: &plan(&start, &stored.optimizer, trained.losses.len(), parts),
                params: start.params.clone(),
                task: &task,
                train: data.clone(),
                validation: Arc::new(Subset::new(data.clone(), Vec::new())),
                fingerprint: "",
                companions: Companions::default(),
                seed: Seed(0),
                device: &place,
                run: &RunDir::create(&folder.path().join(format!("{number} in {parts}")), false).unwrap(),
                cache: &Cache::none(),
                checkpoint_every: None,
                checkpoint_pause: Duration::MAX,
                judgements: 1,
                recompute: parts > 1,
                strictness: Strictness::default(),
                on_nan: OnNan::Stop,
                identity: None,
                threads: 1,
                resume: false,
                observer: &losses,
            })
            .unwrap();
            let what = format!("{}, {parts} parts", trained.name);
            let losses = losses.0.into_inner().unwrap();
            assert_eq!(losses.len(), trained.losses.len(), "{what}");
            for (step, (&actual, &expected)) in losses.iter().zip(&trained.losses).enumerate() {
                assert_close(&format!("{what}: loss of step {step}"), &[actual], &[expected], 1e-3);
            }
            for (name, expected) in trained.whole.iter().chain(&trained.final_start) {
                let actual: Vec<f32> = outcome.params.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                assert_close(&format!("{what}: {name}"), &actual[..expected.len()], expected, 1e-3);
            }
        }
    }
}
