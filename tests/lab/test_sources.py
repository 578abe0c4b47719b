"""Every source of data: read as published, refused by name when it is something else."""

import importlib
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

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
from normball.lab.optimizers import configure
from normball.lab.tasks import IMAGENET
from normball.lab.train import Trainer
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


def test_a_folder_of_images_is_read_by_class(root: Path) -> None:
    put.put_images(root)
    data = load_imagenet(size=32)
    assert data.classes == 2
    assert data.steps(4) == 2
    batches = list(data.batches(4, generator()))
    assert [x.shape for x, _ in batches] == [(4, 3, 32, 32)] * 2
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == [0] * 4 + [1] * 4
    again = list(data.batches(4, generator()))
    assert torch.equal(batches[0][0], again[0][0])
    (x, y), *rest = data.test_batches()
    assert x.shape == (4, 3, 32, 32)
    assert y.tolist() == [0, 0, 1, 1]
    assert not rest


def test_a_centre_is_that_of_the_image(root: Path) -> None:
    put.put_images(root)
    (x, _), *_ = load_imagenet.__wrapped__(size=28).test_batches()
    with Image.open(root / "imagenet" / "val" / "cat" / "0.png") as image:
        side = 40 * 224 / 256  # of 50 x 40 pixels
        box = ((50 - side) / 2, (40 - side) / 2, (50 + side) / 2, (40 + side) / 2)
        pixels = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR, box=box))
    mean, deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    expected = ((pixels - np.array(mean)) / np.array(deviation)).transpose(2, 0, 1)
    assert np.allclose(x[0].numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_processes_that_read_ahead_give_the_same_images_and_errors(root: Path) -> None:
    put.put_images(root)
    alone = load_imagenet.__wrapped__(size=32)
    helped = replace(alone, workers=2)
    state = torch.get_rng_state()
    pairs = zip(alone.batches(4, generator()), helped.batches(4, generator()), strict=True)
    for (x, y), (again_x, again_y) in pairs:
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)
    assert torch.equal(torch.get_rng_state(), state)
    (root / "imagenet" / "val" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(LabError, match=r"^[^\n]*1.png is not usable: it is no image[^\n]*$"):
        list(helped.test_batches())


def test_folders_that_differ_or_hold_no_image_are_refused(root: Path) -> None:
    put.put_images(root)
    (root / "imagenet" / "val" / "cat").rename(root / "imagenet" / "val" / "cow")
    with pytest.raises(LabError, match="differ in the classes cat, cow"):
        load_imagenet()
    (root / "imagenet" / "val" / "cow").rename(root / "imagenet" / "val" / "cat")
    file = root / "imagenet" / "train" / "cat" / "0.png"
    file.write_bytes(b"no image")
    data = load_imagenet.__wrapped__(size=32)
    with pytest.raises(LabError, match=r"0.png is not usable: it is no image"):
        list(data.batches(4, generator()))


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


def test_fewer_images_than_a_mini_batch_are_refused(root: Path) -> None:
    put.put_images(root)
    for size, steps in ((8, 1), (4, 2)):
        trainer = Trainer(configure(IMAGENET, "scion", batch_size=size, model="cnn", width=0.1))
        assert trainer.steps_per_epoch == steps
    with pytest.raises(LabError, match=r"--batch-size 9 is more than .* imagenet, 2 classes"):
        Trainer(configure(IMAGENET, "scion", batch_size=9, model="cnn", width=0.1))


def test_all_classes_without_images_are_named(root: Path) -> None:
    put.put_images(root)
    for number in range(12):
        for part in ("train", "val"):
            (root / "imagenet" / part / f"b{number:02}").mkdir()
    (root / "imagenet" / "train" / "b03" / "notes.txt").write_text("no image")
    shutil.copy(root / "imagenet/train/cat/0.png", root / "imagenet/train/b04/0.PNG")
    listed = "b00, b01, b02, b03, b05, b06, b07, b08, b09, b10 and 1 more"
    with pytest.raises(LabError, match=rf"imagenet/train has no images in {listed}: .*\.webp"):
        load_imagenet.__wrapped__(size=32)
    for number in range(12):
        shutil.copytree(
            root / "imagenet/train/cat", root / f"imagenet/train/b{number:02}", dirs_exist_ok=True
        )
    with pytest.raises(LabError, match=r"imagenet/val has no images in b00, .* and 2 more"):
        load_imagenet.__wrapped__(size=32)


ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "TIFF": "tiff",
    "BMP": "bmp",
    "GIF": "gif",
    "PPM": "ppm",
}


@pytest.mark.parametrize(("kind", "ending"), ENDINGS.items())
def test_images_of_all_formats_are_read_and_broken_ones_named(
    root: Path, kind: str, ending: str
) -> None:
    """One grey picture, to which no format does more than round; then it is cut off anywhere."""
    Image.init()
    if kind not in Image.OPEN or kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    for part in ("train", "val"):
        folder = root / "imagenet" / part / "grey"
        folder.mkdir(parents=True)
        Image.new("RGB", (48, 48), (104, 104, 104)).save(folder / f"0.{ending}", format=kind)
    data = load_imagenet.__wrapped__(size=32)
    ((x, y),) = data.test_batches()
    mean, deviation = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    grey = (104 - np.array(mean)) / np.array(deviation)
    two = 2 / min(deviation)  # a lossy format may be off by a level or two
    assert np.allclose(x[0].mean(dim=(1, 2)).numpy(), grey, atol=two)
    assert y.tolist() == [0]
    file = root / "imagenet" / "val" / "grey" / f"0.{ending}"
    whole = file.read_bytes()
    for share in (0.0, 0.1, 0.5):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(LabError, match=rf"0.{ending} is not usable: it is no image"):
            list(data.test_batches())


def test_sixteen_bits_keep_their_range_and_numbers_without_one_are_refused(root: Path) -> None:
    put.put_images(root)
    file = root / "imagenet" / "val" / "cat" / "0.png"
    ramp = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    data = load_imagenet.__wrapped__(size=48)
    found = []
    for pixels in (ramp, (ramp >> 8).astype(np.uint8)):
        Image.fromarray(pixels).save(file)
        found.append(next(iter(data.test_batches()))[0][0])
    assert torch.equal(*found)
    assert float(found[0].std()) > 0.5  # the ramp, not white
    Image.fromarray(ramp.astype(np.float32)).save(file, format="TIFF")
    with pytest.raises(LabError, match=r"0.png is not usable: .* write them with 8 or 16 bits"):
        next(iter(data.test_batches()))


def test_an_image_beyond_pillows_limit_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put.put_images(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # the images have 50 x 40 pixels
    with pytest.raises(LabError, match=r"0.png has more than 1,800 pixels, .* a smaller copy"):
        load_imagenet.__wrapped__(size=32).sample()
