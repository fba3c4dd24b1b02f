//! What a step is said to take of memory, against what the allocator gave.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use peak_alloc::PeakAlloc;
use topwork_core::data::{Activation, Rows};
use topwork_core::memory::{of_pass, of_scratch};
use topwork_core::net::Params;
use topwork_core::net::forward::Mode;
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::train::gradient::Objective;
use topwork_nlp::models::bert::{BertConfig, Pooling};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SAMPLES: usize = 8;
const ROWS: usize = 64;

#[test]
fn a_pass_takes_no_more_than_is_said_and_not_much_less() {
    let mut ratios = Vec::new();
    let sizes = r#""vocab_size": 400, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "max_position_embeddings": 80"#;
    for kind in ["bert", "roberta", "mpnet", "albert"] {
        let text = format!(r#"{{"model_type": "{kind}", "hidden_act": "gelu", {sizes}}}"#);
        let network = BertConfig::parse(&text, kind).unwrap().network(Pooling::Mean, 5);
        let mut params = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap();
        params.set_learning(&network.params().into_iter().map(|spec| spec.name).collect()).unwrap();
        let ids: Vec<u32> = (0..SAMPLES * ROWS).flat_map(|i| [3 + (i as u32 * 7) % 390, 0]).collect();
        let data = Tensor::from_vec(ids, (SAMPLES * ROWS, 2), &Device::Cpu).unwrap();
        let input = Activation { data, rows: Rows::Each(Arc::new(vec![ROWS; SAMPLES])) };
        let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
        for recompute in [false, true] {
            let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
            let objective = Objective { recompute, ..Objective::of_classes(stages) };
            let before = HEAP.current_usage();
            HEAP.reset_peak_usage();
            let found = objective.gradient(&params, mode, &input, &[0, 1, 2, 3, 4, 0, 1, 2]).unwrap();
            let taken = HEAP.peak_usage() - before;
            assert!(found.grads.is_some());
            let costs = network.costs(ROWS);
            // Beside what it leaves behind on its way, a pass gives a gradient for each parameter.
            let numbers = SAMPLES * of_pass(costs.iter().map(|cost| (cost, true)), recompute);
            let said = 4 * (numbers + network.parameters() + of_scratch(&network));
            let ratio = taken as f64 / said as f64;
            ratios.push((format!("{kind}, recompute {recompute}"), ratio));
        }
    }
    println!("{ratios:.2?}");
    assert!(ratios.iter().all(|(_, ratio)| (0.4..=1.0).contains(ratio)), "{ratios:.2?}");
}
