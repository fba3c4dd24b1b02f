"""Reference values of the transferability scores: crates/core/tests/fixtures/transferability.json.

Run from the repository root, needs numpy, scikit-learn and torch (of formula.py):

    venv/bin/python xtask/parity/transferability.py

Inputs come from formula.py. With u the sequence called by the name in quotes, case `name`, in float32:
  label[i]       = floor(u_"name.label"[i] * classes)
  feature[i, j]  = centred_"name.feature" (scale 1) + centred_"name.mean"[label, j] (scale 0.5);
                   where the case says "constant", the last two columns are j mod 2
  logits[i, z]   = centred_"name.logit" (scale 3); the source head's probabilities are their softmax in float64
Values follow the published formulas and the authors' or TLlib's implementations of them, step by step:
  LogME           the authors' fixed point (eleven iterations, tolerance 1e-3, stabilizers 1e-5), with the determinant
                  over all directions: the authors' code leaves out those without energy, which matters only for
                  features wider than there are samples, or constant ones
  H-score         TLlib's regularized form, with scikit-learn's Ledoit-Wolf covariance
  TransRate       TLlib, eps 1e-4;  LEEP, NCE: TLlib
  k-NN            scikit-learn, leaving one out, cosine distance
  ridge           scikit-learn's Ridge on -1 and 1, refitted without each sample
"""

import json

import numpy
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from formula import ROOT, centred, uniform

CASES = {
    "tall": dict(samples=60, width=12, classes=3, sources=7, constant=0),
    "wide": dict(samples=24, width=40, classes=2, sources=5, constant=0),
    "flat": dict(samples=50, width=10, classes=4, sources=3, constant=1),
}


def inputs(name, samples, width, classes, sources, constant):
    labels = numpy.floor(uniform(f"{name}.label", samples) * classes).astype(int)
    means = centred(f"{name}.mean", (classes, width), 0.5).numpy()
    features = centred(f"{name}.feature", (samples, width), 1.0).numpy() + means[labels]
    if constant:
        features[:, width - 2 :] = numpy.arange(width - 2, width) % 2
    logits = centred(f"{name}.logit", (samples, sources), 3.0).numpy().astype(numpy.float64)
    powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return features.astype(numpy.float64), labels, powers / powers.sum(axis=1, keepdims=True)


def logme(x, y):
    n, d = x.shape
    u, s, _ = numpy.linalg.svd(x, full_matrices=False)
    kept = s > 1e-10
    u, sigma = u[:, kept], s[kept] ** 2
    scores = []
    for c in range(y.max() + 1):
        target = (y == c).astype(float)
        parts = (u.T @ target) ** 2
        outside = (target**2).sum() - parts.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * parts / (t + sigma) ** 2).sum()
            r2 = (parts / (1 + sigma / t) ** 2).sum() + outside
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (r2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        determinant = numpy.log(alpha + beta * sigma).sum() + (d - len(sigma)) * numpy.log(alpha)
        evidence = d / 2 * numpy.log(alpha) + n / 2 * numpy.log(beta) - determinant / 2
        scores.append((evidence - beta / 2 * r2 - alpha / 2 * m2 - n / 2 * numpy.log(2 * numpy.pi)) / n)
    return numpy.mean(scores)


def h_score(x, y):
    x = x - x.mean(axis=0)
    estimate = LedoitWolf().fit(x)
    between = numpy.stack([x[y == c].mean(axis=0) for c in y])
    between = numpy.cov(between, rowvar=False)
    inverse = numpy.linalg.pinv(estimate.covariance_, rcond=1e-15)
    return numpy.trace(inverse @ ((1 - estimate.shrinkage_) * between))


def coding_rate(x, eps=1e-4):
    return 0.5 * numpy.linalg.slogdet(numpy.eye(x.shape[1]) + x.T @ x / (len(x) * eps))[1]


def transrate(x, y):
    x = x - x.mean(axis=0)
    return coding_rate(x) - numpy.mean([coding_rate(x[y == c]) for c in range(y.max() + 1)])


def leep(p, y):
    joint = numpy.stack([p[y == c].sum(axis=0) for c in range(y.max() + 1)]) / len(y)
    given = joint / joint.sum(axis=0)
    return numpy.log((p @ given.T)[numpy.arange(len(y)), y]).mean()


def nce(z, y):
    joint = numpy.zeros((y.max() + 1, z.max() + 1))
    numpy.add.at(joint, (y, z), 1 / len(y))
    marginal = joint.sum(axis=0)
    given = joint[:, marginal > 0] / marginal[marginal > 0] + 1e-20
    return (marginal[marginal > 0] * (given * numpy.log(given)).sum(axis=0)).sum()


def left_out(x, y, penalty):
    def predict(c):
        return cross_val_predict(Ridge(alpha=penalty, solver="cholesky"), x, numpy.where(y == c, 1.0, -1.0), cv=LeaveOneOut())

    return numpy.stack([predict(c) for c in range(y.max() + 1)], axis=1)


def ridge(x, y):
    centred_x = x - x.mean(axis=0)
    unit = (centred_x**2).sum() / min(x.shape)
    tried = []
    for half_decades in range(-8, 5):
        penalty = unit * 10 ** (0.5 * half_decades)
        predictions = left_out(x, y, penalty)
        truth = numpy.where(y[:, None] == numpy.arange(y.max() + 1), 1.0, -1.0)
        tried.append((((predictions - truth) ** 2).sum(), penalty, (predictions.argmax(axis=1) == y).mean()))
    return min(tried)


def main():
    fixture = {}
    for name, case in CASES.items():
        x, y, p = inputs(name, **case)
        assert set(y) == set(range(case["classes"])), name
        values = dict(case)
        values["logme"], values["h_score"], values["transrate"] = logme(x, y), h_score(x, y), transrate(x, y)
        values["leep"], values["nce"] = leep(p, y), nce(p.argmax(axis=1), y)
        for k in (1, 5):
            neighbours = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
            values[f"knn_{k}"] = (cross_val_predict(neighbours, x, y, cv=LeaveOneOut()) == y).mean()
        values["ridge_penalty"] = 2.5
        values["ridge_left_out"] = left_out(x, y, 2.5)[:6].tolist()
        _, values["ridge_chosen_penalty"], values["ridge_accuracy"] = ridge(x, y)
        fixture[name] = {key: float(v) if isinstance(v, numpy.floating) else v for key, v in values.items()}
    path = ROOT / "crates" / "core" / "tests" / "fixtures" / "transferability.json"
    path.write_text(json.dumps(fixture, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
