"""Every network of the zoo, with formula weights: outputs in use, and one pass of training with batch statistics.

One record a line in `crates/cv/tests/parity/zoo.jsonl`. Computed in double precision; how far single precision strays by
itself is printed, so that a test's tolerance can be judged.
"""

import json

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from formula import ROOT, fill, fnv1a
from vision import images

CLASSES = 5
IMAGES = 4
FEATURES = 12
STATISTICS = 6
TARGETS = torch.tensor([(3 * i + 1) % CLASSES for i in range(IMAGES)])

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"]
RESNEXTS = ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
VGGS = [f"vgg{depth}{ending}" for ending in ("", "_bn") for depth in (11, 13, 16, 19)]
MOBILENETS = ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]
EFFICIENTNETS = ["efficientnet_b0", "efficientnet_b1", "efficientnet_b2"]


def small(blocks, width):
    """torchvision's ResNet with a stem for 32 x 32 pixels, of another width."""
    model = torchvision.models.resnet.ResNet(BasicBlock, blocks, num_classes=CLASSES)
    model.conv1, model.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    model.maxpool, model.inplanes = nn.Identity(), width
    for i, count in enumerate(blocks):
        layer = model._make_layer(BasicBlock, width << i, count, stride=1 if i == 0 else 2)
        setattr(model, f"layer{i + 1}", layer)
    model.fc = nn.Linear(width << 3, CLASSES)
    return model


def zoo():
    """(our name, library, its name, how to build it, gain, size)."""

    def torchvisions(name):
        return lambda: getattr(torchvision.models, name)(num_classes=CLASSES)

    def timms(name):
        return lambda: timm.create_model(name, num_classes=CLASSES)

    def both(name, other, gain, size):
        yield name, "torchvision", name, torchvisions(name), gain, size
        yield name, "timm", other, timms(other), gain, size

    yield "alexnet", "torchvision", "alexnet", torchvisions("alexnet"), 1.4, 96
    yield from both("vgg11", "vgg11", 1.4, 64)
    for name in VGGS[1:]:
        yield name, "torchvision", name, torchvisions(name), 1.4, 64
    for name in RESNETS + RESNEXTS:
        yield name, "torchvision", name, torchvisions(name), 1.0, 64
    yield "resnet18-32px", "torchvision", "resnet18", lambda: small([2, 2, 2, 2], 64), 1.0, 32
    yield "tiny-resnet", "torchvision", "resnet18", lambda: small([1, 1, 2, 2], 32), 1.0, 32
    yield from both("mobilenet_v2", "mobilenetv2_100", 1.4, 64)
    for size in ("small", "large"):
        name, other = f"mobilenet_v3_{size}", f"mobilenetv3_{size}_100"
        yield name, "torchvision", name, torchvisions(name), 1.4, 64
        yield other, "timm", other, timms(other), 1.4, 64
    for name in EFFICIENTNETS:
        yield from both(name, name, 1.4, 64)
    for number in range(5):
        # An odd number of pixels, for TensorFlow's padding.
        name = f"tf_efficientnet_lite{number}"
        yield f"efficientnet-lite{number}", "timm", name, timms(name), 1.4, 70


def pooled(model, library, batch):
    """What the last linear layer gets."""
    found = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    logits = model(batch)
    handle.remove()
    return logits, found[0]


def numbers(tensor):
    """Eight significant digits."""
    return [float(f"{value:.8g}") for value in tensor.detach().flatten().tolist()]


