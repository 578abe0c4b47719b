"""CIFAR-10, from its binary files, or from a pack of JPEG files."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normball.lab.data.base import Images
from normball.lab.data.root import data_root, foreign, missing, read_bytes
from normball.lab.errors import LabError

BINARY = "cifar-10-batches-bin"
PACK = "cifar10-jpeg.npz"
# As its author published it.
ARCHIVE = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
}
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
BINARY_FILES = tuple(f"{BINARY}/{name}" for name in (*_TRAIN, _TEST))
_PIXELS = 3072
_CLASSES = 10
# Of the training images, red, green and blue, on the scale of 0 to 255.
_MEAN = (125.31, 122.95, 113.87)
_DEVIATION = (62.99, 62.09, 66.70)
_Pair = tuple[Tensor, Tensor]


@cache
def load_cifar10(train: int | None = None, test: int | None = None, shift: int = 2) -> Images:
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels in 10 classes.

    Looked for in the data root, in this order: ``cifar-10-batches-bin``, ``cifar10-jpeg.npz`` (JPEG
    files, re-encoded and so not equal bit for bit, which ``source`` says). The published pickles
    hold the same images and are not read.

    Args:
        train: how many training images, a random choice that is always the same; all when None.
        test: how many test images, likewise.
        shift: augmentation, as in ``Images``.

    Returns:
        Inputs are uint8 of shape ``(n, 3, 32, 32)``, scaled to mean 0 and deviation 1 when used.

    Raises:
        LabError: if a file is missing, cut off, or something else.
    """
    root = data_root()
    for name, read in ((BINARY, _binary), (PACK, _pack)):
        if (root / name).exists():
            (train_x, train_y), (test_x, test_y), source = read(root / name, train, test)
            break
    else:
        raise missing(
            "CIFAR-10",
            f"run `normball fetch cifar10`, or put the folder {BINARY} of the binary version there",
        )
    return Images(
        train_x, train_y, test_x, test_y, source, mean=_MEAN, deviation=_DEVIATION, shift=shift
    )


_Read = tuple[_Pair, _Pair, str]


def _binary(folder: Path, train: int | None, test: int | None) -> _Read:
    pairs = [_read_binary(folder / name) for name in _TRAIN]
    joined = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    return _cut(joined, train), _cut(_read_binary(folder / _TEST), test), "CIFAR-10"


def _cut(pair: _Pair, count: int | None) -> _Pair:
    chosen = _chosen(len(pair[1]), count)
    return pair[0][chosen], pair[1][chosen]


def _chosen(total: int, count: int | None) -> Tensor:
    """Which of the images are used: a random choice, because files may be sorted by class."""
    if count is None:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values


def _read_binary(path: Path) -> _Pair:
    content = np.frombuffer(read_bytes(path), dtype=np.uint8)
    if not len(content) or len(content) % (_PIXELS + 1):
        raise foreign(path, f"its {len(content)} bytes are not a multiple of {_PIXELS + 1}")
    rows = content.reshape(-1, _PIXELS + 1)
    if rows[:, 0].max() >= _CLASSES:
        raise foreign(path, f"a label is not a class from 0 to {_CLASSES - 1}")
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(
        rows[:, 0].astype(np.int64)
    )


def _pack(path: Path, train: int | None, test: int | None) -> _Read:
    try:
        # Opened here: where it is no archive, NumPy would leave the file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            parts = [
                _decoded(path, held, part, n) for part, n in (("train", train), ("test", test))
            ]
    except LabError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise foreign(path, f"it is no pack of JPEG files ({error})") from None
    return parts[0], parts[1], "CIFAR-10, JPEG re-encoded"


def _decoded(path: Path, held: Any, part: str, count: int | None) -> _Pair:
    from PIL import Image

    files, offsets, labels = (held[f"{part}_{what}"] for what in ("jpeg", "offset", "label"))
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (files, offsets, labels)):
        raise foreign(path, f"its {part} arrays are not lists of whole numbers")
    labels = labels.astype(np.int64)
    known = len(labels) and 0 <= labels.min() <= labels.max() < _CLASSES
    if not known or len(offsets) != len(labels) + 1:
        raise foreign(path, f"its {part} labels and offsets do not fit each other")
    chosen = _chosen(len(labels), count).numpy()
    images = np.empty((len(chosen), 32, 32, 3), dtype=np.uint8)
    for place, index in enumerate(chosen):
        content = files[offsets[index] : offsets[index + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except Exception as error:
            raise foreign(path, f"its {part} image {index} is no JPEG file ({error})") from None
        if pixels.shape != (32, 32, 3):
            raise foreign(path, f"its {part} image {index} has the shape {pixels.shape}")
        images[place] = pixels
    return (
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels[chosen]),
    )
