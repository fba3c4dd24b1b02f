//! What a step is said to take of memory, against what the allocator gave.

use candle_core::{Device, Tensor};
use peak_alloc::PeakAlloc;
use topwork_core::data::{Activation, Rows};
use topwork_core::domain::Domain;
use topwork_core::testing::share_of_said;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SIDE: usize = 96;

#[test]
fn a_pass_takes_no_more_than_is_said_and_not_much_less() {
    let mut shares = Vec::new();
    for name in ["resnet18", "resnet50", "vgg11_bn", "efficientnet-lite0", "efficientnet_b0", "mobilenet_v3_small"] {
        let mut network = topwork_cv::Photos::outline(name).expect(name).network.with_classes(5);
        network.input = vec![SIDE, SIDE, 3];
        let data = Tensor::randn(0f32, 1.0, (8, SIDE, SIDE, 3), &Device::Cpu).unwrap();
        let input = Activation { data, rows: Rows::One };
        for recompute in [false, true] {
            let share = share_of_said(&network, &input, recompute, |pass| {
                let before = HEAP.current_usage();
                HEAP.reset_peak_usage();
                pass().map(|()| HEAP.peak_usage() - before)
            });
            shares.push((format!("{name}, recompute {recompute}"), share.unwrap()));
        }
    }
    println!("{shares:.2?}");
    assert!(shares.iter().all(|(_, share)| (0.4..=1.0).contains(share)), "{shares:.2?}");
}
