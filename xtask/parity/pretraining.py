"""BertForPreTraining with formula weights: the loss of given masked pairs, and twenty steps of training on both objectives."""

import torch
from transformers import BertForPreTraining

from formula import fill, numbers, write
from language import GAIN, SIZES, config, padded, without_prefix
from training import BATCH, SAMPLES, STEPS, decayed, report

MASK = 4
POSITIONS = 64
IGNORED = -100
# The decoder is the word table, and its bias has two names.
TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def examples(vocabulary):
    """Pairs with hidden tokens: every seventh row from row 1 + s mod 3 on, most of them masked, some left or replaced. One takes
    every position."""
    ids, segments, labels = [], [], []
    for s in range(SAMPLES):
        length = POSITIONS if s == 5 else 8 + (5 * s) % 30
        row = [5 + (7 * s + 13 * j + s * j) % (vocabulary - 5) for j in range(length)]
        label = [IGNORED] * length
        for k, j in enumerate(range(1 + s % 3, length - 1, 7)):
            label[j] = row[j]
            row[j] = [MASK, MASK, 5 + (11 * j + s) % (vocabulary - 5), row[j]][k % 4]
        ids.append(row)
        labels.append(label)
        segments.append([int(2 * j >= length) for j in range(length)])
    return ids, segments, labels, [(s // 2) % 2 for s in range(SAMPLES)]


def task(dtype):
    size = SIZES["small"]
    ids, segments, labels, breaks = examples(size["vocabulary"])
    model = fill(BertForPreTraining(config(size)), GAIN, lambda name: TIED.get(name, without_prefix(name)))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    model = model.to(dtype)
    optimizer = torch.optim.AdamW(decayed(model, 0.01), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    model.train()
    for step in range(STEPS):
        rows = [(BATCH * step + k) % SAMPLES for k in range(BATCH)]
        arguments = padded([ids[i] for i in rows], [segments[i] for i in rows])
        longest = arguments["input_ids"].shape[1]
        target = torch.tensor([labels[i] + [IGNORED] * (longest - len(labels[i])) for i in rows])
        found = model(**arguments, labels=target, next_sentence_label=torch.tensor([breaks[i] for i in rows]))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        losses.append(found.loss.item())
    final = {without_prefix(name): value for name, value in model.state_dict().items()}
    whole = ["cls.seq_relationship.bias", "cls.predictions.transform.LayerNorm.weight", "cls.predictions.bias"]
    starts = ["embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight", "pooler.dense.weight"]
    contents = {
        **size,
        "positions": POSITIONS,
        "layer_norm_eps": 1e-12,
        "gain": GAIN,
        "batch": BATCH,
        "ids": ids,
        "segments": segments,
        "labels": labels,
        "breaks": breaks,
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "learning_rate": 1e-3, "weight_decay": 0.01},
        "losses": losses,
        "final": {name: numbers(final[name].flatten()) for name in whole},
        "final_start": {name: numbers(final[name].flatten()[:64]) for name in starts},
    }
    return losses, contents


def main():
    (double, contents), (single, _) = task(torch.float64), task(torch.float32)
    contents["losses"] = [float(f"{loss:.9g}") for loss in double]
    write("nlp", "pretraining.json", contents)
    report("pretraining.json", single, double)


if __name__ == "__main__":
    main()
