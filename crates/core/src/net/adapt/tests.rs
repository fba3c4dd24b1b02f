//! Adapters in a small encoder and a small convolutional network: what they change, what they leave, and that the three
//! ways to compute agree.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::*;
use crate::data::{Activation, Rows};
use crate::device::Place;
use crate::net::forward::Mode;
use crate::net::frozen::Frozen;
use crate::net::{
    Asks, Attention, BatchNorm, Conv, Embed, Index, LayerNorm, Params, PoolRows, Role, Stage, Table, Window,
};
use crate::plan::BatchNormMode;
use crate::seed::Seed;
use crate::testing::{centred, parameter, relative_error};
use crate::train::gradient::{Gradient, Objective};

fn linear(name: &str, inputs: usize, outputs: usize) -> Linear {
    Linear { name: name.into(), inputs, outputs, bias: true, update: None }
}

fn encoder() -> Network {
    pooled(PoolRows::Mean, Asks::Every)
}

/// Two layers, the last of which asks as told, and the row that they end in.
fn pooled(pool: PoolRows, asks: Asks) -> Network {
    let norm = |name: String| Layer::LayerNorm(LayerNorm { name, width: 8, eps: 1e-5 });
    let layer = |i: usize, asks: Asks| {
        let part = |name: &str| format!("layer.{i}.{name}");
        let square = |name: &str| linear(&part(name), 8, 8);
        let attention = Attention {
            query: square("attention.self.query"),
            key: square("attention.self.key"),
            value: square("attention.self.value"),
            output: square("attention.output.dense"),
            heads: 2,
            dropout: 0.2,
            prefix: None,
            asks,
            window: None,
            distances: None,
        };
        let mixing = Residual {
            body: vec![Layer::Attention(attention), Layer::Dropout(0.1)],
            shortcut: match asks {
                Asks::Every => vec![],
                Asks::First => vec![Layer::PoolRows(PoolRows::First)],
            },
            then: vec![norm(part("attention.output.LayerNorm"))],
        };
        let feed_forward = Residual {
            body: vec![
                Layer::Linear(linear(&part("intermediate.dense"), 8, 16)),
                Layer::Act(Act::Gelu),
                Layer::Linear(linear(&part("output.dense"), 16, 8)),
            ],
            shortcut: vec![],
            then: vec![norm(part("output.LayerNorm"))],
        };
        Stage { name: format!("layer.{i}"), layers: vec![Layer::Residual(mixing), Layer::Residual(feed_forward)] }
    };
    let tables = vec![Table { name: "embeddings.word".into(), rows: 11, index: Index::Column(0) }];
    let embeddings = Stage {
        name: "embeddings".into(),
        layers: vec![Layer::Embed(Embed { tables, width: 8, window: None }), norm("norm".into())],
    };
    let pooling = if asks == Asks::Every { vec![Layer::PoolRows(pool)] } else { vec![] };
    let pooler = Stage { name: "pooler".into(), layers: pooling };
    let head = Stage { name: "head".into(), layers: vec![Layer::Linear(linear("classifier", 8, 3))] };
    let stages = vec![embeddings, layer(0, Asks::Every), layer(1, asks), pooler];
    Network { name: "encoder".into(), stages, head, input: vec![1] }
}

fn convolutional() -> Network {
    let conv = |name: &str, inputs, outputs, kernel, stride, groups| {
        let window = Window::square(kernel, stride);
        Layer::Conv(Conv { name: name.into(), inputs, outputs, window, groups, bias: name == "stem", update: None })
    };
    let norm = |name: &str, width| Layer::BatchNorm(BatchNorm { name: name.into(), width, eps: 1e-5, momentum: 0.1 });
    let relu = || Layer::Act(Act::Relu);
    let plain = Residual {
        body: vec![
            conv("layer1.0.conv1", 8, 8, 3, 1, 1),
            norm("layer1.0.bn1", 8),
            relu(),
            conv("layer1.0.conv2", 8, 8, 3, 1, 1),
            norm("layer1.0.bn2", 8),
        ],
        shortcut: vec![],
        then: vec![relu()],
    };
    let inverted = Residual {
        body: vec![
            conv("layer1.1.conv_pw", 8, 16, 1, 1, 1),
            norm("layer1.1.bn1", 16),
            Layer::Act(Act::Relu6),
            conv("layer1.1.conv_dw", 16, 16, 3, 2, 16),
            norm("layer1.1.bn2", 16),
            Layer::Act(Act::Relu6),
            conv("layer1.1.conv_pwl", 16, 12, 1, 1, 1),
            norm("layer1.1.bn3", 12),
        ],
        shortcut: vec![conv("layer1.1.downsample", 8, 12, 1, 2, 1)],
        then: vec![],
    };
    let stages = vec![
        Stage { name: "stem".into(), layers: vec![conv("stem", 3, 8, 3, 2, 1), relu()] },
        Stage { name: "layer1".into(), layers: vec![Layer::Residual(plain), Layer::Residual(inverted)] },
        Stage { name: "pool".into(), layers: vec![Layer::AdaptiveAvgPool([1, 1]), Layer::Flatten] },
    ];
    let head = Stage { name: "head".into(), layers: vec![Layer::Linear(linear("fc", 12, 3))] };
    Network { name: "convolutional".into(), stages, head, input: vec![8, 8, 3] }
}

