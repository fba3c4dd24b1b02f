//! What defines each strategy, on a network of photos and on one of texts.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use candle_core::Device;

use super::testing::{Fixture, Stopper};
use super::toys::*;
use super::*;
use crate::cache::host_values;
use crate::data::{Activation, View};
use crate::device::Place;
use crate::net::frozen::Frozen;
use crate::observe::Silent;
use crate::plan::Train;
use crate::strategy::{
    BitFit, Bss, CoTuning, ContrastiveFewShot, Delta, Distillation, FineTuning, FromScratch, GradualUnfreezing, L2Sp,
    LpFt, NormOnly, OptimizerName, Options, Partial, Prototypes, Soup, StochNorm, Strategy, WiseFt, all,
};

fn not_buffers(role: Role) -> bool {
    role != Role::Buffer
}

#[test]
fn partial_moves_the_last_stages_and_the_head_and_nothing_else() {
    for toy in both() {
        let outcome = toy.run(&Partial, Options { last_stages: Some(1), ..Options::default() });
        let stages = if toy.text() { ["layer.1", "head"] } else { ["block", "head"] };
        assert_eq!(toy.moved(&outcome), toy.names(&stages, |_| true));
        assert_eq!(toy.data.loads.load(Ordering::Relaxed), 60, "what comes out of the boundary is computed once");
    }
}

#[test]
fn more_stages_than_there_are_is_refused() {
    let toy = Toy::new(true);
    let settings = toy.settings(Options { last_stages: Some(4), ..Options::default() });
    let message = Partial.check(toy.network(), &settings).unwrap_err().to_string();
    assert!(message.contains("--last-stages 4") && message.contains("3 stages"), "{message}");
}

#[test]
fn gradual_unfreezing_computes_every_frozen_stage_once() {
    for toy in both() {
        let plan = toy.plan(&GradualUnfreezing, Options { stage_epochs: Some(2), ..Options::default() });
        let boundaries: Vec<usize> = plan.phases.iter().map(|phase| phase.boundary(9)).collect();
        assert_eq!(boundaries, if toy.text() { vec![4, 2, 1, 0] } else { vec![3, 1, 0] });
        toy.execute(&first(&plan, plan.phases.len() - 1));
        assert_eq!(toy.data.loads.load(Ordering::Relaxed), 60, "one pass serves all phases with a boundary");
        let none = Toy { fixture: Fixture { cache: Cache::none(), ..toy.fixture }, ..toy };
        none.data.loads.store(0, Ordering::Relaxed);
        none.execute(&plan);
        assert_eq!(none.data.loads.load(Ordering::Relaxed), 60 + 3 * 60, "without a disk too");
    }
}

#[test]
fn gradual_unfreezing_moves_one_stage_more_in_each_phase() {
    for toy in both() {
        let plan = toy.plan(&GradualUnfreezing, Options::default());
        let stages = toy.stages();
        for (i, phase) in plan.phases.iter().enumerate() {
            let outcome = toy.execute(&first(&plan, i + 1));
            assert_eq!(toy.moved(&outcome), toy.names(&stages[phase.boundary(0)..], |_| true), "phase {}", i + 1);
        }
    }
}

#[test]
fn lp_ft_goes_on_from_the_solved_head() {
    for toy in both() {
        let plan = toy.plan(&LpFt, Options::default());
        let solved = bits(&toy.execute(&first(&plan, 1)).params);
        // At a rate too small to change a number, the second phase ends where it starts.
        let still = bits(&toy.execute(&changed(plan.clone(), |train| train.learning_rate = 1e-30)).params);
        for name in toy.names(&toy.stages(), not_buffers) {
            assert_eq!(still[&name], solved[&name], "{name}");
        }
        assert_ne!(solved, bits(&toy.params));
        assert_eq!(toy.moved(&toy.execute(&plan)), toy.names(&toy.stages(), |_| true));
    }
}

