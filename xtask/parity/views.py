"""More photos of odd sizes as Pillow and torchvision resize them, and what torchvision's augmentations make of pixels.

    python views.py

Writes `crates/cv/tests/fixtures/preprocess` (its files beside those of `preprocess.py`) and
`crates/cv/tests/fixtures/augment`.
"""

import math

import torchvision.transforms.functional as F
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from preprocess import ROOT, picture

SIZES = [(39, 39), (43, 40), (64, 64), (80, 40), (40, 121), (97, 33), (2, 3), (500, 7), (129, 255), (31, 33), (223, 167)]
SIDE = 16


def odd():
    for width, height in SIZES:
        photo = picture(width, height)
        photo.save(ROOT / "preprocess" / f"{width}x{height}.png", optimize=True)
        for interpolation in [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]:
            view = Compose([Resize(40, interpolation=interpolation), CenterCrop(32)])(photo)
            view.save(ROOT / "preprocess" / f"{width}x{height}.{interpolation.value}.png", optimize=True)


def sheared(photo, across, down):
    degrees = [math.degrees(math.atan(across)), math.degrees(math.atan(down))]
    return F.affine(photo, 0.0, [0, 0], 1.0, degrees, InterpolationMode.NEAREST, center=[0, 0])


def moved(photo, across, down):
    return F.affine(photo, 0.0, [across, down], 1.0, [0.0, 0.0], InterpolationMode.NEAREST)


def augment():
    folder = ROOT / "augment"
    folder.mkdir(parents=True, exist_ok=True)
    photo = picture(SIDE, SIDE)
    dull = F.adjust_contrast(photo, 0.4)
    changes = {
        "shear-x": sheared(photo, 0.3, 0.0),
        "shear-y": sheared(photo, 0.0, -0.3),
        "translate-x": moved(photo, 5, 0),
        "translate-y": moved(photo, 0, -4),
        "rotate": F.rotate(photo, 27.0, InterpolationMode.NEAREST),
        "brightness": F.adjust_brightness(photo, 1.7),
        "colour": F.adjust_saturation(photo, 0.3),
        "contrast": F.adjust_contrast(photo, 1.5),
        "sharpness": F.adjust_sharpness(photo, 1.9),
        "posterize": F.posterize(photo, 3),
        "solarize": F.solarize(photo, 102.0),
        "auto-contrast": F.autocontrast(dull),
        "equalize": F.equalize(photo),
        "invert": F.invert(photo),
    }
    photo.save(folder / "photo.png", optimize=True)
    dull.save(folder / "dull.png", optimize=True)
    for name, view in changes.items():
        view.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    odd()
    augment()
