"""Twenty training steps of a small ResNet and of small encoders: the loss of each step and some of the final state."""

import math

import torch
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import BertForSequenceClassification

from formula import fill, numbers, write
from language import (
    CLASSES,
    GAIN,
    MEMBERS,
    SIZES,
    config,
    member,
    member_arguments,
    member_sequences,
    padded,
    sequences,
    without_prefix,
)
from vision import images

STEPS = 20
BATCH = 8
SAMPLES = 32
# Those that are seen together where every step sees all.
TOGETHER = 16
PROBLEMS = {"labels": "multi_label_classification", "values": "regression"}


def decayed(model, decay):
    """Two groups of parameters: matrices, kernels and tables with weight decay, all others without."""
    parameters = list(model.parameters())
    heavy = [p for p in parameters if p.dim() > 1]
    light = [p for p in parameters if p.dim() <= 1]
    return [{"params": heavy, "weight_decay": decay}, {"params": light, "weight_decay": 0.0}]


def train(model, optimizer, loss_of):
    """Step t sees the samples (8 t + 0 … 8 t + 7) mod 32."""
    losses = []
    model.train()
    for step in range(STEPS):
        rows = [(BATCH * step + k) % SAMPLES for k in range(BATCH)]
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def report(name, single, double):
    """How far single precision strays by itself: the tolerance of a test must be well above this."""
    worst = max(abs(s - d) / abs(d) for s, d in zip(single, double))
    print(f"  {name}: loss {single[0]:.4f} -> {single[-1]:.4f}; float32 against float64: {worst:.1e}")


def resnet(dtype):
    gain = math.sqrt(2)
    model = fill(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), gain).to(dtype)
    batch = images(SAMPLES, 64).to(dtype)
    targets = torch.tensor([(3 * i + 1) % 10 for i in range(SAMPLES)])
    optimizer = torch.optim.SGD(decayed(model, 1e-4), lr=0.01, momentum=0.9)
    losses = train(
        model, optimizer, lambda rows: torch.nn.functional.cross_entropy(model(batch[rows]), targets[rows])
    )
    final = model.state_dict()
    contents = {
        "model": "torchvision ResNet(BasicBlock, [1, 1, 1, 1])",
        "gain": gain,
        "classes": 10,
        "samples": SAMPLES,
        "size": 64,
        "batch": BATCH,
        "targets": targets.tolist(),
        "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.01, "weight_decay": 1e-4},
        "losses": losses,
        "final": {
            "layer1.0.bn1.running_mean": numbers(final["layer1.0.bn1.running_mean"]),
            "layer1.0.bn1.running_var": numbers(final["layer1.0.bn1.running_var"]),
            "layer1.0.bn1.weight": numbers(final["layer1.0.bn1.weight"]),
            "fc.bias": numbers(final["fc.bias"]),
        },
        "final_start": {"conv1.weight": numbers(final["conv1.weight"].flatten()[:64])},
    }
    return losses, contents


def bert(dtype):
    size = SIZES["small"]
    lengths = [3 + (5 * i) % 10 for i in range(SAMPLES)]
    ids, segments = sequences(lengths, size["vocabulary"])
    targets = torch.tensor([i % CLASSES for i in range(SAMPLES)])
    model = fill(BertForSequenceClassification(config(size)), GAIN, without_prefix).to(dtype)
    optimizer = torch.optim.AdamW(decayed(model, 0.01), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)

    def loss_of(rows):
        arguments = padded([ids[i] for i in rows], [segments[i] for i in rows])
        return torch.nn.functional.cross_entropy(model(**arguments).logits, targets[rows])

    losses = train(model, optimizer, loss_of)
    final = {without_prefix(name): value for name, value in model.state_dict().items()}
    whole = ["classifier.bias", "pooler.dense.bias", "encoder.layer.0.attention.output.LayerNorm.weight"]
    starts = ["embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight"]
    contents = {
        **size,
        "positions": 64,
        "layer_norm_eps": 1e-12,
        "gain": GAIN,
        "classes": CLASSES,
        "batch": BATCH,
        "ids": ids,
        "segments": segments,
        "targets": targets.tolist(),
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "learning_rate": 1e-3, "weight_decay": 0.01},
        "losses": losses,
        "final": {name: numbers(final[name].flatten()) for name in whole},
        "final_start": {name: numbers(final[name].flatten()[:64]) for name in starts},
    }
    return losses, contents