#[test]
fn bitfit_moves_additive_terms_and_the_head() {
    for toy in both() {
        let stages = toy.stages();
        let mut expected = toy.names(&stages, |role| matches!(role, Role::Bias | Role::Shift));
        expected.extend(toy.names(&["head"], |_| true));
        let moved = toy.moved(&toy.run(&BitFit, Options::default()));
        // The same number added to all keys changes no attention weight: that gradient is 0 but for rounding.
        let idle = |name: &String| name.ends_with("key.bias");
        assert!(moved.is_subset(&expected), "{moved:?}");
        assert!(expected.difference(&moved).all(idle), "{:?}", expected.difference(&moved));
    }
}

#[test]
fn norm_only_moves_normalizations_and_the_head() {
    for toy in both() {
        let stages = toy.stages();
        let mut expected = toy.names(&stages, |role| matches!(role, Role::Scale | Role::Shift | Role::Buffer));
        expected.extend(toy.names(&["head"], |_| true));
        assert_eq!(toy.moved(&toy.run(&NormOnly, Options::default())), expected);
    }
}

/// Pooled features of all samples of `data`.
pub(super) fn features(toy: &Toy, data: &dyn Dataset) -> Vec<Vec<f32>> {
    let stages: Vec<&Stage> = toy.network().stages.iter().collect();
    let frozen = Frozen::compile(&stages, &toy.params, &Place::default()).unwrap();
    let sample = |i| Activation::collate(&[data.load(i, View::Plain).unwrap()], &Device::Cpu).unwrap();
    (0..data.len()).map(|i| host_values(&frozen.run(&sample(i)).unwrap().data).unwrap()).collect()
}

#[test]
fn prototypes_answer_with_the_nearest_class_mean() {
    for toy in both() {
        let outcome = toy.run(&Prototypes, Options::default());
        assert_eq!(toy.moved(&outcome), toy.names(&["head"], |_| true));
        let rows = features(&toy, &*toy.data);
        let mean = |class: usize| -> Vec<f64> {
            let own: Vec<&Vec<f32>> = rows.iter().skip(class).step_by(3).collect();
            (0..8).map(|j| own.iter().map(|row| f64::from(row[j])).sum::<f64>() / own.len() as f64).collect()
        };
        let means: Vec<Vec<f64>> = (0..3).map(mean).collect();
        let validation = &toy.fixture.validation;
        let judged = features(&toy, &**validation);
        let right = judged.iter().enumerate().filter(|(i, row)| {
            let distance =
                |c: &usize| -> f64 { row.iter().zip(&means[*c]).map(|(&x, m)| (f64::from(x) - m).powi(2)).sum() };
            let nearest = (0..3).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            nearest as u32 == validation.target(*i)
        });
        assert_eq!(outcome.metrics.score(), right.count() as f64 / 30.0);
    }
}

#[test]
fn wise_ft_meets_its_ends_and_the_middle() {
    for toy in both() {
        let whole = toy.plan(&LpFt, Options::default());
        let (start, end) = (toy.execute(&first(&whole, 1)).params, toy.execute(&whole).params);
        let at = |alpha| toy.run(&WiseFt, Options { alpha: Some(alpha), ..Options::default() }).params;
        assert_eq!(bits(&at(0.0)), bits(&start));
        assert_eq!(bits(&at(1.0)), bits(&end));
        let middle = at(0.25).snapshot();
        let (start, end) = (start.snapshot(), end.snapshot());
        for (name, value) in middle {
            let [a, b, found] = [&start[&name], &end[&name], &value].map(|v| host_values(v).unwrap());
            for ((a, b), found) in a.iter().zip(&b).zip(found) {
                assert!((0.75 * a + 0.25 * b - found).abs() < 1e-6, "{name}");
            }
        }
    }
}

fn with_runs(toy: &mut Toy, runs: Vec<(&str, Params)>) -> Vec<String> {
    let names = runs.iter().map(|(name, _)| name.to_string()).collect();
    toy.companions.runs = runs.into_iter().map(|(name, params)| (name.to_string(), params)).collect();
    names
}

