//! The trainer on a tiny task: it learns, it resumes to the same bytes, it says what went wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::*;
use super::*;
use crate::cache::host_values;
use crate::data::{Sample, Values, View};
use crate::observe::Silent;
use crate::plan::{BatchNormMode, Decay, Optimizer as Rule, Schedule, Train};

fn bits(params: &Params) -> BTreeMap<String, Vec<u32>> {
    let read = |(name, value)| (name, host_values(&value).unwrap().into_iter().map(f32::to_bits).collect());
    params.snapshot().into_iter().map(read).collect()
}

fn finish(fixture: &Fixture, name: &str, phases: Vec<Phase>) -> Outcome {
    let (plan, run) = (plan(phases), fixture.run_dir(name));
    execute(fixture.job(&plan, &run, &Silent)).unwrap()
}

#[test]
fn gradient_descent_learns_the_clusters() {
    let outcome = finish(&Fixture::new(), "run", vec![Phase::Train(train(0))]);
    assert!(outcome.metrics.score() > 0.9, "{:?}", outcome.metrics);
    assert_eq!(outcome.trained, outcome.parameters);
}

#[test]
fn a_solved_head_tells_the_clusters_apart_and_the_backbone_stays() {
    let fixture = Fixture::new();
    let outcome = finish(&fixture, "run", vec![solve(2)]);
    assert!(outcome.metrics.score() > 0.9, "{:?}", outcome.metrics);
    assert_eq!(outcome.trained, 8 * 3 + 3);
    assert_eq!(bits(&outcome.params)["one.weight"], bits(&params(&fixture.network))["one.weight"]);
}

#[test]
fn a_stopped_run_that_continues_ends_in_the_same_bytes() {
    let optimizers = [train(0).optimizer, Rule::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 }];
    let cases = [(0, optimizers[0], 12, None), (0, optimizers[1], 27, Some(0.9)), (1, optimizers[0], 43, None)];
    for (boundary, optimizer, stop, average) in cases {
        let phases = vec![solve(1), Phase::Train(Train { optimizer, average, patience: Some(3), ..train(boundary) })];
        let whole = finish(&Fixture::new(), "run", phases.clone());

        let fixture = Fixture::new();
        let plan = plan(phases);
        let run = fixture.run_dir("run");
        let error = execute(fixture.job(&plan, &run, &Stopper::after(stop))).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
        drop(run);
        let run = RunDir::resume(&fixture.path("run")).unwrap();
        let job = Job { resume: true, threads: 1, ..fixture.job(&plan, &run, &Silent) };
        let resumed = execute(job).unwrap();
        assert_eq!(bits(&resumed.params), bits(&whole.params), "boundary {boundary}, stopped after {stop}");
        assert_eq!(resumed.history, whole.history);
        assert_eq!(resumed.outputs, whole.outputs);
    }
}

#[test]
fn the_running_mean_is_what_a_phase_leaves() {
    let after = |epochs, average| {
        let schedule = Schedule { warmup: 0.0, decay: Decay::Constant };
        let phase = Train { epochs, average, batch_size: 60, augment: false, schedule, ..train(0) };
        finish(&Fixture::new(), "run", vec![Phase::Train(phase)])
    };
    let (one, two, mean) = (after(1, None), after(2, None), after(2, Some(0.9)));
    for (name, mean) in mean.params.snapshot() {
        // The second step keeps 2 / 11 of the mean so far.
        let (one, two) = (one.params.get(&name).unwrap(), two.params.get(&name).unwrap());
        let want = (&two + ((one - &two).unwrap() * (2.0 / 11.0)).unwrap()).unwrap();
        let off = (mean - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "{name}: {off}");
    }
    assert_ne!(mean.metrics.loss, two.metrics.loss, "it is the mean that is judged");
    assert_eq!(bits(&after(2, Some(0.0)).params), bits(&two.params));
}