fn lora(network: &Network, dropout: f32) -> Adapter {
    let sites = network.sites().into_iter().filter(|site| !site.grouped);
    Adapter::Lora { rank: 3, alpha: 6.0, dropout, layers: sites.map(|site| site.name).collect() }
}

fn ia3(network: &Network) -> Adapter {
    let (inputs, outputs): (Vec<Site>, Vec<Site>) = network.sites().into_iter().partition(|site| site.activated);
    let names = |sites: Vec<Site>| sites.into_iter().map(|site| site.name).collect();
    Adapter::Ia3 { outputs: names(outputs), inputs: names(inputs) }
}

fn bottleneck_everywhere(network: &Network, placement: Placement) -> Adapter {
    Adapter::Bottleneck { width: 4, placement, blocks: network.blocks() }
}

fn prefix(network: &Network) -> Adapter {
    Adapter::Prefix { length: 3, attentions: network.attentions() }
}

/// The networks with each adapter that they take.
fn cases(dropout: f32) -> Vec<(Network, Adapter)> {
    let mut cases = Vec::new();
    let encoders = [encoder(), pooled(PoolRows::First, Asks::First)];
    for network in encoders.iter().cloned().chain([convolutional()]) {
        let bottlenecks = [Placement::Sequential, Placement::Parallel].map(|p| bottleneck_everywhere(&network, p));
        for adapter in [lora(&network, dropout), ia3(&network)].into_iter().chain(bottlenecks) {
            cases.push((network.clone(), adapter));
        }
    }
    cases.extend(encoders.map(|network| (network.clone(), prefix(&network))));
    cases
}

/// Values by a formula; those of adapters as they start, or, `moved`, as training might leave them.
fn params(network: &Network, moved: bool) -> Params {
    let values = network.params().into_iter().map(|spec| {
        let value = if spec.role != Role::Adapter {
            Tensor::from_vec(parameter(&spec.name, &spec.shape, 1.4), spec.shape.as_slice(), &Device::Cpu).unwrap()
        } else {
            let start = spec.initial(Seed(3), &Device::Cpu).unwrap();
            let mut draw = Seed(4).named(&spec.name).stream();
            let numbers: Vec<f32> = (0..spec.len()).map(|_| draw.range(-0.3, 0.3) as f32).collect();
            let by = Tensor::from_vec(numbers, spec.shape.as_slice(), &Device::Cpu).unwrap();
            if moved { (start + by).unwrap() } else { start }
        };
        (spec.name, value)
    });
    Params::new(values.collect())
}

fn input(network: &Network) -> Activation {
    let device = &Device::Cpu;
    if network.name == "encoder" {
        let words: Vec<u32> = (0..12).map(|i| (i * 7 + 3) % 11).collect();
        return Activation {
            data: Tensor::from_vec(words, (12, 1), device).unwrap(),
            rows: Rows::Each(Arc::new(vec![5, 1, 4, 2])),
        };
    }
    let mut draw = Seed(9).stream();
    let pixels: Vec<f32> = (0..4 * 8 * 8 * 3).map(|_| draw.range(-1.0, 1.0) as f32).collect();
    Activation { data: Tensor::from_vec(pixels, (4, 8, 8, 3), device).unwrap(), rows: Rows::One }
}

