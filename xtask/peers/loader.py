"""How many photos a second torchvision decodes, crops at random, mirrors and normalizes for training, in processes of a DataLoader.

    python loader.py FOLDER [--workers N] [--repeat N] [--v2]

FOLDER has CLASS/photo. The transforms are those of torchvision's reference training: RandomResizedCrop(224),
RandomHorizontalFlip, to a tensor, Normalize; `--v2` takes them from `torchvision.transforms.v2`. Prints a line of JSON with
the best of the rounds after the first, as `cargo xtask speed --loader FOLDER` does for topwork.
"""

import argparse
import json
import time

import torch
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pipeline(newer):
    """The transforms, from either module."""
    normalize = (MEAN, DEVIATION)
    if not newer:
        return v1.Compose(
            [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(*normalize)]
        )
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*normalize),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--v2", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    photos = ImageFolder(args.folder, pipeline(args.v2))
    # Workers stay from round to round: starting them is not what is measured.
    loader = DataLoader(photos, batch_size=32, shuffle=True, num_workers=args.workers, persistent_workers=True)
    best = 0.0
    for turn in range(args.repeat + 1):
        start, loaded = time.perf_counter(), 0
        for images, _ in loader:
            loaded += len(images)
        if turn > 0:
            best = max(best, loaded / (time.perf_counter() - start))
    peer = "torchvision v2" if args.v2 else "torchvision"
    print(json.dumps({"peer": peer, "photos": len(photos), "workers": args.workers, "photos_per_s": round(best, 1)}))


if __name__ == "__main__":
    main()
