//! What a step is said to take of memory, against what the allocator gave.

use peak_alloc::PeakAlloc;
use topwork_core::data::{Activation, Rows};
use topwork_core::domain::Domain;
use topwork_core::memory::{of_pass, of_scratch};
use topwork_core::net::Params;
use topwork_core::net::forward::Mode;
use topwork_core::plan::BatchNormMode;
use topwork_core::seed::Seed;
use topwork_core::train::gradient::Objective;

use candle_core::{Device, Tensor};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SAMPLES: usize = 8;
const SIDE: usize = 96;

#[test]
fn a_pass_takes_no_more_than_is_said_and_not_much_less() {
    let mut ratios = Vec::new();
    for name in ["resnet18", "resnet50", "vgg11_bn", "efficientnet-lite0", "efficientnet_b0", "mobilenet_v3_small"] {
        let mut network = topwork_cv::Photos::outline(name).expect(name).network.with_classes(5);
        network.input = vec![SIDE, SIDE, 3];
        let mut params = Params::initial(&network.params(), Seed(1), &Device::Cpu).unwrap();
        params.set_learning(&network.params().into_iter().map(|spec| spec.name).collect()).unwrap();
        let data = Tensor::randn(0f32, 1.0, (SAMPLES, SIDE, SIDE, 3), &Device::Cpu).unwrap();
        let input = Activation { data, rows: Rows::One };
        let mode = Mode::Train { batch_norm: BatchNormMode::Frozen, seed: Seed(0) };
        for recompute in [false, true] {
            let stages = network.stages.iter().chain([&network.head]).map(|stage| (stage, true)).collect();
            let objective = Objective { recompute, ..Objective::of_classes(stages) };
            let before = HEAP.current_usage();
            HEAP.reset_peak_usage();
            let found = objective.gradient(&params, mode, &input, &[0, 1, 2, 3, 4, 0, 1, 2]).unwrap();
            let taken = HEAP.peak_usage() - before;
            assert!(found.grads.is_some());
            let costs = network.costs(1);
            // Beside what it leaves behind on its way, a pass gives a gradient for each parameter.
            let numbers = SAMPLES * of_pass(costs.iter().map(|cost| (cost, true)), recompute);
            let said = 4 * (numbers + network.parameters() + of_scratch(&network));
            let ratio = taken as f64 / said as f64;
            ratios.push((format!("{name}, recompute {recompute}"), ratio));
        }
    }
    println!("{ratios:.2?}");
    assert!(ratios.iter().all(|(_, ratio)| (0.4..=1.0).contains(ratio)), "{ratios:.2?}");
}
