//! What a step is said to take of memory, against what the allocator gave.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use peak_alloc::PeakAlloc;
use topwork_core::data::{Activation, Rows};
use topwork_core::testing::share_of_said;
use topwork_nlp::models::bert::{BertConfig, Pooling};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SAMPLES: usize = 8;
const ROWS: usize = 64;

#[test]
fn a_pass_takes_no_more_than_is_said_and_not_much_less() {
    let sizes = r#""vocab_size": 400, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 512, "max_position_embeddings": 80"#;
    let mut shares = Vec::new();
    for kind in ["bert", "roberta", "mpnet", "albert"] {
        let text = format!(r#"{{"model_type": "{kind}", "hidden_act": "gelu", {sizes}}}"#);
        let network = BertConfig::parse(&text, kind).unwrap().network(Pooling::Mean, 5);
        let ids: Vec<u32> = (0..SAMPLES * ROWS).flat_map(|i| [3 + (i as u32 * 7) % 390, 0]).collect();
        let data = Tensor::from_vec(ids, (SAMPLES * ROWS, 2), &Device::Cpu).unwrap();
        let input = Activation { data, rows: Rows::Each(Arc::new(vec![ROWS; SAMPLES])) };
        for recompute in [false, true] {
            let share = share_of_said(&network, &input, recompute, |pass| {
                let before = HEAP.current_usage();
                HEAP.reset_peak_usage();
                pass().map(|()| HEAP.peak_usage() - before)
            });
            shares.push((format!("{kind}, recompute {recompute}"), share.unwrap()));
        }
    }
    println!("{shares:.2?}");
    assert!(shares.iter().all(|(_, share)| (0.4..=1.0).contains(share)), "{shares:.2?}");
}