fn logits(network: &Network, params: &Params) -> Vec<f32> {
    let stages: Vec<&Stage> = network.stages.iter().chain([&network.head]).collect();
    let frozen = Frozen::compile(&stages, params, &Place::default()).unwrap();
    frozen.run(&input(network)).unwrap().data.flatten_all().unwrap().to_vec1().unwrap()
}

fn unmerged(network: &Network, params: &Params) -> Vec<f32> {
    let pass = crate::net::forward::Pass::new(params, Mode::Eval);
    let stages = network.stages.iter().chain([&network.head]);
    let out = stages.fold(input(network), |x, stage| pass.stage(stage, x, false).unwrap());
    out.data.flatten_all().unwrap().to_vec1().unwrap()
}

/// Parameters of adapters and the head.
fn learning(network: &Network) -> BTreeSet<String> {
    let of_head = network.head.params().into_iter();
    let added = network.params().into_iter().filter(|spec| spec.role == Role::Adapter);
    added.chain(of_head).map(|spec| spec.name).collect()
}

/// Gradients of what learns, by the tape or by autograd.
fn gradient(network: &Network, params: &mut Params, mode: Mode, by_tape: bool, recompute: bool) -> Gradient {
    params.set_learning(&learning(network)).unwrap();
    let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
    let objective = Objective { recompute, ..Objective::of_classes(stages) };
    let (input, targets) = (input(network), [0, 1, 2, 1]);
    if by_tape {
        objective.gradient(params, mode, &input, &targets).unwrap()
    } else {
        objective.with_autograd(params, mode, &input, &targets).unwrap()
    }
}

const TRAIN: Mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(5) };

#[test]
fn at_the_start_lora_and_ia3_change_nothing_and_bottlenecks_little() {
    for (network, adapter) in cases(0.0) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        let (base, start) = (params(&network, false), params(&edited, false));
        let (before, after) = (logits(&network, &base), logits(&edited, &start));
        match adapter {
            Adapter::Lora { .. } | Adapter::Ia3 { .. } => {
                assert_eq!(before, after, "{adapter}");
                assert_eq!(unmerged(&network, &base), unmerged(&edited, &start), "{adapter}");
            }
            Adapter::Bottleneck { .. } => {
                let error = relative_error(&after, &before);
                assert!(error > 0.0 && error < 0.02, "{adapter}: {error}");
            }
            Adapter::Prefix { .. } => assert_ne!(before, after, "a prefix takes attention away"),
        }
    }
}

#[test]
fn a_last_layer_that_asks_for_first_rows_alone_gives_what_those_are_among_all() {
    let (all, first) = (pooled(PoolRows::First, Asks::Every), pooled(PoolRows::First, Asks::First));
    let mut params = params(&all, false);
    assert!(relative_error(&logits(&first, &params), &logits(&all, &params)) < 1e-6);
    let names: BTreeSet<String> = all.params().into_iter().map(|spec| spec.name).collect();
    params.set_learning(&names).unwrap();
    let (input, targets) = (input(&all), [0, 1, 2, 1]);
    let gradients = |network: &Network| {
        let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
        let gradient = Objective::of_classes(stages).gradient(&params, Mode::Eval, &input, &targets).unwrap();
        gradient.grads.unwrap()
    };
    let (all, first) = (gradients(&all), gradients(&first));
    assert_eq!(all.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
    for (name, want) in &all {
        let [found, want] = [&first[name], want].map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        // The keys' bias shifts all scores of a row alike: its gradient is 0 but for rounding.
        if !name.ends_with("key.bias") {
            assert!(relative_error(&found, &want) < 1e-5, "{name}");
        }
    }
}

#[test]
fn the_frozen_pass_gives_what_the_trainable_one_gives() {
    for (network, adapter) in cases(0.3) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        let params = params(&edited, true);
        let error = relative_error(&logits(&edited, &params), &unmerged(&edited, &params));
        assert!(error < 1e-5, "{} {adapter}: {error}", network.name);
    }
}

#[test]
fn a_merged_network_is_the_one_without_adapters_and_gives_the_same_logits() {
    for (network, adapter) in cases(0.3) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        let before = params(&edited, true);
        let (merged, values) = merge(&edited, &before).unwrap();
        if !adapter.merges() {
            assert_eq!(merged, edited, "{adapter}");
            continue;
        }
        assert_eq!(merged, network, "{adapter}");
        let names: BTreeSet<String> = network.params().into_iter().map(|spec| spec.name).collect();
        assert_eq!(values.keys().cloned().collect::<BTreeSet<_>>(), names);
        let after = Params::new(values);
        assert_ne!(logits(&network, &after), logits(&network, &params(&network, true)), "{adapter} did nothing");
        let error = relative_error(&unmerged(&network, &after), &unmerged(&edited, &before));
        assert!(error < 1e-5, "{} {adapter}: {error}", network.name);
    }
}

