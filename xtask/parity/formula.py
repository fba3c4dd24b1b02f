"""Numbers by a formula: the Python side of `crates/core/src/testing.rs`. The rule is in README.md."""

import json
import math
from pathlib import Path

import numpy
import torch

ROOT = Path(__file__).resolve().parents[2]


def fnv1a(name):
    """FNV-1a, 64 bits, of the UTF-8 bytes of `name`."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def uniform(name, n):
    """The first n elements of the sequence called `name`: multiples of 2**-24 in [0, 1), as float64."""
    i = numpy.arange(1, n + 1, dtype=numpy.uint64)
    z = numpy.uint64(fnv1a(name)) + i * numpy.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    z = z ^ (z >> numpy.uint64(31))
    return (z >> numpy.uint64(40)).astype(numpy.float64) / 2**24


def centred(name, shape, scale):
    """`(2u - 1) * scale` in float64, rounded once to float32."""
    values = (2 * uniform(name, math.prod(shape)) - 1) * scale
    return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)


def parameter(name, shape, gain):
    """The parameter or buffer called `name`."""
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("bias", "running_mean"):
        return centred(name, shape, 0.1)
    if last == "running_var" or len(shape) < 2:
        values = 0.75 + 0.5 * uniform(name, math.prod(shape))
        return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)
    if "embeddings." in name:
        return centred(name, shape, 0.05)
    return centred(name, shape, gain * math.sqrt(3 / math.prod(shape[1:])))


def fill(model, gain, rename=lambda name: name):
    """Sets every parameter and buffer of `model`; `rename` gives the name that the formula sees."""
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith(("position_ids", "token_type_ids")):
            state[name] = value
        else:
            state[name] = parameter(rename(name), tuple(value.shape), gain)
    model.load_state_dict(state)
    return model


def numbers(tensor):
    """A tensor as nested lists of numbers with nine significant digits, which identify a float32."""
    values = tensor.detach().tolist()

    def rounded(value):
        return [rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.9g}")

    return rounded(values)


def write(crate, name, contents):
    """Stores a fixture under the tests of a crate: one top-level entry a line."""
    path = ROOT / "crates" / crate / "tests" / "parity" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in contents.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    print(hex(fnv1a("fc.weight")))
    print(uniform("fc.weight", 1)[0] * 2**24, uniform("layer1.0.bn1.running_var", 12346)[-1] * 2**24)
    print(f"{parameter('fc.weight', (4, 8), math.sqrt(2)).flatten()[31].item():.9g}")
    print(f"{parameter('bn1.weight', (4,), 1.0)[3].item():.9g}")
    print(f"{parameter('embeddings.word_embeddings.weight', (4, 8), 1.0).flatten()[9].item():.9g}")
    print(f"{parameter('fc.bias', (4,), 1.0)[1].item():.9g}")