#[test]
fn a_run_that_is_complete_can_be_resumed_without_work() {
    let fixture = Fixture::new();
    let first = finish(&fixture, "run", vec![Phase::Train(train(0))]);
    let plan = plan(vec![Phase::Train(train(0))]);
    let run = RunDir::resume(&fixture.path("run")).unwrap();
    let again = execute(Job { resume: true, ..fixture.job(&plan, &run, &Silent) }).unwrap();
    assert_eq!(bits(&again.params), bits(&first.params));
    assert_eq!(again.metrics, first.metrics);
    assert_eq!(again.timings.seconds("train"), 0.0);
}

#[test]
fn a_checkpoint_of_another_plan_is_refused() {
    let fixture = Fixture::new();
    finish(&fixture, "run", vec![Phase::Train(train(0))]);
    let plan = plan(vec![Phase::Train(Train { learning_rate: 0.5, ..train(0) })]);
    let run = RunDir::resume(&fixture.path("run")).unwrap();
    let error = execute(Job { resume: true, ..fixture.job(&plan, &run, &Silent) }).unwrap_err();
    assert!(error.to_string().contains("another plan"), "{error}");
}

#[test]
fn a_truncated_checkpoint_is_passed_over_for_the_one_before() {
    let fixture = Fixture::new();
    let whole = finish(&fixture, "run", vec![Phase::Train(train(0))]);
    let mut files: Vec<_> =
        std::fs::read_dir(fixture.path("run/checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 4, "the last two checkpoints are kept: {files:?}");
    std::fs::write(&files[3], "short").unwrap();
    let plan = plan(vec![Phase::Train(train(0))]);
    let run = RunDir::resume(&fixture.path("run")).unwrap();
    let again = execute(Job { resume: true, ..fixture.job(&plan, &run, &Silent) }).unwrap();
    assert_eq!(bits(&again.params), bits(&whole.params));
}

#[test]
fn ends_of_epochs_leave_checkpoints_but_no_more_than_are_worth_their_time() {
    let fixture = Fixture::new();
    let plan = plan(vec![Phase::Train(Train { epochs: 6, ..train(0) })]);
    let written = |name: &str, on_nan: OnNan| {
        let run = RunDir::create(&fixture.path(name), false).unwrap();
        execute(Job { checkpoint_every: None, on_nan, ..fixture.job(&plan, &run, &Silent) }).unwrap();
        let names = std::fs::read_dir(run.checkpoints()).unwrap().map(|e| e.unwrap().file_name());
        names.filter_map(|n| n.to_str()?.strip_suffix(".json")?.parse::<usize>().ok()).max().unwrap()
    };
    assert_eq!(written("each", OnNan::Rollback), 6 + 1, "where a run may go back to is no matter of the clock");
    assert!((1..=6 + 1).contains(&written("worth", OnNan::Stop)));
}

#[test]
fn patience_ends_a_phase_and_gives_back_the_best() {
    let phase = Train { patience: Some(2), epochs: 40, learning_rate: 0.3, ..train(0) };
    let fixture = Fixture::new();
    let outcome = finish(&fixture, "run", vec![Phase::Train(phase)]);
    assert!(outcome.history.len() < 40);
    let best = outcome.history.iter().filter_map(|r| r.validation.as_ref()).fold(0f64, |a, m| a.max(m.score()));
    assert_eq!(outcome.metrics.score(), best);
    // The answers are those of the best epoch, not of the last that was judged.
    assert_eq!(outcome.outputs.metrics(&fixture.task, &*fixture.validation), outcome.metrics);
}

#[test]
fn divergence_names_the_step_and_samples() {
    let fixture = Fixture::new();
    let rule = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let phase = Train { optimizer: rule, learning_rate: 1e38, clip_norm: None, ..train(0) };
    let (plan, run) = (plan(vec![Phase::Train(phase)]), fixture.run_dir("run"));
    let message = execute(fixture.job(&plan, &run, &Silent)).unwrap_err().to_string();
    assert!(
        message.contains("step ") && message.contains("point ") && message.contains("--learning-rate"),
        "{message}"
    );
}

#[test]
fn kept_activations_give_the_same_scores_as_computed_ones() {
    let kept = finish(&Fixture::new(), "run", vec![Phase::Train(train(2))]);
    let mut fixture = Fixture::new();
    fixture.cache = Cache::at(fixture.path("features"), 0);
    let computed = finish(&fixture, "run", vec![Phase::Train(train(2))]);
    assert!((kept.metrics.loss - computed.metrics.loss).abs() < 1e-5);
    assert_eq!(kept.metrics.score(), computed.metrics.score());
}

#[test]
fn with_a_boundary_samples_are_loaded_once() {
    let mut fixture = Fixture::new();
    let data = Clusters::new(60, 1);
    fixture.train = data.clone();
    finish(&fixture, "run", vec![Phase::Train(train(1))]);
    assert_eq!(data.loads.load(Ordering::Relaxed), 120, "60 samples in two views");
    finish(&fixture, "again", vec![Phase::Train(train(1))]);
    assert_eq!(data.loads.load(Ordering::Relaxed), 120, "a second run reuses them");
}

#[test]
fn unreadable_samples_are_skipped_and_listed() {
    for phase in [Phase::Train(train(0)), solve(0)] {
        let mut fixture = Fixture::new();
        fixture.train = Arc::new(Clusters { len: 60, seed: 1, broken: 20, loads: AtomicUsize::new(0) });
        let outcome = finish(&fixture, "run", vec![phase]);
        let names: Vec<&str> = outcome.skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["point 19", "point 39", "point 59"]);
    }
}

#[test]
fn a_run_that_fails_before_its_first_checkpoint_leaves_no_folder() {
    let mut fixture = Fixture::new();
    fixture.train = Arc::new(Clusters { len: 60, seed: 1, broken: 3, loads: AtomicUsize::new(0) });
    let plan = plan(vec![solve(0)]);
    let run = fixture.run_dir("run");
    assert!(execute(fixture.job(&plan, &run, &Silent)).is_err());
    drop(run);
    assert!(!fixture.path("run").exists());
}

#[test]
fn batches_of_one_are_refused_where_batch_norm_sees_a_single_position() {
    let mut fixture = Fixture::new();
    let norm = crate::net::BatchNorm { name: "bn".into(), width: 8, eps: 1e-5, momentum: 0.1 };
    fixture.network.stages[1].layers.push(crate::net::Layer::BatchNorm(norm));
    let phase = Train { batch_size: 1, ..train(0) };
    let (refused, run) = (plan(vec![Phase::Train(phase.clone())]), fixture.run_dir("run"));
    let message = execute(fixture.job(&refused, &run, &Silent)).unwrap_err().to_string();
    assert!(message.contains("--batch-size 1") && message.contains("--batch-norm frozen"), "{message}");
    let frozen = Train { batch_norm: BatchNormMode::Frozen, ..phase };
    assert!(!check::needs_two(&fixture.network, &frozen));
}

#[test]
fn metrics_are_written_as_lines_of_steps_and_epochs() {
    let fixture = Fixture::new();
    let outcome = finish(&fixture, "run", vec![Phase::Train(train(0))]);
    let text = std::fs::read_to_string(fixture.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((count("epoch"), outcome.history.len()), (4, 4));
    assert!(count("step") >= 3);
}

/// A convolution with batch normalization, over the points as images of 2 × 2 pixels.
fn convolutional(fixture: &mut Fixture) {
    use crate::net::{BatchNorm, Conv, Layer, Window};
    struct Images(Arc<dyn Dataset>);
    impl Dataset for Images {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn target(&self, i: usize) -> u32 {
            self.0.target(i)
        }
        fn name(&self, i: usize) -> String {
            self.0.name(i)
        }
        fn digest(&self, i: usize) -> Result<[u8; 32]> {
            self.0.digest(i)
        }
        fn load(&self, i: usize, view: View) -> Result<Sample> {
            Ok(Sample { shape: vec![2, 2, 1], ..self.0.load(i, view)? })
        }
    }
    let window = Window { padding: crate::net::Padding::Even([1, 1]), ..Window::square(3, 1) };
    let conv = Conv { name: "conv".into(), inputs: 1, outputs: 4, window, groups: 1, bias: false, update: None };
    let norm = BatchNorm { name: "bn".into(), width: 4, eps: 1e-5, momentum: 0.1 };
    let flat = Conv {
        name: "two".into(),
        inputs: 4,
        outputs: 8,
        window: Window { padding: crate::net::Padding::Even([0, 0]), ..Window::square(2, 1) },
        groups: 1,
        bias: true,
        update: None,
    };
    fixture.network.stages[0].layers =
        vec![Layer::Conv(conv), Layer::BatchNorm(norm), Layer::Act(crate::net::Act::Relu)];
    fixture.network.stages[1].layers =
        vec![Layer::Conv(flat), Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten, Layer::Dropout(0.1)];
    fixture.network.input = vec![2, 2, 1];
    fixture.train = Arc::new(Images(fixture.train.clone()));
    fixture.validation = Arc::new(Images(fixture.validation.clone()));
}

#[test]
fn a_convolutional_run_resumes_with_its_running_statistics() {
    let phases = vec![Phase::Train(Train { epochs: 3, ..train(0) })];
    let mut fixture = Fixture::new();
    convolutional(&mut fixture);
    let start = bits(&params(&fixture.network));
    let whole = finish(&fixture, "run", phases.clone());
    assert_ne!(bits(&whole.params)["bn.running_mean"], start["bn.running_mean"]);

    let plan = plan(phases);
    let run = fixture.run_dir("stopped");
    assert!(execute(fixture.job(&plan, &run, &Stopper::after(11))).is_err());
    drop(run);
    let run = RunDir::resume(&fixture.path("stopped")).unwrap();
    let resumed = execute(Job { resume: true, ..fixture.job(&plan, &run, &Silent) }).unwrap();
    assert_eq!(bits(&resumed.params), bits(&whole.params));
}

#[test]
fn frozen_batch_norm_leaves_its_running_statistics() {
    let mut fixture = Fixture::new();
    convolutional(&mut fixture);
    let start = bits(&params(&fixture.network));
    let phase = Train { batch_norm: BatchNormMode::Frozen, ..train(0) };
    let outcome = finish(&fixture, "run", vec![Phase::Train(phase)]);
    assert_eq!(bits(&outcome.params)["bn.running_mean"], start["bn.running_mean"]);
    assert_ne!(bits(&outcome.params)["bn.weight"], start["bn.weight"]);
}

/// The points, of which number 7 is made of another number for the first so many times that it is read.
struct Faulty(Arc<dyn Dataset>, AtomicUsize, f32);

impl Dataset for Faulty {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn target(&self, i: usize) -> u32 {
        self.0.target(i)
    }
    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }
    fn digest(&self, i: usize) -> Result<[u8; 32]> {
        self.0.digest(i)
    }
    fn load(&self, i: usize, view: View) -> Result<Sample> {
        let mut sample = self.0.load(i, view)?;
        let take = |left: usize| left.checked_sub(1);
        if i == 7 && self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            sample.values = Values::F32(vec![self.2; sample.shape.iter().product::<usize>() * sample.rows]);
        }
        Ok(sample)
    }
}

