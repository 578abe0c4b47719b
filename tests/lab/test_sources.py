"""Every source of data: read as published, refused by name when it is something else."""

import importlib
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch

from normball.lab.data import (
    Images,
    load_cifar10,
    load_fashion_mnist,
    load_fineweb,
    load_imagenet,
    load_shakespeare,
)
from normball.lab.data.base import Text
from normball.lab.data.root import data_root
from normball.lab.errors import LabError
from tests.lab import conftest as put


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("system", "given", "expected"),
    [
        ("any", {"NORMBALL_DATA": "/somewhere"}, "/somewhere"),
        ("unix", {}, ".local/share/normball"),
        ("unix", {"XDG_DATA_HOME": "/shared"}, "/shared/normball"),
        ("macos", {}, "Library/Application Support/normball"),
        ("windows", {}, "AppData/normball"),
    ],
)
def test_the_root_is_the_variable_or_the_systems_place(
    monkeypatch: pytest.MonkeyPatch, system: str, given: dict[str, str], expected: str
) -> None:
    for name in ("NORMBALL_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if system != "any":
        module = importlib.import_module(f"platformdirs.{system}")
        kind = getattr(module, {"macos": "MacOS"}.get(system, system.capitalize()))
        monkeypatch.setattr(platformdirs, "PlatformDirs", kind)
    if system == "windows":
        monkeypatch.setattr(module, "get_win_folder", lambda _: str(Path.home() / "AppData"))
    assert data_root() == Path.home() / expected


@pytest.mark.parametrize(
    ("load", "advice"),
    [
        (load_fashion_mnist, "normball fetch fashion-mnist"),
        (load_cifar10, "normball fetch cifar10.*cifar-10-batches-bin"),
        (load_shakespeare, "normball fetch shakespeare"),
        (load_fineweb, "fineweb/.*train.*bin"),
        (load_imagenet, "imagenet/train/CLASS"),
    ],
)
def test_missing_data_says_what_to_put_where(root: Path, load, advice: str) -> None:
    with pytest.raises(LabError, match=rf"under {root}: .*{advice}.*NORMBALL_DATA"):
        load()


def test_fashion_mnist_is_what_the_files_hold(root: Path) -> None:
    arrays = put.put_fashion(root)
    data = load_fashion_mnist()
    assert np.array_equal(data.train_x[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(data.test_y.numpy(), arrays["t10k-labels-idx1-ubyte"])
    assert data.scaled(data.train_x).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "holds 31359 values where its shape"),
        (lambda b: b + b"x", "31361 values"),
        (lambda b: b"\x1f" + b[1:], "does not begin like an IDX file"),
        (lambda b: b[:6], "cut off"),
        (lambda b: b"", "does not begin"),
    ],
)
def test_a_foreign_idx_file_is_refused_by_name(root: Path, change, message: str) -> None:
    put.put_fashion(root)
    file = root / "fashion-mnist" / "train-images-idx3-ubyte"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(LabError, match=rf"{file} is not usable: .*{message}"):
        load_fashion_mnist()


def test_another_compressed_file_is_refused_by_its_digest(root: Path) -> None:
    put.put_fashion(root)
    file = root / "fashion-mnist" / "train-images-idx3-ubyte"
    beside = file.with_name(file.name + ".gz")
    beside.write_bytes(put.packed(file.read_bytes()))
    with pytest.raises(LabError, match=r"train-images-idx3-ubyte.gz .*SHA-256"):
        load_fashion_mnist()


def test_cifar_is_what_the_binary_files_hold(root: Path) -> None:
    put.put_cifar_binary(root)
    data = load_cifar10.__wrapped__()
    parts = [put.cifar_rows(6, number) for number in range(6)]
    pixels = np.concatenate([pixels for pixels, _ in parts]).reshape(36, 3, 32, 32)
    labels = [label for _, some in parts for label in some]
    assert np.array_equal(data.train_x.numpy(), pixels[:30])
    assert np.array_equal(data.test_x.numpy(), pixels[30:])
    assert [*data.train_y.tolist(), *data.test_y.tolist()] == labels
    assert data.source == "CIFAR-10"


