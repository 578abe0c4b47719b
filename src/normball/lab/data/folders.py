"""ImageNet, or any folder of images by class."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from normball.lab.data.base import Batch
from normball.lab.data.root import data_root, foreign, missing
from normball.lab.errors import LabError
from normball.lab.machine import usable_cores

FOLDER = "imagenet"
# Those of Pillow's formats that hold a picture, and say so in their first bytes.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "TIFF", "BMP", "GIF", "PPM")
_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)
_LARGER = 256 / 224
_TEST_BATCH = 256
_Key = tuple[int, Any]  # an image's place among the files, and what is drawn for it
_MOST_WORKERS = 8


@dataclass(frozen=True)
class ImageFolder:
    """Images that are read from the disk when they are used.

    A training image is a random crop of 8 to 100 % of the area, flipped at random. A test image is
    the centre, after the shorter side is scaled to 256/224 of the size.

    Attributes:
        train: files and classes.
        test: files and classes.
        size: height and width that the network takes, in pixels.
        classes: number of classes.
        source: which data these are.
        workers: processes that read ahead; 0 reads each mini-batch when it is needed.
    """

    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]
    size: int
    classes: int
    source: str
    workers: int = 0

    def steps(self, size: int) -> int:
        """See ``Data``."""
        return len(self.train) // size

    def batches(self, size: int, order: torch.Generator) -> Iterator[Batch]:
        """See ``Data``."""
        shuffled = torch.randperm(len(self.train), generator=order)
        batches = torch.split(shuffled[: self.steps(size) * size], size)
        # All random numbers are drawn here, batch by batch: the workers draw none.
        draws = (
            list(zip(batch.tolist(), torch.rand(size, 5, generator=order).tolist(), strict=True))
            for batch in batches
        )
        yield from self._read(_Examples(self.train, self._crop), draws)

    def test_batches(self) -> Iterator[Batch]:
        """See ``Data``."""
        places = (
            [(i, None) for i in range(start, min(start + _TEST_BATCH, len(self.test)))]
            for start in range(0, len(self.test), _TEST_BATCH)
        )
        yield from self._read(_Examples(self.test, self._centre), places)

    def _read(self, examples: "_Examples", keys: Iterable[list[_Key]]) -> Iterator[Batch]:
        loader = DataLoader(
            examples,
            batch_sampler=keys,
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            collate_fn=_joined,
            generator=torch.Generator(),  # else it would draw from the one of the training
        )
        for batch in loader:
            if isinstance(batch, LabError):
                raise batch
            yield batch

    def sample(self) -> Tensor:
        """See ``Data``: the centres of the first 256."""
        return torch.stack([self._centre(path, None) for path, _ in self.train[:_TEST_BATCH]])

    def _crop(self, path: Path, draw: list[float]) -> Tensor:
        image = _open(path)
        width, height = image.size
        area, ratio = 0.08 + 0.92 * draw[0], (3 / 4) * (16 / 9) ** draw[1]
        wide = min(width, round((width * height * area * ratio) ** 0.5)) or 1
        high = min(height, round((width * height * area / ratio) ** 0.5)) or 1
        left, top = round(draw[2] * (width - wide)), round(draw[3] * (height - high))
        pixels = self._pixels(image, (left, top, left + wide, top + high))
        return pixels.flip(-1) if draw[4] < 0.5 else pixels

    def _centre(self, path: Path, _: None) -> Tensor:
        image = _open(path)
        width, height = image.size
        side = min(width, height) / _LARGER
        left, top = (width - side) / 2, (height - side) / 2
        return self._pixels(image, (left, top, left + side, top + side))

    def _pixels(self, image, box) -> Tensor:  # type: ignore[no-untyped-def]
        small = image.resize((self.size, self.size), resample=2, box=box)
        pixels = torch.from_numpy(np.asarray(small, dtype=np.float32).copy()).permute(2, 0, 1)
        mean, deviation = (torch.tensor(t).view(-1, 1, 1) for t in (_MEAN, _DEVIATION))
        return (pixels - mean) / deviation


@dataclass(frozen=True)
class _Examples(Dataset[Any]):
    """Images read by index; random numbers come with the index."""

    files: tuple[tuple[Path, int], ...]
    read: Callable[[Path, Any], Tensor]

    def __getitem__(self, key: _Key) -> tuple[Tensor, int] | LabError:
        """The image and its class; what is wrong with its file, which a worker cannot raise."""
        path, label = self.files[key[0]]
        try:
            return self.read(path, key[1]), label
        except LabError as error:
            return error


def _joined(examples: list[Any]) -> Any:
    wrong = [example for example in examples if isinstance(example, LabError)]
    return wrong[0] if wrong else default_collate(examples)


@cache
def _endings() -> dict[str, str]:
    """The endings of image files, and their formats, that this Pillow can open."""
    from PIL import Image

    known = Image.registered_extensions()
    return {end: name for end, name in known.items() if name in _FORMATS and name in Image.OPEN}


def _open(path: Path):  # type: ignore[no-untyped-def]
    """The image as RGB, of a file with several the first."""
    from PIL import Image

    try:
        with Image.open(path, formats=sorted(set(_endings().values()))) as image:
            image.load()
            if image.mode.startswith("I;16"):  # 16 bits, which convert would clip
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode in ("I", "F"):
                raise ValueError("its numbers have no known range: write them with 8 or 16 bits")
            return image.convert("RGB")
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise LabError(
            f"{path} has more than {most:,} pixels, the most that Pillow reads: put a smaller copy "
            "there, or leave it out."
        ) from None
    except Exception as error:  # a damaged file can raise anything
        raise foreign(path, f"it is no image ({error})") from None


@cache
def load_imagenet(size: int = 224, folder: str = FOLDER) -> ImageFolder:
    """Images by class: ``imagenet/train/<class>/*`` and ``imagenet/val/<class>/*``.

    They are read in the formats JPEG, PNG, WebP, AVIF, JPEG 2000, TIFF, BMP, GIF and PPM, as far as
    the installed Pillow has them, with 8 or 16 bits a channel. Files with other endings are left
    out.

    Args:
        size: height and width that the network takes, in pixels.

    Raises:
        LabError: if a part is missing, the two parts' classes differ, or a class has no image.
    """
    root = data_root() / folder
    names = {part: sorted(p.name for p in root.glob(f"{part}/*/")) for part in ("train", "val")}
    if not names["train"] or not names["val"]:
        raise missing("ImageNet", f"put its images there as {folder}/train/CLASS/* and val/CLASS/*")
    if names["train"] != names["val"]:
        odd = sorted(set(names["train"]) ^ set(names["val"]))
        raise foreign(root, f"train and val differ in the classes {_some(odd)}")
    found = {part: [_images(root / part / name) for name in names[part]] for part in names}
    for part, images in found.items():
        empty = [name for name, own in zip(names[part], images, strict=True) if not own]
        if empty:
            raise LabError(
                f"{root / part} has no images in {_some(empty)}: a class needs one or more with "
                "an ending such as .jpg, .png or .webp. Put them there, or remove the class from "
                "train and val."
            )
    train, test = (
        tuple((path, number) for number, own in enumerate(found[part]) for path in own)
        for part in ("train", "val")
    )
    classes = len(names["train"])
    source = f"{folder}, {classes} classes"
    return ImageFolder(train, test, size, classes, source, _workers())


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _endings())


def _some(classes: list[str]) -> str:
    """The classes by name, the first ten of many."""
    more = len(classes) - 10
    return ", ".join(classes[:10]) + (f" and {more} more" if more > 0 else "")


def _workers() -> int:
    """The number of processes that read ahead: none on a CPU, which is slower than the disk.

    Also none in a sweep's worker, which may not have child processes.
    """
    if not torch.cuda.is_available() or current_process().daemon:
        return 0
    return min(usable_cores() - 1, _MOST_WORKERS)
