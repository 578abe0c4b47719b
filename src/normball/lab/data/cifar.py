"""CIFAR-10, from the user's folder in either published form, or from a pack of JPEG files."""

import io
import math
import pickle
import pickletools
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from normball.lab.data.base import Images
from normball.lab.data.root import data_root, foreign, missing, read_bytes

PICKLES = "cifar-10-batches-py"
BINARY = "cifar-10-batches-bin"
PACK = "cifar10-jpeg.npz"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_PIXELS = 3072
_CLASSES = 10
_MEMORY = 1_000_000
# Of the training images, red, green and blue, on the scale of 0 to 255.
_MEAN = (125.31, 122.95, 113.87)
_DEVIATION = (62.99, 62.09, 66.70)
_Pair = tuple[Tensor, Tensor]


@cache
def load_cifar10(train: int | None = None, test: int | None = None, shift: int = 2) -> Images:
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels in 10 classes.

    Looked for in the data root, in this order: ``cifar-10-batches-py`` (pickles),
    ``cifar-10-batches-bin`` (binary), ``cifar10-jpeg.npz`` (JPEG files, re-encoded and so not
    equal bit for bit, which ``source`` says).

    Args:
        train: how many training images, chosen by chance but always the same; all when None.
        test: how many test images, likewise.
        shift: augmentation, as in ``Images``.

    Returns:
        Inputs are uint8 of shape ``(n, 3, 32, 32)``, scaled to mean 0 and deviation 1 when used.

    Raises:
        LabError: if a file is missing, cut off, or something else.
    """
    root = data_root()
    for name, read in ((PICKLES, _pickles), (BINARY, _binary), (PACK, _pack)):
        if (root / name).exists():
            (train_x, train_y), (test_x, test_y), source = read(root / name, train, test)
            break
    else:
        raise missing("CIFAR-10", f"put the folder {PICKLES} or {BINARY} there, unpacked")
    return Images(
        train_x, train_y, test_x, test_y, source, mean=_MEAN, deviation=_DEVIATION, shift=shift
    )


_Read = tuple[_Pair, _Pair, str]


def _pickles(folder: Path, train: int | None, test: int | None) -> _Read:
    pairs = [_read_pickle(folder / name) for name in _TRAIN]
    return _cut(_joined(pairs), train), _cut(_read_pickle(folder / _TEST), test), "CIFAR-10"


def _binary(folder: Path, train: int | None, test: int | None) -> _Read:
    pairs = [_read_binary(folder / f"{name}.bin") for name in _TRAIN]
    return (
        _cut(_joined(pairs), train),
        _cut(_read_binary(folder / f"{_TEST}.bin"), test),
        "CIFAR-10",
    )


def _joined(pairs: list[_Pair]) -> _Pair:
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _cut(pair: _Pair, count: int | None) -> _Pair:
    chosen = _chosen(len(pair[1]), count)
    return pair[0][chosen], pair[1][chosen]


def _chosen(total: int, count: int | None) -> Tensor:
    """Which of so many images are used: files may be sorted by class, so chance chooses."""
    if count is None:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values


class _Array:
    """What a pickled array says of itself; NumPy would trust it, and a damaged one crashes it."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, _, self.content = state

    def bytes_of(self) -> bytes:
        """The values; Python 2 wrote them as a text of the first 256 characters."""
        content = self.content
        return content.encode("latin1") if isinstance(content, str) else bytes(content)


class _Dtype:
    def __init__(self, *words: Any) -> None:
        self.words = words

    def __setstate__(self, state: Any) -> None:
        """A byte has no order and no fields."""


def _array(*_: Any) -> _Array:
    return _Array()


def _bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds what a pickle of CIFAR-10 is made of, and nothing else."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy._core.multiarray", "_reconstruct"): _array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._KNOWN[module, name]


def _refuse_waste(content: bytes) -> None:
    """A torn number can make the unpickler set aside gigabytes for its memory."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > _MEMORY:
            raise pickle.UnpicklingError(f"it has {argument} parts")


def _read_pickle(path: Path) -> _Pair:
    content = read_bytes(path)
    try:
        _refuse_waste(content)
        held = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        array, labels = held["data"], held["labels"]
        pixels = np.frombuffer(array.bytes_of(), dtype=np.uint8)
        shape, kind = tuple(array.shape), array.dtype.words[0]
    except Exception as error:  # a broken pickle can raise anything
        raise foreign(path, f"it is no pickle of CIFAR-10 ({error})") from None
    if (
        kind != "u1"
        or shape != (len(pixels) // _PIXELS, _PIXELS)
        or pixels.size != math.prod(shape)
    ):
        raise foreign(path, f"its 'data' is of type {kind} and shape {shape}, not (n, {_PIXELS})")
    if not isinstance(labels, list) or len(labels) != shape[0] or not labels:
        raise foreign(path, f"its 'labels' are no list of {shape[0]}")
    if not all(type(label) is int and 0 <= label < _CLASSES for label in labels):
        raise foreign(path, f"a label is not a class from 0 to {_CLASSES - 1}")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.tensor(labels)


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
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise foreign(path, f"it is no pack of JPEG files ({error})") from None
    return parts[0], parts[1], "CIFAR-10, JPEG re-encoded"


def _decoded(path: Path, held: Any, part: str, count: int | None) -> _Pair:
    from PIL import Image, UnidentifiedImageError

    files, offsets = held[f"{part}_jpeg"], held[f"{part}_offset"]
    labels = held[f"{part}_label"].astype(np.int64)
    if not len(labels) or labels.max() >= _CLASSES or len(offsets) != len(labels) + 1:
        raise foreign(path, f"its {part} labels and offsets do not fit each other")
    chosen = _chosen(len(labels), count).numpy()
    images = np.empty((len(chosen), 32, 32, 3), dtype=np.uint8)
    for place, index in enumerate(chosen):
        content = files[offsets[index] : offsets[index + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise foreign(path, f"its {part} image {index} is no JPEG file ({error})") from None
        if pixels.shape != (32, 32, 3):
            raise foreign(path, f"its {part} image {index} has the shape {pixels.shape}")
        images[place] = pixels
    return (
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels[chosen]),
    )
