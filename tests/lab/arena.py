"""The arena's sets in small, made up but learnable, and rows by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from normball.lab.arena import stock
from normball.lab.arena.record import Result, Row, Run

_ROWS = {"train": 200, "choose": 40, "judge": 40}


def images(size: int, top: int) -> stock.Arrays:
    """Every class is a picture of its own, under noise."""
    chance = np.random.default_rng(0)
    kinds = chance.integers(0, top + 1, (10, 1, size, size))
    found = {}
    for part, count in _ROWS.items():
        y = chance.integers(0, 10, count)
        noise = chance.integers(-top // 8, top // 8 + 1, (count, 1, size, size))
        found[f"{part}_x"] = np.clip(kinds[y] + noise, 0, top).astype(np.uint8)
        found[f"{part}_y"] = y.astype(np.int64)
    return found


def stream(vocabulary: int, kind: type) -> stock.Arrays:
    """Few tokens that follow each other nearly always in the same way."""
    chance = np.random.default_rng(0)
    found = {}
    for part, count in (("train", 4000), ("choose", 900), ("judge", 900)):
        tokens = np.arange(count) % 23
        odd = chance.random(count) < 0.1
        found[part] = np.where(odd, chance.integers(0, vocabulary, count), tokens).astype(kind)
    return found | {"vocabulary": np.array(vocabulary)}


def table() -> stock.Arrays:
    chance = np.random.default_rng(0)
    found = {}
    for part, count in _ROWS.items():
        x = chance.standard_normal((count, 26)).astype(np.float32)
        found |= {f"{part}_x": x, f"{part}_y": x[:, 0] - x[:, 1]}
    return found


def base() -> stock.Arrays:
    from normball.lab.arena.nets import GPT2

    state = GPT2(vocabulary=1024, length=64).state_dict()
    return {name: values.numpy() for name, values in state.items()}


SETS = {
    "digits": lambda: images(8, 16),
    "fashion": lambda: images(28, 255),
    "chars": lambda: stream(30, np.uint8),
    "pairs": lambda: stream(1024, np.uint16),
    "words": lambda: stream(6000, np.uint16),
    "manual": lambda: stream(1024, np.uint16),
    "diamonds": table,
    "base": base,
}


def put_sets(folder: Path) -> None:
    """Prepared sets, as ``stock`` reads them."""
    for name, make in SETS.items():
        np.savez(folder / f"{name}-{stock.VERSION}.npz", **make())


def row(
    method: str,
    value: float,
    seed: int,
    score: float,
    choose: float | None = None,
    curve: list[tuple[int, float]] | None = None,
    task: str = "chars",
) -> Row:
    result = Result(
        score=score,
        choose=score if choose is None else choose,
        scores={"loss": score},
        curve=[(50, 2 * score), (100, score)] if curve is None else curve,
        loss=score,
        steps=100,
        seconds=10.0,
        state_bytes=8,
    )
    return Row(Run(task, method, value, seed), result, {"torch": "2.13"}, "A box", None)


def measure(monkeypatch: pytest.MonkeyPatch, points: int) -> None:
    """Let runs be measured so often."""
    monkeypatch.setattr(sys.modules["normball.lab.arena.training"], "POINTS", points)