/// A run on points of which one is no number so often, and its last learning rate.
fn with_a_fault(times: usize, on_nan: OnNan, epochs: usize) -> (Result<Outcome>, f64) {
    let fixture = Fixture::new();
    let schedule = Schedule { warmup: 0.0, decay: Decay::Constant };
    let plan = plan(vec![Phase::Train(Train { schedule, epochs, ..train(0) })]);
    let run = fixture.run_dir("run");
    let job = fixture.job(&plan, &run, &Silent);
    let train = Arc::new(Faulty(job.train.clone(), AtomicUsize::new(times), f32::NAN));
    let outcome = execute(Job { train, on_nan, ..job });
    let text = std::fs::read_to_string(fixture.path("run/metrics.jsonl")).unwrap_or_default();
    let rate = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["learning_rate"].as_f64();
    (outcome, text.lines().filter_map(rate).next_back().unwrap_or(0.0))
}

#[test]
fn a_loss_that_is_no_number_names_the_sample_behind_it() {
    let message = with_a_fault(usize::MAX, OnNan::Stop, 4).0.unwrap_err().to_string();
    assert!(message.contains("of phase \"test\"") && message.contains("--on-nan"), "{message}");
    assert!(message.contains("what is computed of point 7 is no number"), "{message}");
}

#[test]
fn a_parameter_without_bound_is_named() {
    let fixture = Fixture::new();
    let plan = plan(vec![Phase::Train(train(0))]);
    let run = fixture.run_dir("run");
    let job = fixture.job(&plan, &run, &Silent);
    let mut params = job.params.clone();
    let name = job.network.stages[0].params()[0].name.clone();
    let shape = params.get(&name).unwrap().dims().to_vec();
    params.set(&name, Tensor::full(f32::NAN, shape, &candle_core::Device::Cpu).unwrap()).unwrap();
    let message = execute(Job { params, ..job }).unwrap_err().to_string();
    assert!(
        message.contains(&format!("the parameter {name} holds numbers without bound as the model came")),
        "{message}"
    );
}