def some(names, count=3):
    """The first, some in between, and the last of `names`."""
    picked = [names[i * (len(names) - 1) // (count - 1)] for i in range(count)]
    return list(dict.fromkeys(picked))


def outputs(model, library, batch):
    """Everything that a record keeps, as tensors by name."""
    model.eval()
    with torch.no_grad():
        logits, features = pooled(model, library, batch)
    step = max(1, features.shape[1] // FEATURES)
    kept = {"logits": logits, "features": features[0, ::step][:FEATURES]}
    for module in model.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    model.train()
    gated = [name for name, _ in model.named_parameters() if ".fc1." in name or "conv_reduce." in name]
    # Those of the last layers: further down, one activation that rounds to the other side of a kink moves a gradient by
    # a hundredth, in any two libraries.
    weights = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    wanted = list(dict.fromkeys([*gated[-2:-1], *weights[-2:]]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    kept["training"] = model(batch)
    nn.functional.cross_entropy(kept["training"], TARGETS).backward()
    parameters, state = dict(model.named_parameters()), model.state_dict()
    kept["gradients"] = {name: parameters[name].grad.flatten()[:STATISTICS] for name in wanted}
    running = [name for name in state if name.endswith(("running_mean", "running_var"))]
    kept["statistics"] = {name: state[name][:STATISTICS] for name in (some(running, 6) if running else [])}
    return kept


def each(kept):
    """The tensors of `outputs`, with names."""
    for key, value in kept.items():
        if isinstance(value, dict):
            yield from ((f"{key} {name}", tensor) for name, tensor in value.items())
        else:
            yield key, value


def digest(state):
    """Of all names and shapes, sorted."""
    shapes = {name: "x".join(map(str, value.shape)) for name, value in state.items()}
    kept = sorted(f"{name}\t{shape}\n" for name, shape in shapes.items() if not name.endswith("num_batches_tracked"))
    return f"{fnv1a(''.join(kept)):016x}"


def operations(name, library):
    """Billions of multiply-adds, as torchvision counts them."""
    if library != "torchvision" or not hasattr(torchvision.models, name):
        return None
    return torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]


def timm_names(name):
    """The digest of timm's state dict, where timm has the network under the same name."""
    if not timm.is_model(name):
        return None
    with torch.device("meta"):
        return digest(timm.create_model(name, num_classes=CLASSES).state_dict())


def record(name, library, theirs, build, gain, size):
    model = fill(build(), gain)
    state, batch = digest(model.state_dict()), images(IMAGES, size)
    double = outputs(model.double(), library, batch.double())
    single = outputs(fill(build(), gain), library, batch)
    strays = {key: ((s - d).abs().max() / d.abs().max()).item() for (key, s), (_, d) in zip(each(single), each(double))}
    # What float32 itself does not keep says nothing about anybody.
    double["gradients"] = {n: g for n, g in double["gradients"].items() if strays[f"gradients {n}"] < 1e-4}
    worst = max(strays, key=strays.get)
    spread = (double["logits"][0] - double["logits"][1]).std() / double["logits"].std()
    print(f"{name:24} {library:12} logits {double['logits'].std():8.2g}, between images {spread:7.1g}; "
          f"float32 strays by {strays[worst]:.0e} in {worst}", flush=True)
    assert torch.isfinite(double["logits"]).all() and 1e-3 < double["logits"].std() < 1e5, name
    contents = {"architecture": name, "library": library, "model": theirs, "gain": gain, "size": size, "names": state}
    contents["timm_names"] = timm_names(name)
    # A hundred and fifty layers on the statistics of a few values: what torch's own float32 strays by.
    contents["float32"] = float(f"{strays['training']:.2g}")
    contents["operations"] = operations(theirs if name == theirs else "", library)
    for key, value in double.items():
        tensors = isinstance(value, dict)
        contents[key] = {name: numbers(tensor) for name, tensor in value.items()} if tensors else numbers(value)
    return contents


def main(only=()):
    """Writes the records of all networks, or of `only` some and keeps the others."""
    path = ROOT / "crates/cv/tests/parity/zoo.jsonl"
    stored = path.read_text().splitlines() if path.exists() else []
    kept = {(row["architecture"], row["library"]): row for row in map(json.loads, stored)}
    rows = []
    for entry in zoo():
        old = kept.get(entry[:2])
        rows.append(record(*entry) if not only or entry[0] in only else old)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row), encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    main(sys.argv[1:])
