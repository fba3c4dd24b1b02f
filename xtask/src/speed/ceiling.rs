//! What the processor's multiply-adds reach alone, and what single products of the networks' layers reach of that.

use anyhow::Result;
use serde_json::json;
use topwork_kernels::ConvSpec;
use topwork_kernels::passes::{self as k, ConvPass};

use super::best;

/// Rounds of the loop: about 0.1 s.
const ROUNDS: usize = 1 << 20;

/// A linear layer: name, rows, inputs, outputs.
const LINEAR: [(&str, usize, usize, usize); 6] = [
    ("MiniLM attention", 2048, 384, 384),
    ("MiniLM feed-forward", 2048, 384, 1536),
    ("BERT attention", 2048, 768, 768),
    ("BERT feed-forward", 2048, 768, 3072),
    ("ResNet-50 layer2, 1 x 1", 12_544, 512, 128),
    ("AlexNet classifier", 32, 9216, 4096),
];

/// A convolution of 16 images: name, side of the image, inputs, outputs, side of the kernel, step.
const CONVOLUTION: [(&str, usize, usize, usize, usize, usize); 5] = [
    ("ResNet layer1, 3 x 3", 56, 64, 64, 3, 1),
    ("ResNet layer3, 3 x 3", 14, 256, 256, 3, 1),
    ("ResNet layer4, 3 x 3", 7, 512, 512, 3, 1),
    ("ResNet layer2, 3 x 3 step 2", 56, 64, 128, 3, 2),
    ("AlexNet, 5 x 5", 27, 64, 192, 5, 1),
];

/// Times everything and prints it.
pub fn run(repeat: usize, as_json: bool) -> Result<()> {
    let say = |name: &str, pass: &str, rate: f64, ceiling: f64| {
        if as_json {
            println!("{}", json!({ "product": name, "pass": pass, "gflop_per_s": rate, "ceiling": ceiling }));
        } else {
            println!("{name:32} {pass:16} {rate:8.1} GFLOP/s {:6.2}", rate / ceiling);
        }
    };
    let mut operations = 0;
    let seconds = best(repeat, || {
        operations = topwork_kernels::ceiling::run(ROUNDS);
        Ok(())
    })?;
    let ceiling = operations as f64 / seconds / 1e9;
    say("multiply-adds alone", "", ceiling, ceiling);
    for (name, rows, inputs, outputs) in LINEAR {
        let [x, w, dy] = [rows * inputs, inputs * outputs, rows * outputs].map(filled);
        let rate = |seconds: f64| (2 * rows * inputs * outputs) as f64 / seconds / 1e9;
        let forward = best(repeat, || {
            drop(k::linear(&x, &w, None, inputs, outputs));
            Ok(())
        })?;
        say(name, "forward", rate(forward), ceiling);
        let back = best(repeat, || {
            drop(k::linear_input_gradient(&w, &dy, inputs, outputs));
            Ok(())
        })?;
        say(name, "input gradient", rate(back), ceiling);
        let weight = best(repeat, || {
            drop(k::linear_weight_gradient(&x, &dy, inputs, outputs));
            Ok(())
        })?;
        say(name, "weight gradient", rate(weight), ceiling);
    }
    for (name, side, inputs, outputs, kernel, step) in CONVOLUTION {
        let spec = ConvSpec { stride: [step; 2], pads: [kernel / 2; 4], ..ConvSpec::default() };
        let pass = ConvPass::new([16, side, side], inputs, outputs, [kernel; 2], spec);
        let (h, w) = pass.out_size();
        let [x, weight, dy] =
            [16 * side * side * inputs, outputs * inputs * kernel * kernel, 16 * h * w * outputs].map(filled);
        // As if nothing were saved: where Winograd's algorithm multiplies less, the rate may exceed the ceiling.
        let rate = |seconds: f64| (2 * 16 * h * w * weight.len()) as f64 / seconds / 1e9;
        let forward = best(repeat, || {
            drop(pass.forward(&x, &weight, None));
            Ok(())
        })?;
        say(name, "forward", rate(forward), ceiling);
        let back = best(repeat, || {
            drop(pass.input_gradient(&weight, &dy));
            Ok(())
        })?;
        say(name, "input gradient", rate(back), ceiling);
        let of_weight = best(repeat, || {
            drop(pass.weight_gradient(&x, &dy));
            Ok(())
        })?;
        say(name, "weight gradient", rate(of_weight), ceiling);
    }
    Ok(())
}

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}