def test_the_pack_of_jpegs_says_that_it_is_one(root: Path) -> None:
    expected = put.put_cifar_pack(root)
    data = load_cifar10.__wrapped__()
    assert np.array_equal(data.train_x.permute(0, 2, 3, 1).numpy(), expected["train"])
    assert np.array_equal(data.test_x.permute(0, 2, 3, 1).numpy(), expected["test"])
    assert "re-encoded" in data.source


def test_a_subset_of_cifar_is_a_fixed_sample_of_the_whole(root: Path) -> None:
    put.put_cifar_pack(root)
    whole = load_cifar10.__wrapped__()
    some, again = load_cifar10.__wrapped__(10, 5), load_cifar10.__wrapped__(10, 5)
    assert torch.equal(some.train_x, again.train_x)
    where = [int((whole.train_x == x).flatten(1).all(1).nonzero()[0]) for x in some.train_x]
    assert len(set(where)) == 10
    assert where != list(range(10))
    assert torch.equal(whole.train_y[where], some.train_y)
    assert len(some.test_y) == 5


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"\x0b" + b"x" * 3072])
def test_a_foreign_binary_batch_is_refused(root: Path, content: bytes) -> None:
    put.put_cifar_binary(root)
    (root / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(content)
    with pytest.raises(LabError, match=r"test_batch.bin is not usable"):
        load_cifar10()


@pytest.mark.parametrize("cut", [0, 10, 400, -30])
def test_a_torn_pack_is_refused(root: Path, cut: int) -> None:
    put.put_cifar_pack(root)
    file = root / "cifar10-jpeg.npz"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(LabError, match=r"cifar10-jpeg.npz is not usable"):
        load_cifar10()


def test_augmented_images_are_shifted_and_flipped_originals() -> None:
    x = torch.arange(2 * 36, dtype=torch.float32).view(2, 1, 6, 6)
    data = Images(x, torch.tensor([0, 1]), x, torch.tensor([0, 1]), "made up", shift=2)
    padded = torch.nn.functional.pad(x, (2,) * 4, mode="reflect")
    seen = set()
    for seed in range(60):
        for images, labels in data.batches(2, generator(seed)):
            for image, label in zip(images, labels, strict=True):
                found = [
                    (top, left, flipped)
                    for flipped in (False, True)
                    for top in range(5)
                    for left in range(5)
                    if torch.equal(
                        image,
                        torch.nn.functional.pad(
                            x[label].flip(-1) if flipped else x[label], (2,) * 4, mode="reflect"
                        )[:, top : top + 6, left : left + 6],
                    )
                ]
                assert found, padded.shape
                seen.update(found)
    assert len(seen) > 40


def test_characters_read_back(root: Path) -> None:
    put.put_text(root)
    data = load_shakespeare(window=8, epoch=3, test_windows=4)
    letters = sorted(set(put.TEXT))
    joined = torch.cat([data.train, data.test]).tolist()
    assert "".join(letters[token] for token in joined) == put.TEXT
    assert data.vocabulary == len(letters)
    assert len(data.train) == int(0.9 * len(put.TEXT))
    batches = list(data.batches(5, generator()))
    assert len(batches) == data.steps(5) == 3
    for x, y in batches:
        assert x.shape == y.shape == (5, 8)
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert "".join(letters[t] for t in x[0].tolist()) in put.TEXT


@pytest.mark.parametrize("asked", [1, 3, 4, 37, 38, 1000])
def test_test_windows_are_spread_evenly_over_the_text(asked: int) -> None:
    length, window = 311, 8
    text = torch.arange(length)
    data = Text(text, text, length, window, epoch=1, source="", test_windows=asked)
    x, y = (torch.cat(parts) for parts in zip(*data.test_batches(), strict=True))
    count = min(asked, 310 // 8)
    assert torch.equal(x, x[:, :1] + torch.arange(window))
    assert torch.equal(y, x + 1)
    starts = x[:, 0].tolist()
    assert len(starts) == count
    assert starts[0] == 0
    gaps = [b - a for a, b in pairwise([*starts, length - 1])]
    assert min(gaps) >= window
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe\x00", "not UTF-8"), (b"too short", "too few")]
)
def test_a_text_that_is_none_is_refused(root: Path, content: bytes, message: str) -> None:
    (root / "text.txt").write_bytes(content)
    with pytest.raises(LabError, match=rf"text.txt is not usable: .*{message}"):
        load_shakespeare()


def test_windows_of_shards_never_cross(root: Path) -> None:
    shards = put.put_shards(root)
    data = load_fineweb(window=16, epoch=40, test_windows=3)
    train = [shard.tolist() for shard in shards[:2]]
    hits = set()
    for x, y in data.batches(8, generator()):
        for row, following in zip(x.tolist(), y.tolist(), strict=True):
            window = [*row, following[-1]]
            hits.update(
                number
                for number, shard in enumerate(train)
                if any(shard[i : i + 17] == window for i in range(len(shard) - 16))
            )
            assert any(
                shard[i : i + 17] == window for shard in train for i in range(len(shard) - 16)
            )
    assert hits == {0, 1}
    assert len(data.train) == (300 - 16) + (500 - 16) + 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "do not hold"),
        (lambda b: b[:100], "does not begin"),
        (lambda b: b"\0" * 8 + b[8:], "does not begin"),
    ],
)
def test_a_foreign_shard_is_refused(root: Path, change, message: str) -> None:
    put.put_shards(root)
    file = root / "fineweb" / "fineweb_train_000001.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(LabError, match=rf"{file.name} is not usable: .*{message}"):
        load_fineweb(window=16)


