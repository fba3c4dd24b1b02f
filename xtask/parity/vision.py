"""Logits and pooled features of the vision backbones, in evaluation mode, with formula weights."""

import math

import timm
import torch
import torchvision

from formula import centred, fill, numbers, write

CLASSES = 100


def images(count, size):
    """`count` images [3, size, size], numbered by the formula in that layout."""
    return centred("input", (count, 3, size, size), 2.0)


def outputs(model, batch, pooled, step):
    """Logits, and every `step`-th pooled feature."""
    with torch.inference_mode():
        logits, features = model(batch), pooled(batch)
    assert torch.isfinite(logits).all() and 1e-2 < logits.std() < 1e4, logits.std()
    print(f"  logits {logits.std():.3g}, between the two images {(logits[0] - logits[-1]).std():.3g}")
    return {"logits": numbers(logits), "features": numbers(features[:, ::step]), "feature_step": step}


def resnet(name, step):
    """A torchvision ResNet on two images of 96 x 96."""
    gain = math.sqrt(2)
    model = fill(getattr(torchvision.models, name)(num_classes=CLASSES), gain).eval()
    body = torch.nn.Sequential(*list(model.children())[:-1], torch.nn.Flatten())
    about = {"model": f"torchvision {name}", "gain": gain, "classes": CLASSES, "images": 2, "size": 96}
    write("cv", f"{name}.json", {**about, **outputs(model, images(2, 96), body, step)})


def upstream_names(model):
    """The names that the original PyTorch port of EfficientNet-Lite gives to timm's parameters, in timm's order."""
    names, block, seen = {}, -1, None
    inner = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    for name in model.state_dict():
        parts = name.split(".")
        if parts[0] != "blocks":
            names[name] = ".".join([outer[parts[0]], *parts[1:]])
            continue
        if (parts[1], parts[2]) != seen:
            seen, block = (parts[1], parts[2]), block + 1
        layer = parts[3]
        if parts[1] == "0":  # the first block has no expansion: timm calls its layers conv_dw, bn1, conv_pw, bn2
            layer = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}[layer]
        else:
            layer = inner.get(layer) or {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}[layer]
        names[name] = ".".join(["_blocks", str(block), layer, *parts[4:]])
    return names


def efficientnet():
    """timm's tf_efficientnet_lite0, with the formula applied to its names and to those of the original checkpoint."""
    gain = math.sqrt(2)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES)
    upstream = upstream_names(model)
    assert len(set(upstream.values())) == len(upstream)
    for scheme, rename in {"timm": lambda name: name, "original": upstream.__getitem__}.items():
        fill(model, gain, rename).eval()
        about = {"model": "timm tf_efficientnet_lite0", "names": scheme, "gain": gain, "classes": CLASSES}
        for size, count in {"timm": [(96, 2)], "original": [(96, 2), (224, 1)]}[scheme]:

            def pooled(batch):
                return model.forward_head(model.forward_features(batch), pre_logits=True)

            found = outputs(model, images(count, size), pooled, 4)
            name = f"efficientnet_lite0_{scheme}_{size}.json"
            write("cv", name, {**about, "images": count, "size": size, **found})


def main():
    resnet("resnet18", 1)
    resnet("resnet50", 4)
    efficientnet()


if __name__ == "__main__":
    main()