#[test]
fn a_soup_of_one_run_is_that_run_and_of_two_their_mean() {
    use crate::plan::Choice::{Greedy, Uniform};
    for mut toy in both() {
        let runs = [1, 2].map(|seed| random_params(toy.network(), Seed(seed)));
        let names = with_runs(&mut toy, vec![("a", runs[0].clone()), ("b", runs[1].clone())]);
        for soup in [Uniform, Greedy] {
            let one = Options { runs: Some(vec!["a".into()]), soup: Some(soup), ..Options::default() };
            assert_eq!(bits(&toy.run(&Soup, one).params), bits(&runs[0]));
        }
        let both = Options { runs: Some(names), soup: Some(Uniform), ..Options::default() };
        let found = toy.run(&Soup, both).params.snapshot();
        let [a, b] = runs.map(|params| params.snapshot());
        for (name, value) in found {
            let expected = host_values(&((&a[&name] + &b[&name]).unwrap() / 2.0).unwrap()).unwrap();
            assert_eq!(host_values(&value).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn a_greedy_soup_leaves_out_what_lowers_the_score() {
    for mut toy in both() {
        let good = toy.run(&FineTuning, Options { epochs: Some(10), ..Options::default() });
        assert!(good.metrics.score() > 0.7, "{}", good.metrics.score());
        let bad = random_params(toy.network(), Seed(9));
        let opposite = bad.snapshot().into_iter().map(|(name, value)| {
            let value = if name.contains("running") { value } else { (value * -20.0).unwrap() };
            (name, value)
        });
        let names = with_runs(&mut toy, vec![("good", good.params.clone()), ("bad", Params::new(opposite.collect()))]);
        let outcome = toy.run(&Soup, Options { runs: Some(names), ..Options::default() });
        assert_eq!(bits(&outcome.params), bits(&good.params));
    }
}

#[test]
fn a_soup_without_runs_says_what_is_missing() {
    let toy = Toy::new(true);
    let message = Soup.check(toy.network(), &toy.settings(Options::default())).unwrap_err().to_string();
    assert!(message.contains("--runs"), "{message}");
}

/// Every strategy that suits `toy`, as a plan that needs all kinds of state.
fn plans(toy: &mut Toy) -> Vec<Plan> {
    let runs = with_runs(toy, vec![("a", random_params(toy.network(), Seed(1)))]);
    let network = teacher_network(toy.text());
    let params = random_params(&network, Seed(4));
    let teacher = toy.teacher(network, params);
    toy.source_head(5);
    let options = Options {
        runs: Some(runs),
        patience: Some(3),
        label_smoothing: Some(0.1),
        teacher: Some(teacher),
        teacher_features: Some(0.5),
        pairs: Some(2),
        ..Options::default()
    };
    let suits = |s: &&&dyn Strategy| s.check(toy.network(), &toy.settings(options.clone())).is_ok();
    all().iter().filter(suits).map(|&s| toy.plan(s, options.clone())).collect()
}

#[test]
fn with_weight_zero_every_penalty_is_plain_fine_tuning() {
    for mut toy in both() {
        let network = teacher_network(toy.text());
        let params = random_params(&network, Seed(4));
        let teacher = toy.teacher(network, params);
        toy.source_head(5);
        let options =
            Options { penalty: Some(0.0), teacher: Some(teacher), teacher_share: Some(0.0), ..Options::default() };
        let plain = bits(&toy.run(&FineTuning, options.clone()).params);
        for strategy in [&L2Sp as &dyn Strategy, &Delta, &Bss, &CoTuning, &Distillation] {
            assert_eq!(bits(&toy.run(strategy, options.clone()).params), plain, "{}", strategy.name());
            let some = Options { penalty: Some(3.0), teacher_share: Some(0.5), ..options.clone() };
            assert_ne!(bits(&toy.run(strategy, some).params), plain, "{}", strategy.name());
        }
    }
}

#[test]
fn l2_sp_at_a_huge_weight_stays_at_the_start_whatever_the_update_rule() {
    for toy in both() {
        for optimizer in [OptimizerName::AdamW, OptimizerName::Sgd] {
            let options = Options { penalty: Some(1e12), optimizer: Some(optimizer), ..Options::default() };
            let moved = toy.moved(&toy.run(&L2Sp, options));
            let mut expected = toy.names(&toy.stages(), |role| role == Role::Buffer);
            expected.extend(toy.names(&["head"], |_| true));
            assert_eq!(moved, expected, "{optimizer:?}");
        }
    }
}

/// The Euclidean distance of the backbone's parameters from the start.
fn distance(toy: &Toy, outcome: &Outcome) -> f64 {
    let names = toy.names(&toy.stages(), not_buffers);
    let apart = |name: &String| {
        let [a, b] = [&toy.params, &outcome.params].map(|p| host_values(&p.get(name).unwrap()).unwrap());
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let head = toy.names(&["head"], |_| true);
    names.difference(&head).map(apart).sum::<f64>().sqrt()
}

#[test]
fn l2_sp_keeps_nearer_to_the_start_the_heavier_it_is() {
    for toy in both() {
        let at = |weight| distance(&toy, &toy.run(&L2Sp, Options { penalty: Some(weight), ..Options::default() }));
        let (light, medium, heavy) = (at(0.1), at(10.0), at(1000.0));
        assert!(heavy < 0.2 * medium && medium < light, "{light} {medium} {heavy}");
    }
}

/// How far the outputs of the stages are from those at the start, over the training samples.
fn drift(toy: &Toy, outcome: &Outcome) -> f64 {
    let before = features(toy, &*toy.data);
    let after = Toy { params: outcome.params.clone(), ..Toy::new(toy.text()) };
    let after = features(&after, &*toy.data);
    before.iter().flatten().zip(after.iter().flatten()).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn delta_keeps_the_features_near_those_at_the_start() {
    for toy in both() {
        // With running statistics, the features of training are those that are measured.
        let options = Options {
            batch_norm: Some(crate::plan::BatchNormMode::Frozen),
            learning_rate: Some(1e-3),
            epochs: Some(5),
            ..Options::default()
        };
        let at = |weight| drift(&toy, &toy.run(&Delta, Options { penalty: Some(weight), ..options.clone() }));
        let (light, heavy) = (at(1e-4), at(100.0));
        assert!(heavy < 0.3 * light, "{light} {heavy}");
    }
}

#[test]
fn delta_compares_the_last_stages_with_channels_weighted_by_what_they_are_worth() {
    let mut toy = Toy::new(false);
    // A channel of the last convolution that the head cannot miss, because nothing comes out of it.
    let mut values = toy.params.snapshot();
    for name in ["block.bn.weight", "block.bn.bias"] {
        let mut dead = host_values(&values[name]).unwrap();
        dead[3] = if name.ends_with("bias") { -100.0 } else { 0.0 };
        values.insert(name.into(), Tensor::from_vec(dead, 8, &Device::Cpu).unwrap());
    }
    toy.params = Params::new(values);
    let plan = toy.plan(&Delta, Options { compared_stages: Some(1), ..Options::default() });
    let run = toy.fixture.run_dir("run");
    let job = toy.job(&plan, &run, &Silent);
    let mut attentive = run_of(&job);
    let attention = attentive.channel_attention(&[1]).unwrap().remove(0);
    assert!((attention.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let above = attention.iter().filter(|&&a| a > attention[3]).count();
    assert!(above >= 5, "{attention:?}");
}

/// A run of a job that has not begun.
fn run_of<'a>(job: &'a Job<'a>) -> Run<'a> {
    Run::new(job, &job.params, "")
}

#[test]
fn views_have_the_sizes_of_the_plan_each_for_its_part_of_the_epochs() {
    let toy = Toy::new(false);
    let scales = Some(vec![0.5, 0.75, 1.0]);
    toy.run(&FromScratch, Options { view_scales: scales, epochs: Some(6), ..Options::default() });
    let sides = toy.data.sides.lock().unwrap().clone();
    let by_epoch: Vec<BTreeSet<usize>> = sides.chunks(60).map(|epoch| epoch.iter().copied().collect()).collect();
    assert_eq!(by_epoch, [2, 2, 3, 3, 4, 4].map(|side| BTreeSet::from([side])));
}

#[test]
fn sizes_of_views_are_refused_where_there_is_one_size() {
    let scales = || Options { view_scales: Some(vec![0.5, 1.0]), last_stages: Some(1), ..Options::default() };
    let refused = |toy: &Toy, strategy: &dyn Strategy| {
        let plan = toy.plan(strategy, scales());
        let run = toy.fixture.run_dir("refused");
        execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string()
    };
    let message = refused(&Toy::new(true), &FromScratch);
    assert!(message.contains("--view-scales") && message.contains("one size"), "{message}");
    let message = refused(&Toy::new(false), &Partial);
    assert!(message.contains("--view-scales") && message.contains("frozen stages"), "{message}");
}

#[test]
fn mixing_is_refused_where_single_samples_are_spoken_of() {
    let mix = Options { mixup: Some(0.2), ..Options::default() };
    let refused = |toy: &Toy, strategy: &dyn Strategy, options: Options| {
        let plan = toy.plan(strategy, options);
        let run = toy.fixture.run_dir("refused");
        execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string()
    };
    let message = refused(&Toy::new(false), &ContrastiveFewShot, mix.clone());
    assert!(message.contains("--mixup 0.2") && message.contains("pairs of samples"), "{message}");
    let mut toy = Toy::new(false);
    let teacher = Some(toy.teacher(teacher_network(false), random_params(&teacher_network(false), Seed(4))));
    let message = refused(&toy, &Distillation, Options { teacher, ..mix.clone() });
    assert!(message.contains("a teacher"), "{message}");
    let message = refused(&Toy::new(true), &FromScratch, mix);
    assert!(message.contains("--mixup") && message.contains("one length"), "{message}");
}

#[test]
fn a_pretraining_that_is_stopped_and_goes_on_ends_in_the_same_bytes() {
    let toy = Toy::new(false);
    let options = Options {
        epochs: Some(6),
        mixup: Some(0.4),
        cutmix: Some(1.0),
        mix_share: Some(0.7),
        sampler: Some(crate::plan::Sampler::Balanced),
        view_scales: Some(vec![0.5, 1.0]),
        schedule: Some(crate::plan::Decay::OneCycle),
        average: Some(0.9),
        nesterov: Some(true),
        optimizer: Some(OptimizerName::Sgd),
        ..Options::default()
    };
    let plan = toy.plan(&FromScratch, options);
    let whole = toy.execute(&plan);
    for stop in [5, 14, 23] {
        let name = format!("stopped{stop}");
        let run = toy.fixture.run_dir(&name);
        execute(toy.job(&plan, &run, &Stopper::after(stop))).unwrap_err();
        drop(run);
        let run = RunDir::resume(&toy.fixture.path(&name)).unwrap();
        let resumed = execute(Job { resume: true, threads: 1, ..toy.job(&plan, &run, &Silent) }).unwrap();
        assert_eq!(bits(&resumed.params), bits(&whole.params), "stopped after {stop}");
    }
}

#[test]
fn mixed_samples_teach_their_classes() {
    for mix in [Options { mixup: Some(0.4), ..Options::default() }, Options { cutmix: Some(1.0), ..Options::default() }]
    {
        let outcome = Toy::new(false).run(&FromScratch, Options { epochs: Some(40), ..mix.clone() });
        assert!(outcome.metrics.score() > 0.8, "{mix:?}: {:?}", outcome.metrics);
    }
}

#[test]
fn a_model_that_teaches_itself_does_not_move() {
    for text in [false, true] {
        let mut toy = Toy::new(text);
        toy.fixture.network = without_dropout(toy.fixture.network);
        let teacher = toy.teacher(toy.network().clone(), toy.params.clone());
        let options = Options {
            teacher: Some(teacher),
            batch_norm: Some(crate::plan::BatchNormMode::Frozen),
            optimizer: Some(OptimizerName::Sgd),
            weight_decay: Some(0.0),
            learning_rate: Some(1e-3),
            clip_norm: Some(0.0),
            ..Options::default()
        };
        let moved = |share| {
            let options = Options { teacher_share: Some(share), teacher_features: Some(share), ..options.clone() };
            distance(&toy, &toy.run(&Distillation, options))
        };
        let (alone, with_labels) = (moved(1.0), moved(0.5));
        assert!(alone < 1e-4 * with_labels, "{alone} against {with_labels}");
    }
}

#[test]
fn a_student_comes_nearer_to_its_teachers_answers() {
    for text in [false, true] {
        let mut toy = Toy::new(text);
        let network = teacher_network(text);
        let params = random_params(&network, Seed(4));
        let teacher = toy.teacher(network.clone(), params.clone());
        let stages: Vec<&Stage> = network.stages.iter().chain([&network.head]).collect();
        let frozen = Frozen::compile(&stages, &params, &Place::default()).unwrap();
        let answers = |model: &Frozen| -> Vec<f32> {
            let sample = |i| Activation::collate(&[toy.data.load(i, View::Plain).unwrap()], &Device::Cpu).unwrap();
            let softmax = |logits: &Tensor| terms::log_softmax(logits).unwrap().exp().unwrap();
            (0..60).flat_map(|i| host_values(&softmax(&model.run(&sample(i)).unwrap().data)).unwrap()).collect()
        };
        let apart = |outcome: &Outcome| -> f32 {
            let own: Vec<&Stage> = toy.network().stages.iter().chain([&toy.network().head]).collect();
            let student = answers(&Frozen::compile(&own, &outcome.params, &Place::default()).unwrap());
            student.iter().zip(answers(&frozen)).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let at = |share| {
            let options = Options { teacher: Some(teacher.clone()), teacher_share: Some(share), ..Options::default() };
            apart(&toy.run(&Distillation, options))
        };
        let (taught, labelled) = (at(1.0), at(0.0));
        assert!(taught < 0.5 * labelled, "{taught} against {labelled}");
    }
}

#[test]
fn distillation_without_a_teacher_says_what_is_missing() {
    let toy = Toy::new(true);
    let message = Distillation.check(toy.network(), &toy.settings(Options::default())).unwrap_err().to_string();
    assert!(message.contains("--teacher"), "{message}");
}

/// Mean cosine within classes less that between them, over pairs of training samples.
fn margin(rows: &[Vec<f32>]) -> f64 {
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let (mut within, mut between) = ((0.0, 0), (0.0, 0));
    for i in 0..rows.len() {
        for j in 0..i {
            let to = if i % 3 == j % 3 { &mut within } else { &mut between };
            to.0 += cosine(&rows[i], &rows[j]);
            to.1 += 1;
        }
    }
    within.0 / f64::from(within.1) - between.0 / f64::from(between.1)
}

#[test]
fn contrastive_training_pulls_classes_together_and_others_apart() {
    for toy in both() {
        let options = Options { epochs: Some(3), pairs: Some(5), ..Options::default() };
        let outcome = toy.run(&ContrastiveFewShot, options);
        let losses: Vec<f64> = outcome.history.iter().filter_map(|record| record.train_loss).collect();
        assert!(losses.len() == 3 && losses[2] < 0.8 * losses[0], "{losses:?}");
        assert!(outcome.history[..3].iter().all(|record| record.validation.is_none()));
        let after = Toy { params: outcome.params.clone(), ..Toy::new(toy.text()) };
        let (before, after) = (margin(&features(&toy, &*toy.data)), margin(&features(&after, &*toy.data)));
        assert!(after > before + 0.3, "{before} to {after}");
        assert_eq!(toy.moved(&outcome), toy.names(&toy.stages(), |_| true));
    }
}

#[test]
fn pairs_alone_make_no_model() {
    let toy = Toy::new(false);
    let plan = first(&toy.plan(&ContrastiveFewShot, Options::default()), 1);
    let run = toy.fixture.run_dir("run");
    let message = execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string();
    assert!(message.contains("bring pairs together"), "{message}");
}

#[test]
fn stoch_norm_with_one_branch_is_that_branch() {
    let toy = Toy::new(false);
    let batch = bits(&toy.run(&FineTuning, Options::default()).params);
    let at = |share| bits(&toy.run(&StochNorm, Options { running_share: Some(share), ..Options::default() }).params);
    assert_eq!(at(0.0), batch);
    let (running, mixed) = (at(1.0), at(0.5));
    assert!(running != mixed && mixed != batch);
    // The first step normalizes by the running statistics of the start, as frozen ones do; then they move on.
    let one = |norm: crate::plan::BatchNormMode| {
        let plan = changed(toy.plan(&FineTuning, Options::default()), |train| {
            (train.epochs, train.batch_size, train.batch_norm) = (1, 60, norm);
        });
        toy.execute(&plan)
    };
    let (running, frozen) =
        (one(crate::plan::BatchNormMode::Stochastic { running: 1.0 }), one(crate::plan::BatchNormMode::Frozen));
    for name in toy.names(&toy.stages(), not_buffers) {
        assert_eq!(bits(&running.params)[&name], bits(&frozen.params)[&name], "{name}");
    }
    assert!(toy.moved(&running).contains("stem.bn.running_mean"));
    assert!(!toy.moved(&frozen).contains("stem.bn.running_mean"));
}

#[test]
fn stoch_norm_is_refused_where_there_is_nothing_to_normalize_by_batch() {
    let toy = Toy::new(true);
    let message = StochNorm.check(toy.network(), &toy.settings(Options::default())).unwrap_err().to_string();
    assert!(message.contains("no batch normalization"), "{message}");
}

#[test]
fn co_tuning_without_a_source_head_is_an_error() {
    let toy = Toy::new(true);
    let plan = toy.plan(&CoTuning, Options::default());
    let run = toy.fixture.run_dir("run");
    let message = execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string();
    assert!(message.contains("no head of its own"), "{message}");
}

#[test]
fn co_tuning_relates_every_class_to_source_labels() {
    for mut toy in both() {
        toy.source_head(5);
        let plan = toy.plan(&CoTuning, Options::default());
        let run = toy.fixture.run_dir("run");
        let job = toy.job(&plan, &run, &Silent);
        let relations = run_of(&job).relations().unwrap();
        assert_eq!(relations.dims(), [3, 5]);
        let rows = host_values(&relations).unwrap();
        for row in rows.chunks(5) {
            assert!((row.iter().map(|ln| f64::from(*ln).exp()).sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
        }
        assert_ne!(rows[..5], rows[5..10]);
    }
}

#[test]
fn every_strategy_resumes_to_the_same_bytes() {
    for text in [false, true] {
        let mut toy = Toy::new(text);
        for plan in plans(&mut toy) {
            let whole = toy.execute(&plan);
            for stop in [5, 21, 33] {
                let name = format!("stopped-{}-{stop}", plan.strategy);
                let run = toy.fixture.run_dir(&name);
                // Short plans end before.
                if execute(toy.job(&plan, &run, &Stopper::after(stop))).is_ok() {
                    continue;
                }
                drop(run);
                let run = RunDir::resume(&toy.fixture.path(&name)).unwrap();
                let resumed = execute(Job { resume: true, ..toy.job(&plan, &run, &Silent) }).unwrap();
                assert_eq!(bits(&resumed.params), bits(&whole.params), "{} stopped after {stop}", plan.strategy);
                assert_eq!(resumed.history, whole.history, "{} stopped after {stop}", plan.strategy);
            }
        }
    }
}

#[test]
fn what_is_saved_are_the_parameters_of_the_network_alone() {
    for text in [false, true] {
        let mut toy = Toy::new(text);
        let expected: BTreeSet<String> = toy.network().params().into_iter().map(|spec| spec.name).collect();
        for plan in plans(&mut toy) {
            let found: BTreeSet<String> = toy.execute(&plan).params.snapshot().into_keys().collect();
            assert_eq!(found, expected, "{}", plan.strategy);
        }
    }
}

#[test]
fn an_earlier_phase_that_is_not_complete_is_refused() {
    let toy = Toy::new(false);
    let mut plan = toy.plan(&WiseFt, Options::default());
    plan.phases.rotate_right(1);
    let run = toy.fixture.run_dir("run");
    let message = execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string();
    assert!(message.contains("mix with the start"), "{message}");
}

#[test]
fn strategies_combine_with_views_schedules_and_class_weights() {
    use crate::plan::{ClassWeights, Decay};
    let options = Options {
        augment: Some(true),
        views: Some(2),
        schedule: Some(Decay::Constant),
        class_weights: Some(ClassWeights::Balanced),
        ..Options::default()
    };
    let mut toy = Toy::new(false);
    toy.source_head(5);
    let teacher = toy.teacher(teacher_network(false), random_params(&teacher_network(false), Seed(4)));
    let options = Options { teacher: Some(teacher), ..options };
    let suited: [&dyn Strategy; 8] =
        [&Partial, &GradualUnfreezing, &LpFt, &BitFit, &Delta, &CoTuning, &Distillation, &ContrastiveFewShot];
    for strategy in suited {
        let plan = toy.plan(strategy, options.clone());
        let sets = |train: &Train| {
            train.augment
                && train.schedule.decay == Decay::Constant
                && train.objective.class_weights == ClassWeights::Balanced
        };
        let trains: Vec<&Train> =
            plan.phases.iter().filter_map(|p| if let Phase::Train(train) = p { Some(train) } else { None }).collect();
        assert!(trains.into_iter().all(sets), "{plan}");
        assert!(toy.execute(&plan).metrics.score() > 0.3);
    }
}

#[test]
fn a_step_in_parts_is_the_same_step() {
    use crate::plan::{BatchNormMode, ClassWeights};
    use crate::strategy::{Lora, OptimizerName};
    for text in [false, true] {
        let mut toy = Toy::new(text);
        toy.fixture.network = without_dropout(toy.fixture.network);
        toy.source_head(5);
        let teacher = toy.teacher(teacher_network(text), random_params(&teacher_network(text), Seed(4)));
        let options = Options {
            // Update rules that divide by the gradient's size make much of the last bits of those near zero.
            optimizer: Some(OptimizerName::Sgd),
            batch_norm: Some(BatchNormMode::Frozen),
            class_weights: Some(ClassWeights::Balanced),
            label_smoothing: Some(0.1),
            learning_rate: Some(0.05),
            epochs: Some(2),
            teacher: Some(teacher),
            teacher_features: Some(0.5),
            ..Options::default()
        };
        let strategies: [&dyn Strategy; 5] = [&FineTuning, &Lora, &L2Sp, &CoTuning, &Distillation];
        for strategy in strategies {
            let whole = toy.run(strategy, options.clone());
            let parts = toy.run(strategy, Options { accumulate: Some(3), ..options.clone() });
            let start = toy.run(strategy, Options { learning_rate: Some(1e-12), ..options.clone() });
            let (mut most, mut moved) = (0f32, 0f32);
            for (name, value) in whole.params.snapshot() {
                let far = |other: &Params| {
                    let other = other.get(&name).unwrap().detach();
                    (&value - other).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
                };
                (most, moved) = (most.max(far(&parts.params)), moved.max(far(&start.params)));
            }
            assert!(most < 2e-6 && moved > 1e-3, "{text} {}: {most:e} of {moved:e}", strategy.name());
        }
    }
}

#[test]
fn what_compares_samples_of_a_batch_has_no_parts() {
    let toy = Toy::new(false);
    for strategy in [&Bss as &dyn Strategy, &ContrastiveFewShot] {
        let plan = toy.plan(strategy, Options { accumulate: Some(2), ..Options::default() });
        let run = toy.fixture.run_dir(strategy.name());
        let message = execute(toy.job(&plan, &run, &Silent)).unwrap_err().to_string();
        assert!(message.contains("--accumulate 2") && message.contains("--batch-size"), "{message}");
    }
}