def of_member(name, whole, starts):
    """The member of the BERT family of this name; `whole` and the first numbers of `starts` are kept of its state."""

    def task(dtype):
        values = MEMBERS[name]
        model = member(values, dtype)
        ids, segments = member_sequences(values, [3 + (5 * i) % 30 for i in range(SAMPLES)])
        targets = torch.tensor([i % CLASSES for i in range(SAMPLES)])
        optimizer = torch.optim.AdamW(decayed(model, 0.01), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)

        def loss_of(rows):
            arguments = member_arguments(model, [ids[i] for i in rows], [segments[i] for i in rows])
            return torch.nn.functional.cross_entropy(model(**arguments).logits, targets[rows])

        losses = train(model, optimizer, loss_of)
        prefix = f"{model.base_model_prefix}."
        final = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
        contents = {
            "config": values,
            "gain": GAIN,
            "classes": CLASSES,
            "batch": BATCH,
            "ids": ids,
            "segments": segments,
            "targets": targets.tolist(),
            "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "learning_rate": 1e-3, "weight_decay": 0.01},
            "losses": losses,
            "final": {key: numbers(final[key].flatten()) for key in whole},
            "final_start": {key: numbers(final[key].flatten()[:64]) for key in starts},
        }
        return losses, contents

    return task


def of_numbers(name, kind, outputs, whole, starts):
    """Labels, any number of which a sample has, or measured values, by the loss that `transformers` takes for the
    configuration's `problem_type`. Every step sees all samples, so that their order is of no importance."""

    def task(dtype):
        values = MEMBERS[name]
        model = member(values, dtype, num_labels=outputs, problem_type=PROBLEMS[kind])
        lengths = [3 + (5 * i) % 30 for i in range(TOGETHER)]
        ids, segments = member_sequences(values, lengths)
        if kind == "labels":
            targets = [[int((3 * i + 2 * j + i * j) % 4 == 0) for j in range(outputs)] for i in range(TOGETHER)]
        else:
            targets = [[((7 * i + 3 * j + i * j) % 17 - 8) / 4 for j in range(outputs)] for i in range(TOGETHER)]
        optimizer = torch.optim.AdamW(decayed(model, 0.01), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        numbered = torch.tensor(targets, dtype=dtype)
        losses = train(model, optimizer, lambda _: model(**member_arguments(model, ids, segments), labels=numbered).loss)
        prefix = f"{model.base_model_prefix}."
        final = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
        contents = {
            "kind": kind,
            "config": values,
            "outputs": outputs,
            "ids": ids,
            "segments": segments,
            "targets": targets,
            "losses": losses,
            "final": {key: numbers(final[key].flatten()) for key in whole},
            "final_start": {key: numbers(final[key].flatten()[:64]) for key in starts},
        }
        return losses, contents

    return task


def numbered():
    """Tasks whose targets are numbers, in one file."""
    roberta = "classifier.out_proj.bias", "classifier.dense.bias", "encoder.layer.2.output.LayerNorm.weight"
    words = ["embeddings.word_embeddings.weight", "classifier.out_proj.weight"]
    tasks = {
        "labels of XLM-R": of_numbers("xlm_roberta", "labels", 5, roberta, words),
        "a value of RoBERTa": of_numbers("roberta", "values", 1, roberta, words),
        "three values of DistilBERT": of_numbers(
            "distilbert", "values", 3, ["classifier.bias", "pre_classifier.bias"],
            ["embeddings.word_embeddings.weight", "classifier.weight"],
        ),
    }
    found = []
    for what, task in tasks.items():
        (double, contents), (single, _) = task(torch.float64), task(torch.float32)
        found.append({"name": what, **contents, "losses": [float(f"{loss:.9g}") for loss in double]})
        report(what, single, double)
    optimizer = {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "learning_rate": 1e-3, "weight_decay": 0.01}
    write("nlp", "training_numbers.json", {"gain": GAIN, "optimizer": optimizer, "tasks": found})


ALBERT = of_member(
    "albert",
    ["classifier.bias", "pooler.bias", "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.weight"],
    ["embeddings.word_embeddings.weight", "encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight"],
)
MPNET = of_member(
    "mpnet",
    ["classifier.dense.bias", "classifier.out_proj.bias", "encoder.relative_attention_bias.weight"],
    ["embeddings.position_embeddings.weight", "encoder.layer.1.attention.attn.q.weight"],
)
TASKS = [
    ("cv", "training_resnet.json", resnet),
    ("nlp", "training_bert.json", bert),
    ("nlp", "training_albert.json", ALBERT),
    ("nlp", "training_mpnet.json", MPNET),
]


def main():
    for crate, name, task in TASKS:
        (double, contents), (single, _) = task(torch.float64), task(torch.float32)
        contents["losses"] = [float(f"{loss:.9g}") for loss in double]
        write(crate, name, contents)
        report(name, single, double)
    numbered()


if __name__ == "__main__":
    main()
