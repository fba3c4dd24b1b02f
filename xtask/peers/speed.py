#!/usr/bin/env python3
"""Throughput of the peers on this machine, as JSON lines: what a user would run instead.

    python3 -m venv ~/peers && ~/peers/bin/pip install -r xtask/peers/requirements.txt
    ~/peers/bin/python xtask/peers/speed.py [--arch resnet18 ...] [--peer torch openvino onnxruntime] [--repeat 3]
    ~/peers/bin/python xtask/peers/speed.py --arch resnet18 --peer torch --mode train --dtype f32   # peak memory too

Each line: {"peer", "arch", "mode": forward|train, "dtype": f32|bf16, "batch", "items_per_s"}; best of --repeat after a warm-up.
"peak_mb" (largest resident set of this process so far) means something only for the second form: one model, one mode.
Images are 3x224x224, sentences 128 tokens; the head has 2 classes; train = forward + backward + optimizer step
(SGD with momentum for images, AdamW for sentences). torch is measured in both memory layouts and the better is kept.
Run it in turn with topwork's own figures and compare ratios: absolute figures drift from machine to machine.
"""
import argparse, json, resource, time, warnings
warnings.filterwarnings("ignore")
import torch, torchvision

IMAGE = {"alexnet": 32, "resnet18": 16, "resnet50": 16, "vgg16": 8, "efficientnet-lite0": 32, "resnext50_32x4d": 16,
         "mobilenet_v2": 16, "mobilenet_v3_large": 16, "efficientnet_b0": 16}
TEXT = {"minilm": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
        "bert-base": {}}
TEXT_BATCH, TOKENS = 16, 128


def best(f, repeat):
    f()
    return min((lambda s: (f(), time.perf_counter() - s)[1])(time.perf_counter()) for _ in range(repeat))


def say(peer, arch, mode, dtype, batch, seconds):
    print(json.dumps(dict(peer=peer, arch=arch, mode=mode, dtype=dtype, batch=batch,
                          items_per_s=round(batch / seconds, 2),
                          peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)), flush=True)


def model_and_input(arch):
    torch.manual_seed(0)
    if arch in IMAGE:
        b = IMAGE[arch]
        if arch == "efficientnet-lite0":
            import timm
            m = timm.create_model("efficientnet_lite0", num_classes=2)
        else:
            m = getattr(torchvision.models, arch)(num_classes=2)
        return m, (torch.randn(b, 3, 224, 224),), b
    from transformers import BertConfig, BertForSequenceClassification
    m = BertForSequenceClassification(BertConfig(num_labels=2, **TEXT[arch]))
    return m, (torch.randint(0, 30000, (TEXT_BATCH, TOKENS)),), TEXT_BATCH


def logits(out):
    return out if torch.is_tensor(out) else out.logits


def torch_peer(arch, repeat, modes, dtypes):
    for dtype in dtypes:
        f = s = float("inf")
        layouts = (torch.contiguous_format, torch.channels_last) if arch in IMAGE else (None,)
        for layout in layouts:
            m, (x,), b = model_and_input(arch)
            if layout is not None:
                m, x = m.to(memory_format=layout), x.to(memory_format=layout)
            y = torch.randint(0, 2, (b,))
            cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16")
            if "forward" in modes:
                m.eval()
                with torch.inference_mode(), cast():
                    f = min(f, best(lambda: m(x), repeat))
            if "train" not in modes:
                continue
            m.train()
            opt = (torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) if arch in IMAGE
                   else torch.optim.AdamW(m.parameters(), lr=1e-5))

            def step():
                opt.zero_grad()
                with cast():
                    loss = torch.nn.functional.cross_entropy(logits(m(x)), y)
                loss.backward()
                opt.step()
            s = min(s, best(step, repeat))
        for mode, seconds in (("forward", f), ("train", s)):
            if mode in modes:
                say("torch", arch, mode, dtype, b, seconds)


def onnx_file(arch, folder):
    m, args, b = model_and_input(arch)

    class Logits(torch.nn.Module):
        def __init__(self): super().__init__(); self.m = m
        def forward(self, x): return logits(self.m(x))
    path = f"{folder}/{arch}.onnx"
    if arch in TEXT:
        m.config._attn_implementation = "eager"
    torch.onnx.export(Logits().eval(), args, path, dynamo=False)
    return path, args[0].numpy(), b


def inference_peers(arch, repeat, peers, folder):
    path, x, b = onnx_file(arch, folder)
    if "onnxruntime" in peers:
        import onnxruntime as ort
        s = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = s.get_inputs()[0].name
        say("onnxruntime", arch, "forward", "f32", b, best(lambda: s.run(None, {name: x}), repeat))
    if "openvino" in peers:
        import openvino as ov
        for dtype in ("f32", "bf16"):
            c = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": dtype})
            say("openvino", arch, "forward", dtype, b, best(lambda: c(x), repeat))


if __name__ == "__main__":
    import tempfile
    p = argparse.ArgumentParser()
    p.add_argument("--arch", nargs="*", default=[*IMAGE, *TEXT])
    p.add_argument("--peer", nargs="*", default=["torch", "onnxruntime", "openvino"])
    p.add_argument("--mode", nargs="*", default=["forward", "train"])
    p.add_argument("--dtype", nargs="*", default=["f32", "bf16"])
    p.add_argument("--repeat", type=int, default=3)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for arch in a.arch:
            if "torch" in a.peer:
                torch_peer(arch, a.repeat, a.mode, a.dtype)
            if {"onnxruntime", "openvino"} & set(a.peer):
                inference_peers(arch, a.repeat, a.peer, folder)