#[test]
fn a_gradient_without_bound_is_seen_where_nothing_clips_it() {
    let fixture = Fixture::new();
    let optimizer = Rule::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let plan = plan(vec![Phase::Train(Train { optimizer, clip_norm: None, batch_size: 60, ..train(0) })]);
    let run = fixture.run_dir("run");
    let job = fixture.job(&plan, &run, &Silent);
    let mut params = job.params.clone();
    // Whatever the point, nothing of it is left; the way back multiplies it with large weights.
    for (name, number) in [("one.weight", 0.0), ("one.bias", 0.0), ("two.bias", 0.0), ("fc.weight", 1e6)] {
        let fresh: Vec<f32> = host_values(&params.get(name).unwrap()).unwrap();
        let numbers = fresh.iter().map(|value| value * number).collect();
        params
            .set(name, Tensor::from_vec(numbers, params.get(name).unwrap().shape(), &candle_core::Device::Cpu).unwrap())
            .unwrap();
    }
    let train = Arc::new(Faulty(job.train.clone(), AtomicUsize::new(usize::MAX), f32::MAX));
    let message = execute(Job { params, train, ..job }).unwrap_err().to_string();
    assert!(message.contains("the norm of the gradient is inf on the samples point"), "{message}");
}

#[test]
fn steps_without_a_number_are_left_out_while_they_are_few() {
    let (outcome, rate) = with_a_fault(3, OnNan::Skip, 4);
    let params = outcome.unwrap().params;
    assert!(params.snapshot().values().all(|v| host_values(v).unwrap().iter().all(|x| x.is_finite())));
    assert_eq!(rate, 0.02);
    // One in each epoch of eight steps.
    assert!(with_a_fault(usize::MAX, OnNan::Skip, 5).0.is_ok());
    assert!(with_a_fault(usize::MAX, OnNan::Skip, 6).0.unwrap_err().to_string().contains("point 7"));
}

#[test]
fn going_back_halves_the_rate_and_ends_where_it_does_not_help() {
    let (outcome, rate) = with_a_fault(1, OnNan::Rollback, 4);
    assert!(outcome.is_ok());
    assert_eq!(rate, 0.01);
    let message = with_a_fault(usize::MAX, OnNan::Rollback, 4).0.unwrap_err().to_string();
    assert!(message.contains("now 6.25e-4"), "{message}");
}