#[test]
fn gradients_of_the_tape_are_those_of_autograd_and_of_nothing_else() {
    for (network, adapter) in cases(0.3) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        let mut params = params(&edited, true);
        let auto = gradient(&edited, &mut params, TRAIN, false, false);
        for recompute in [false, true] {
            let tape = gradient(&edited, &mut params, TRAIN, true, recompute);
            assert!((tape.loss - auto.loss).abs() < 1e-5, "{adapter}: {} and {}", tape.loss, auto.loss);
            let (tape, auto) = (tape.grads.unwrap(), auto.grads.as_ref().unwrap());
            assert_eq!(tape.keys().cloned().collect::<BTreeSet<_>>(), learning(&edited), "{adapter}");
            for (name, gradient) in &tape {
                let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let error = relative_error(&flat(gradient), &flat(&auto[name]));
                assert!(error < 1e-4, "{} {adapter}: {name} {error}", network.name);
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    const STEP: f64 = 1e-2;
    for (network, adapter) in cases(0.0) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        let mut params = params(&edited, true);
        let grads = gradient(&edited, &mut params, TRAIN, true, false).grads.unwrap();
        for spec in edited.params().into_iter().filter(|spec| spec.role == Role::Adapter) {
            // Along the gradient itself, where the slope is its length.
            let start = params.get(&spec.name).unwrap().detach().copy().unwrap();
            let direction = &grads[&spec.name];
            let length = direction.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            if length < 1e-4 {
                continue;
            }
            let mut loss = |by: f64| {
                let moved = (&start + (direction * (by / f64::from(length))).unwrap()).unwrap();
                params.set(&spec.name, moved).unwrap();
                gradient(&edited, &mut params, TRAIN, true, false).loss
            };
            let slope = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            params.set(&spec.name, start).unwrap();
            let error = (slope - f64::from(length)).abs() / f64::from(length).max(1e-2);
            assert!(error < 0.03, "{} {adapter}: {} {slope} {length}", network.name, spec.name);
        }
    }
}

#[test]
fn an_edit_can_be_read_back_and_undone() {
    for (network, adapter) in cases(0.25) {
        let edited = apply(&network, std::slice::from_ref(&adapter)).unwrap();
        assert_eq!(found(&edited), [adapter]);
        assert_eq!(strip(&edited), network);
    }
    assert!(found(&encoder()).is_empty());
}

#[test]
fn a_parallel_bottleneck_reads_what_the_block_reads_and_adds_to_its_sum() {
    let network = encoder();
    let block = "layer.0.output";
    let with = |placement| {
        let adapter = Adapter::Bottleneck { width: 4, placement, blocks: vec![block.into()] };
        let edited = apply(&network, &[adapter]).unwrap();
        let values = params(&edited, true);
        (edited, values)
    };
    let (edited, values) = with(Placement::Parallel);
    let pass = crate::net::forward::Pass::new(&values, Mode::Eval);
    // The block's own parts, by hand: then(body(x) + x + U gelu(D x)).
    let of_block = |network: &Network| {
        let find = |layer: &Layer| match layer {
            Layer::Residual(r) if sites::block(r).is_some_and(|(name, _)| name == block) => Some(r.clone()),
            _ => None,
        };
        network.stages.iter().flat_map(|stage| &stage.layers).find_map(find).unwrap()
    };
    let run = |layers: &[Layer], data: &Tensor| {
        let stage = Stage { name: "part".into(), layers: layers.to_vec() };
        let rows = Rows::Each(Arc::new(vec![data.dims()[0]]));
        pass.stage(&stage, Activation { data: data.clone(), rows }, false).unwrap().data
    };
    let numbers: Vec<f32> = centred("input", 3 * 8, 1.0);
    let x = Tensor::from_vec(numbers, (3, 8), &Device::Cpu).unwrap();
    let plain = of_block(&network);
    let Some(Layer::Adapter(bottleneck)) = of_block(&edited).shortcut.last().cloned() else { panic!("no bottleneck") };
    let beside = run(&bottleneck.body, &x);
    let sum = ((run(&plain.body, &x) + &x).unwrap() + &beside).unwrap();
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (expected, found) = (flat(run(&plain.then, &sum)), flat(run(&[Layer::Residual(of_block(&edited))], &x)));
    assert!(relative_error(&found, &expected) < 1e-6, "{found:?} and {expected:?}");
    // The same numbers behind the sublayer read something else.
    let (sequential, behind) = with(Placement::Sequential);
    assert_eq!(values.snapshot().keys().collect::<Vec<_>>(), behind.snapshot().keys().collect::<Vec<_>>());
    assert!(relative_error(&logits(&sequential, &behind), &logits(&edited, &values)) > 1e-3);
}

#[test]
fn sites_tell_what_lies_behind_an_activation() {
    let of = |network: &Network, keep: fn(&Site) -> bool| -> Vec<String> {
        network.sites().into_iter().filter(keep).map(|site| site.name).collect()
    };
    let (text, photos) = (encoder(), convolutional());
    assert_eq!(of(&text, |s| s.inner), ["layer.0.output.dense", "layer.1.output.dense"]);
    assert_eq!(of(&photos, |s| s.inner), ["layer1.0.conv2", "layer1.1.conv_pwl"]);
    let activated = ["layer1.0.conv2", "layer1.1.conv_dw", "layer1.1.conv_pwl"];
    assert_eq!(of(&photos, |s| s.activated), activated);
    assert_eq!(of(&photos, |s| s.grouped), ["layer1.1.conv_dw"]);
    assert_eq!(photos.blocks(), ["layer1.0", "layer1.1"]);
    assert_eq!(text.blocks()[..2], ["layer.0.attention.output", "layer.0.output"]);
    assert_eq!(text.attentions(), ["layer.0.attention.self", "layer.1.attention.self"]);
}

#[test]
fn a_target_is_a_run_of_whole_parts() {
    assert!(matches("encoder.layer.1.attention.self.query", "query"));
    assert!(matches("encoder.layer.1.attention.self.query", "layer.1"));
    assert!(!matches("encoder.layer.10.attention.self.query", "layer.1"));
    assert!(!matches("query", "attention.query"));
}

#[test]
fn what_cannot_be_edited_is_refused_by_name() {
    let (text, photos) = (encoder(), convolutional());
    let refuse = |network: &Network, adapter: Adapter, word: &str| {
        let message = apply(network, &[adapter]).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    let lora = |rank, layer: &str| Adapter::Lora { rank, alpha: 1.0, dropout: 0.0, layers: vec![layer.into()] };
    refuse(&text, lora(2, "layer.9.query"), "layer.9.query");
    refuse(&text, lora(9, "layer.0.output.dense"), "at most 8");
    refuse(&photos, lora(2, "layer1.1.conv_dw"), "groups");
    refuse(&photos, Adapter::Prefix { length: 2, attentions: vec![] }, "has no attention");
    let bottleneck =
        |placement, block: &str| Adapter::Bottleneck { width: 2, placement, blocks: vec![block.to_string()] };
    refuse(&text, bottleneck(Placement::Sequential, "nowhere"), "nowhere");
    let plain = Network { stages: vec![photos.stages[0].clone()], ..photos.clone() };
    refuse(&plain, bottleneck(Placement::Parallel, "stem"), "no residual blocks");
    let twice = apply(&text, &[lora(2, "layer.0.output.dense"), ia3(&text)]).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
}

#[test]
fn the_counts_know_of_adapters() {
    let network = encoder();
    let total = |network: &Network, rows| network.costs(rows).iter().map(|cost| cost.multiply_adds).sum::<u64>();
    let layers = vec!["layer.0.intermediate.dense".to_string()];
    let edited = apply(&network, &[Adapter::Lora { rank: 3, alpha: 6.0, dropout: 0.0, layers }]).unwrap();
    assert_eq!(edited.parameters() - network.parameters(), 3 * (8 + 16));
    assert_eq!(total(&edited, 5) - total(&network, 5), 5 * 3 * (8 + 16));
    let photos = convolutional();
    let adapter = Adapter::Bottleneck { width: 2, placement: Placement::Sequential, blocks: vec!["layer1.0".into()] };
    let edited = apply(&photos, &[adapter]).unwrap();
    assert_eq!(total(&edited, 1) - total(&photos, 1), 16 * 2 * 2 * 8, "for each of 4 x 4 pixels");
}
