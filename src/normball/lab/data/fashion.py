"""Fashion-MNIST, from its IDX files."""

import gzip
import struct
import zlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from normball.lab.data.base import Images
from normball.lab.data.root import check_digest, data_root, foreign, missing, read_bytes

FOLDER = "fashion-mnist"
# Of the compressed files as Zalando Research published them.
FILES = {
    "train-images-idx3-ubyte": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
# Of the training images, on the scale of 0 to 255.
_MEAN, _DEVIATION = 72.94, 90.02


@cache
def load_fashion_mnist() -> Images:
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels in 10 classes, as published.

    Inputs are uint8 of shape ``(n, 1, 28, 28)``, scaled to mean 0 and deviation 1 when used. A
    LabError if a file is missing, cut off, or another one.
    """
    train_x, train_y, test_x, test_y = (_read(name) for name in FILES)
    for images, labels in ((train_x, train_y), (test_x, test_y)):
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise foreign(
                data_root() / FOLDER, f"images {tuple(images.shape)}, labels {tuple(labels.shape)}"
            )
    return Images(
        train_x.unsqueeze(1),
        train_y.long(),
        test_x.unsqueeze(1),
        test_y.long(),
        source="Fashion-MNIST",
        mean=(_MEAN,),
        deviation=(_DEVIATION,),
    )


def _read(name: str) -> Tensor:
    folder = data_root() / FOLDER
    packed = folder / f"{name}.gz"
    if packed.is_file():
        content = read_bytes(packed)
        check_digest(packed, content, FILES[name])
        try:
            return read_idx(packed, gzip.decompress(content))
        except (OSError, EOFError, zlib.error) as error:
            raise foreign(packed, f"it does not unpack ({error})") from None
    plain = folder / name
    if not plain.is_file():
        raise missing(
            "Fashion-MNIST",
            f"run `normball fetch fashion-mnist`, or put {name} or {name}.gz into {folder}",
        )
    return read_idx(plain, read_bytes(plain))


def read_idx(path: Path, content: bytes) -> Tensor:
    """The array of an IDX file of bytes.

    Args:
        content: two zero bytes, the type 8, the number of dimensions, each dimension as a
            big-endian 32-bit number, then the values.

    Returns:
        uint8, of the file's shape.

    Raises:
        LabError: if the header or the length is another one.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise foreign(path, "it does not begin like an IDX file of bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < start:
        raise foreign(path, f"its header of {dimensions} dimensions is cut off")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    total = 1
    for size in shape:
        total *= size
    if len(content) - start != total:
        raise foreign(
            path, f"it holds {len(content) - start} values where its shape {shape} has {total}"
        )
    if total == 0:
        raise foreign(path, f"its shape {shape} is empty")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)
