"""Grad-CAM of torchvision's networks with formula weights: what `topwork_core::net::grad_cam` is compared with.

Selvaraju et al. 2017, equations 1 and 2: the maps A that come out of a module and the gradient of one class's logit with
respect to them, by torch's autograd; the heat is relu(sum_k mean(dy / dA_k) A_k).
"""

import math

import torch
import torchvision

from formula import centred, fill, numbers, write

CLASSES = 5
# Model, the module whose output is looked at, side of the images.
CASES = [
    ("resnet18", "layer4", 96),
    ("resnet18", "layer2", 96),
    ("alexnet", "features", 128),
    ("mobilenet_v3_small", "features", 96),
]


def heat(model, module, batch, target):
    """The heat of each image, row by row."""
    seen = []
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output))
    logits = model(batch)
    hook.remove()
    (maps,) = seen
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(dim=1).relu().detach()


def case(name, module, size):
    """Two images, and the class whose heat is nowhere all zero."""
    gain = math.sqrt(2)
    model = fill(getattr(torchvision.models, name)(num_classes=CLASSES), gain).eval()
    batch = centred("input", (2, 3, size, size), 2.0)
    for target in range(CLASSES):
        found = heat(model, dict(model.named_modules())[module], batch, target)
        if all(one.max() > 0 for one in found):
            print(f"  {name} {module}: class {target}, heat up to {found.max():.3g} in {tuple(found.shape[1:])}")
            about = {"model": name, "module": module, "gain": gain, "classes": CLASSES, "images": 2, "size": size}
            return {**about, "class": target, "maps": list(found.shape[1:]), "heat": numbers(found.flatten(1))}
    raise AssertionError(f"{name}: no class has heat in both images")


def main():
    write("cv", "grad_cam.json", {f"{name} {module}": case(name, module, size) for name, module, size in CASES})


if __name__ == "__main__":
    main()
