"""Makes the small PyTorch checkpoints that topwork-core's tests read.

    python xtask/parity/checkpoints.py crates/core/tests/fixtures

Needs torch. Every value follows from a formula, which the tests repeat.
"""

import os
import sys
from collections import OrderedDict

import torch


def ramp(*shape, dtype=torch.float32):
    """0, 1, 2, ... divided by 4: exact in every type used here."""
    count = 1
    for dim in shape:
        count *= dim
    return (torch.arange(count, dtype=torch.float64) / 4).reshape(shape).to(dtype)


def state_dict():
    shared = ramp(2, 6)
    return OrderedDict(
        [
            ("weight", torch.nn.Parameter(ramp(4, 3))),
            ("transposed", ramp(3, 4).t()),
            ("half", ramp(5, dtype=torch.float16)),
            ("bfloat", ramp(5, dtype=torch.bfloat16)),
            ("double", ramp(5, dtype=torch.float64)),
            ("steps", torch.tensor(7, dtype=torch.int64)),
            ("ints", torch.tensor([-1, 2], dtype=torch.int32)),
            ("mask", torch.tensor([True, False])),
            ("shared.all", shared),
            ("shared.columns", shared[:, 2:5]),
            ("expanded", ramp(2, 1).expand(2, 3)),
            ("empty", torch.zeros(0, 3)),
        ]
    )


def training_checkpoint():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(ramp(*parameter.shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(ramp(4, 2)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(ramp(*parameter.shape))
    return {
        "epoch": 3,
        "best": torch.tensor(0.5),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    for form, is_zip in [("zip", True), ("legacy", False)]:
        contents = {"tensors": state_dict(), "training": training_checkpoint()}
        if is_zip:
            contents["malicious"] = {"weight": ramp(2), "extra": Malicious()}
        for name, value in contents.items():
            path = os.path.join(folder, f"{name}-{form}.pth")
            torch.save(value, path, _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    main(sys.argv[1])
