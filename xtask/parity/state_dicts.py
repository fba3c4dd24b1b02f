"""Takes the state dict of every network of the zoo through topwork and back, strictly.

    python state_dicts.py [NAME...] [--binary PATH]

For each network a checkpoint with formula weights is written as torchvision and as timm write theirs, with nothing that
says what it is; `topwork-cv export` reads it and writes it under the names of either library; the library loads that
strictly, and every tensor must be equal bit for bit. The exit status is 1 if one is not. `--binary` is the topwork-cv to
ask, by default the one in `target/debug`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from formula import ROOT, fill
from zoo import zoo


def exported(binary, checkpoint, library, folder):
    """What topwork makes of a checkpoint, under the names of `library`."""
    out = folder / f"{library}.safetensors"
    out.unlink(missing_ok=True)
    command = [str(binary), "export", str(checkpoint), "--format", library, "--out", str(out), "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return (load_file(out), "") if done.returncode == 0 else (None, done.stderr.strip())


def equal(model, state, expected):
    """Whether `model` loads `state` strictly, and then has the tensors of `expected`."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        return str(error).splitlines()[1].strip()
    loaded = model.state_dict()
    wrong = [name for name, value in expected.items() if not torch.equal(loaded[name], value)]
    return f"{len(wrong)} tensors differ: {wrong[:3]}" if wrong else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "debug" / "topwork-cv")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, library, theirs, build, gain, _ in zoo():
            if args.names and name not in args.names:
                continue
            model = fill(build(), gain)
            start = {key: value.clone() for key, value in model.state_dict().items()}
            torch.save(start, folder / "checkpoint.pth")
            # Networks that no library has come back under topwork's own names, which are torchvision's.
            target = library if library == "timm" or theirs == name else "safetensors"
            state, error = exported(args.binary, folder / "checkpoint.pth", target, folder)
            if target == "safetensors" and state is not None:
                state |= {key: value for key, value in start.items() if key.endswith("num_batches_tracked")}
            problem = error or equal(build(), state, start)
            failed |= bool(problem)
            print(f"{'FAIL' if problem else 'ok  '} {name} from {library} and back {problem}", flush=True)
            if library == "torchvision" and timm.is_model(name):
                state, error = exported(args.binary, folder / "checkpoint.pth", "timm", folder)
                other = timm.create_model(name, num_classes=model.state_dict()[list(start)[-1]].shape[0])
                problem = error or equal(other, state, {})
                failed |= bool(problem)
                print(f"{'FAIL' if problem else 'ok  '} {name} from {library} to timm {problem}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
