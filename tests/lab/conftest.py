"""Small data in the published forms, made up."""

import gzip
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind\n" * 40


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("NORMBALL_DATA", str(folder))
    from normball.lab import data

    for name in data.__all__:
        clear = getattr(getattr(data, name), "cache_clear", None)
        if clear is not None:
            clear()
    return folder


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def put_fashion(root: Path) -> dict[str, np.ndarray]:
    """Uncompressed IDX files of a few images."""
    chance = np.random.default_rng(0)
    folder = root / "fashion-mnist"
    folder.mkdir()
    arrays = {}
    for part, count in (("train", 40), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte"] = chance.integers(0, 256, (count, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte"] = chance.integers(0, 10, count)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    return arrays


def cifar_rows(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 256, (count, 3072)).astype(np.uint8)
    return pixels, chance.integers(0, 10, count).tolist()


def put_cifar_binary(root: Path, count: int = 6) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        pixels, labels = cifar_rows(count, number)
        rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def put_cifar_pack(root: Path, train: int = 30, test: int = 20) -> dict[str, np.ndarray]:
    """The same form as the pack of JPEG files; returns what its decoder must give."""
    held, expected = {}, {}
    for part, count, seed in (("train", train, 1), ("test", test, 2)):
        chance = np.random.default_rng(seed)
        files = []
        pixels = []
        for _ in range(count):
            smooth = np.kron(chance.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
            target = io.BytesIO()
            Image.fromarray(smooth.astype(np.uint8)).save(target, "JPEG", quality=90)
            files.append(target.getvalue())
            pixels.append(np.asarray(Image.open(io.BytesIO(target.getvalue()))))
        held[f"{part}_jpeg"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        held[f"{part}_offset"] = np.cumsum([0] + [len(f) for f in files]).astype(np.int64)
        held[f"{part}_label"] = (np.arange(count) % 10).astype(np.uint8)
        expected[part] = np.stack(pixels)
    np.savez(root / "cifar10-jpeg.npz", **held)
    return expected


def put_text(root: Path) -> None:
    (root / "text.txt").write_text(TEXT, encoding="utf-8")


def put_shards(root: Path, sizes: tuple[int, ...] = (300, 500)) -> list[np.ndarray]:
    folder = root / "fineweb"
    folder.mkdir()
    chance = np.random.default_rng(0)
    shards = []
    names = [f"fineweb_train_{n:06d}.bin" for n in range(len(sizes))] + ["fineweb_val_000000.bin"]
    for name, size in zip(names, (*sizes, 400), strict=True):
        tokens = chance.integers(0, 50_257, size).astype("<u2")
        header = np.zeros(256, dtype="<i4")
        header[:3] = 20240520, 1, size
        (folder / name).write_bytes(header.tobytes() + tokens.tobytes())
        shards.append(tokens)
    return shards


def put_images(root: Path, folder: str = "imagenet") -> None:
    chance = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            place = root / folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def packed(content: bytes) -> bytes:
    return gzip.compress(content)


@pytest.fixture
def sets(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The arena's prepared sets in small."""
    from normball.lab.arena import stock
    from tests.lab.arena import put_sets

    folder = tmp_path_factory.mktemp("sets")
    put_sets(folder)
    monkeypatch.setenv(stock.VARIABLE, str(folder))
    stock.stock.cache_clear()
    yield folder
    stock.stock.cache_clear()
