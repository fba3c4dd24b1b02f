//! Plans of the strategies for a small network.

use super::*;
use crate::net::{Layer, Linear, Network, Stage};
use crate::plan::{Phase, Start};

fn stage(name: &str, inputs: usize, outputs: usize) -> Stage {
    Stage {
        name: name.into(),
        layers: vec![Layer::Linear(Linear { name: name.into(), inputs, outputs, bias: true, update: None })],
    }
}

fn network() -> Network {
    Network {
        name: "mlp".into(),
        stages: vec![stage("one", 2, 4), stage("two", 4, 4)],
        head: stage("fc", 4, 3),
        input: vec![2],
    }
}

fn settings(options: Options) -> Settings {
    let recipe = Recipe {
        epochs: 3,
        least_steps: 60,
        optimizer: Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
        learning_rate: 5e-5,
        warmup: 0.1,
        augment: false,
    };
    Settings {
        options,
        defaults: Defaults { batch_size: 16, fine_tuning: recipe.clone(), from_scratch: recipe, small: None },
    }
}

fn train(strategy: &dyn Strategy, samples: usize, options: Options) -> Train {
    match strategy
        .plan(&network(), &Facts { kind: Kind::Classes, outputs: 3, samples }, &settings(options))
        .phases
        .remove(0)
    {
        Phase::Train(train) => train,
        other => panic!("a phase of gradient descent was expected, not {other:?}"),
    }
}

#[test]
fn rates_fall_from_the_head_downward() {
    let options = Options { stage_decay: Some(0.5), head_rate: Some(3.0), ..Options::default() };
    let network = network();
    let train = train(&FineTuning, 100, options);
    let rates: Vec<(String, f64)> = train.learning(&network).into_iter().map(|(s, rate, _)| (s.name, rate)).collect();
    let expected = [
        ("one.weight", 0.25),
        ("one.bias", 0.25),
        ("two.weight", 0.5),
        ("two.bias", 0.5),
        ("fc.weight", 3.0),
        ("fc.bias", 3.0),
    ];
    assert_eq!(rates, expected.map(|(name, rate)| (name.to_string(), rate)));
}

#[test]
fn a_stage_without_parameters_does_not_count_in_the_decay() {
    let mut network = network();
    network.stages.push(Stage { name: "pool".into(), layers: vec![Layer::Act(crate::net::Act::Relu)] });
    let options = Options { stage_decay: Some(0.5), ..Options::default() };
    let plan = FineTuning.plan(&network, &Facts { kind: Kind::Classes, outputs: 3, samples: 10 }, &settings(options));
    let Phase::Train(train) = &plan.phases[0] else { panic!("a phase of gradient descent was expected") };
    let rates: Vec<(&str, f64)> = train.learn.iter().map(|r| (r.stage.as_str(), r.rate)).collect();
    assert_eq!(rates, [("one", 0.25), ("two", 0.5), ("head", 1.0)]);
}

#[test]
fn small_sets_get_more_epochs_unless_the_user_says_how_many() {
    assert_eq!(train(&FineTuning, 64, Options::default()).epochs, 15);
    assert_eq!(train(&FineTuning, 2000, Options::default()).epochs, 3);
    assert_eq!(train(&FineTuning, 64, Options { epochs: Some(2), ..Options::default() }).epochs, 2);
}

#[test]
fn a_gradient_probe_learns_the_head_behind_all_stages() {
    let options = Options { probe: Some(Probe::Gradient), ..Options::default() };
    let train = train(&FeatureExtraction, 100, options);
    assert_eq!(train.boundary, 2);
    assert_eq!(train.learning_stages(&network()).into_iter().collect::<Vec<_>>(), ["head"]);
}

#[test]
fn heads_are_solved_by_ridge_regression_where_the_user_says_so() {
    let task = Facts { kind: Kind::Classes, outputs: 3, samples: 100 };
    for (l2, options) in [(None, Options::default()), (Some(3.0), Options { l2: Some(3.0), ..Options::default() })] {
        let options = Options { probe: Some(Probe::Ridge), ..options };
        for strategy in [&FeatureExtraction as &dyn Strategy, &LpFt, &ContrastiveFewShot] {
            let plan = strategy.plan(&network(), &task, &settings(options.clone()));
            let solves: Vec<Method> = plan
                .phases
                .iter()
                .filter_map(|p| if let Phase::Solve(s) = p { Some(s.method) } else { None })
                .collect();
            assert_eq!(solves, [Method::Ridge { l2 }], "{}", strategy.name());
        }
    }
}

#[test]
fn steps_are_batches_times_epochs_and_pairs_are_two_samples_each() {
    let plain = train(&FineTuning, 100, Options { epochs: Some(3), batch_size: Some(16), ..Options::default() });
    assert_eq!(plain.steps(100), 21);
    let options = Options { pairs: Some(5), batch_size: Some(16), epochs: Some(2), ..Options::default() };
    assert_eq!(train(&ContrastiveFewShot, 40, options).steps(40), 2 * (2 * 5 * 40usize).div_ceil(8));
}

