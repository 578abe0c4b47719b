"""FineWeb as shards of tokens, mapped from the disk."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from normball.lab.data.base import Text
from normball.lab.data.root import data_root, foreign, missing

FOLDER = "fineweb"
_MAGIC, _VERSION, _HEADER = 20240520, 1, 256
# 50,257 tokens, rounded up to a multiple of 128 as in the paper.
_VOCABULARY = 50_304


@cache
def load_fineweb(window: int = 1024, epoch: int = 50, test_windows: int = 1024) -> Text:
    """FineWeb in GPT-2 tokens: ``fineweb/*train*.bin`` and ``fineweb/*val*.bin`` in the data root.

    A shard has a header of 256 little-endian 32-bit numbers (20240520, 1, number of tokens), then
    the tokens as 16-bit numbers. Windows do not cross from one shard to the next: their tokens
    are joined by mapping each shard, and a window is drawn from one of them.

    Args:
        window: tokens of an example.
        epoch: steps of an epoch.
        test_windows: windows of the validation shards that are used.

    Raises:
        LabError: if there is no shard, or one is cut off or foreign.
    """
    folder = data_root() / FOLDER
    train, test = (sorted(folder.glob(f"*{part}*.bin")) for part in ("train", "val"))
    if not train or not test:
        raise missing("FineWeb", f"put its shards there as {FOLDER}/*train*.bin and *val*.bin")
    tokens = Shards([read_shard(path, window) for path in train], window)
    return Text(
        tokens,  # type: ignore[arg-type]
        read_shard(test[0], window),
        vocabulary=_VOCABULARY,
        window=window,
        epoch=epoch,
        source=f"FineWeb, {len(train)} shards, {sum(map(len, tokens.shards)):,} tokens, "
        "test windows spread evenly",
        test_windows=test_windows,
    )


class Shards:
    """Several streams of tokens in which a window is found by its start."""

    def __init__(self, shards: list[Tensor], window: int) -> None:
        self.shards = shards
        self._window = window
        self._starts = np.cumsum([0] + [len(shard) - window for shard in shards])

    def __len__(self) -> int:
        """The number of windows, and a window's length more, as for one stream."""
        return int(self._starts[-1]) + self._window

    def __getitem__(self, part: slice) -> Tensor:
        """The tokens from the start that ``part`` names, as many as it has.

        Args:
            part: ``slice(start, start + length)``, at most a window and one token long.
        """
        shard = int(np.searchsorted(self._starts, part.start, side="right")) - 1
        begin = part.start - int(self._starts[shard])
        return self.shards[shard][begin : begin + part.stop - part.start]


def read_shard(path: Path, window: int) -> Tensor:
    """A shard's tokens, uint16 of shape ``(n,)``, mapped and not read.

    A LabError if the header or the length is wrong, or it has less than a window and one more.
    """
    try:
        header = np.fromfile(path, dtype="<i4", count=_HEADER)
        size = path.stat().st_size
    except OSError as error:
        raise foreign(path, f"it cannot be read ({error.strerror})") from None
    if len(header) < _HEADER or header[0] != _MAGIC or header[1] != _VERSION:
        raise foreign(path, f"it does not begin with {_MAGIC}, {_VERSION}")
    count = int(header[2])
    if size != 4 * _HEADER + 2 * count:
        raise foreign(path, f"its {size} bytes do not hold a header and {count} tokens")
    if count <= window + 1:
        raise foreign(path, f"its {count} tokens are too few for windows of {window}")
    tokens = np.memmap(path, dtype="<u2", mode="c", offset=4 * _HEADER, shape=(count,))
    return torch.from_numpy(tokens)
