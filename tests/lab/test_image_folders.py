"""Folders of images, one for each class: read as they are, refused by name when they are not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from normball.lab.data import load_imagenet
from normball.lab.errors import LabError
from normball.lab.optimizers import configure
from normball.lab.tasks import IMAGENET
from normball.lab.train import Trainer
from tests.lab.conftest import put_images


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_folder_of_images_is_read_by_class(root: Path) -> None:
    put_images(root)
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
    put_images(root)
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
    put_images(root)
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
    put_images(root)
    (root / "imagenet" / "val" / "cat").rename(root / "imagenet" / "val" / "cow")
    with pytest.raises(LabError, match="differ in the classes cat, cow"):
        load_imagenet()
    (root / "imagenet" / "val" / "cow").rename(root / "imagenet" / "val" / "cat")
    file = root / "imagenet" / "train" / "cat" / "0.png"
    file.write_bytes(b"no image")
    data = load_imagenet.__wrapped__(size=32)
    with pytest.raises(LabError, match=r"0.png is not usable: it is no image"):
        list(data.batches(4, generator()))


def test_fewer_images_than_a_mini_batch_are_refused(root: Path) -> None:
    put_images(root)
    for size, steps in ((8, 1), (4, 2)):
        trainer = Trainer(configure(IMAGENET, "scion", batch_size=size, model="cnn", width=0.1))
        assert trainer.steps_per_epoch == steps
    with pytest.raises(LabError, match=r"--batch-size 9 is more than .* imagenet, 2 classes"):
        Trainer(configure(IMAGENET, "scion", batch_size=9, model="cnn", width=0.1))


def test_all_classes_without_images_are_named(root: Path) -> None:
    put_images(root)
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
    put_images(root)
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
    put_images(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # the images have 50 x 40 pixels
    with pytest.raises(LabError, match=r"0.png has more than 1,800 pixels, .* a smaller copy"):
        load_imagenet.__wrapped__(size=32).sample()