#[test]
fn training_from_scratch_starts_from_random_weights() {
    let plan = FromScratch.plan(
        &network(),
        &Facts { kind: Kind::Classes, outputs: 3, samples: 10 },
        &settings(Options::default()),
    );
    assert_eq!(plan.start, Start::Random);
}

#[test]
fn switching_the_update_rule_keeps_what_the_user_set_of_it() {
    let options = Options { optimizer: Some(OptimizerName::Sgd), momentum: Some(0.8), ..Options::default() };
    let expected = Optimizer::Sgd { momentum: 0.8, nesterov: false, weight_decay: 1e-4 };
    assert_eq!(train(&FineTuning, 10, options).optimizer, expected);
}

#[test]
fn plans_survive_being_written_and_read() {
    for strategy in all() {
        let plan = strategy.plan(
            &network(),
            &Facts { kind: Kind::Classes, outputs: 3, samples: 10 },
            &settings(Options::default()),
        );
        let text = toml::to_string(&plan).unwrap();
        assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan, "{text}");
    }
}

#[test]
fn a_plan_reads_as_what_will_happen() {
    let task = Facts { kind: Kind::Classes, outputs: 3, samples: 100 };
    let text = FeatureExtraction.plan(&network(), &task, &settings(Options::default())).to_string();
    let expected = "strategy feature-extraction, from the pre-trained weights\n\
                    phase 1: fit the head: logistic regression of the head on the pooled features, L2 1\n  \
                    computed once and kept: the whole backbone\n  \
                    loss: cross-entropy\n";
    assert_eq!(text, expected);
    let text = FineTuning.plan(&network(), &task, &settings(Options::default())).to_string();
    assert!(text.contains("9 epochs of batches of 16") && text.contains("two × 1.000, head × 1.000"), "{text}");
}

#[test]
fn flags_go_over_the_file_and_no_augment_counts() {
    let flags = Options { epochs: Some(2), no_augment: true, ..Options::default() };
    let file = Options { epochs: Some(5), l2: Some(0.1), augment: Some(true), ..Options::default() };
    let both = flags.over(&file);
    assert_eq!((both.epochs, both.l2, both.augment), (Some(2), Some(0.1), Some(false)));
}

#[test]
fn a_senseless_number_is_refused_by_the_name_of_its_flag() {
    for (options, flag) in [
        (Options { epochs: Some(0), ..Options::default() }, "--epochs 0"),
        (Options { learning_rate: Some(-1.0), ..Options::default() }, "--learning-rate -1"),
        (Options { warmup: Some(f64::NAN), ..Options::default() }, "--warmup NaN"),
    ] {
        let message = options.check().unwrap_err().to_string();
        assert!(message.contains(flag), "{message}");
    }
}

#[test]
fn an_adapter_learns_beside_the_head_in_the_stages_that_it_edits() {
    let options = Options { targets: Some(vec!["two".into()]), rank: Some(2), ..Options::default() };
    let plan = Lora.plan(&network(), &Facts { kind: Kind::Classes, outputs: 3, samples: 100 }, &settings(options));
    let edited = crate::net::adapt::apply(&network(), &plan.adapters).unwrap();
    let Phase::Train(train) = &plan.phases[0] else { panic!("a phase of gradient descent was expected") };
    assert_eq!((train.boundary, train.batch_norm), (1, BatchNormMode::Frozen));
    let names: Vec<String> = train.learning(&edited).into_iter().map(|(spec, ..)| spec.name).collect();
    assert_eq!(names, ["two.lora_A.weight", "two.lora_B.weight", "fc.weight", "fc.bias"]);
}

#[test]
fn a_small_network_learns_faster_with_all_its_weights_and_as_fast_as_others_beside_them() {
    let task = Facts { kind: Kind::Classes, outputs: 3, samples: 100 };
    let rate = |strategy: &dyn Strategy, parameters: usize, options: Options| {
        let mut settings = settings(options);
        settings.defaults.small = Some(Small { parameters, learning_rate: 0.125 });
        let plan = strategy.plan(&network(), &task, &settings);
        let last = plan.phases.into_iter().rev().find_map(|p| if let Phase::Train(t) = p { Some(t) } else { None });
        last.unwrap().learning_rate
    };
    let size = network().parameters();
    for whole in [&FineTuning as &dyn Strategy, &Partial, &GradualUnfreezing, &LpFt, &L2Sp, &FromScratch] {
        assert_eq!(rate(whole, size, Options::default()), 0.125);
        assert_eq!(rate(whole, size - 1, Options::default()), 5e-5);
    }
    assert_eq!(rate(&Lora, size, Options::default()), rate(&Lora, size - 1, Options::default()));
    let given = Options { learning_rate: Some(0.25), ..Options::default() };
    assert_eq!(rate(&FineTuning, size, given), 0.25);
}