def test_a_token_beyond_the_vocabulary_is_refused(root: Path) -> None:
    put.put_shards(root)
    file = root / "fineweb" / "fineweb_val_000000.bin"
    content = bytearray(file.read_bytes())
    content[1024 + 2 * 20 : 1024 + 2 * 21] = (60_000).to_bytes(2, "little")
    file.write_bytes(content)
    data = load_fineweb(window=16)
    with pytest.raises(LabError, match="token 60000 is beyond the vocabulary of 50,304"):
        list(data.test_batches())


@pytest.mark.parametrize("part", ["jpeg", "offset", "label"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[: len(a) // 2],
        lambda a: a.astype(np.float32) + 0.5,
        lambda a: a.reshape(-1, 1),
        lambda a: np.array(3),
        lambda a: a.astype("U8"),
        lambda a: a.astype(np.int64) - 1000,
    ],
)
def test_a_pack_with_a_wrong_array_is_refused(root: Path, part: str, change) -> None:
    put.put_cifar_pack(root)
    path = root / "cifar10-jpeg.npz"
    with np.load(path) as held:
        arrays = dict(held)
    arrays[f"train_{part}"] = change(arrays[f"train_{part}"])
    np.savez(path, **arrays)
    with pytest.raises(LabError, match=r"^[^\n]*cifar10-jpeg.npz is not usable: [^\n]*$"):
        load_cifar10()


def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in the system's list, and no HOME."""
    for name in ("HOME", "USERPROFILE", "XDG_DATA_HOME", "NORMBALL_DATA"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no list of users to be missing from")
def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_home(monkeypatch)
    with pytest.raises(LabError, match=r"no home folder.* set NORMBALL_DATA to the folder"):
        data_root()
    monkeypatch.setenv("NORMBALL_DATA", "~/data")
    with pytest.raises(LabError, match=r"no home folder.* set NORMBALL_DATA to the folder"):
        data_root()
    monkeypatch.setenv("NORMBALL_DATA", "/data")
    assert data_root() == Path("/data")


def test_a_tilde_in_the_root_is_the_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("USERPROFILE", str(root))
    monkeypatch.setenv("NORMBALL_DATA", "~/data")
    assert data_root() == root / "data"
