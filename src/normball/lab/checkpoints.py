"""Checkpoints of one run: never incomplete, the last two kept, and checked when they are read."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from normball.lab.config import RunConfig, flag
from normball.lab.errors import LabError
from normball.lab.files import whole_file
from normball.lab.schedules import factor
from normball.lab.train import Trainer

_SCHEMA = "normball.checkpoint/1"
_NAME = re.compile(r"epoch-(\d{6})\.pt")
_KEPT = 2


class Checkpoints:
    """The checkpoints of one configuration in a run folder.

    Args:
        config: the run; every configuration has its own folder, named after its optimizer and a
            digest of all its settings.

    Attributes:
        path: the folder of this run's checkpoints.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        digest = hashlib.sha256(config.key().encode()).hexdigest()[:12]
        self.path = folder / "checkpoints" / f"{config.optimizer}-{digest}"
        self._config = config

    def files(self) -> list[Path]:
        """The checkpoints that are there, the latest first."""
        return _files(self.path)

    def others(self) -> list[tuple[RunConfig, Path]]:
        """The other runs with checkpoints in the run folder: settings, and the last readable file.

        Those come first whose settings differ in the fewest from this run's.
        """
        folders = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
        found = []
        for path in sorted(set(folders) - {self.path}):
            for file in _files(path):
                try:
                    found.append((_config_of(_load(file, mapped=True)), file))
                except LabError:  # it is not needed, and stays as it is
                    continue
                break
        return sorted(found, key=lambda pair: len(differences(pair[0], self._config)))

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint whole, and delete all but the last two; return the file.

        A LabError if it cannot be written; earlier checkpoints are then unchanged.
        """
        target = self.path / f"epoch-{trainer.state.epoch:06d}.pt"
        content = {
            "schema": _SCHEMA,
            "config": self._config.key(),
            "data": trainer.source,
            "state": trainer.snapshot(),
        }
        with whole_file(target) as file:
            torch.save(content, file)
        # A later one was refused, or this run would have gone on from it.
        done = [file for file in self.files() if file.name <= target.name]
        for old in done[_KEPT:]:
            old.unlink(missing_ok=True)
        return target

    def resume(self, say: Callable[[str], None]) -> tuple[Trainer, Path | None]:
        """Continue from the latest valid checkpoint, or start from the beginning.

        Without a checkpoint of its own, a run goes on from one of a run with another number of
        epochs, if all other settings and all step sizes up to there are the same: the weights are
        then those of an unbroken run.

        Args:
            say: called with a message for every checkpoint that is refused, with its name.

        Returns:
            The run, and the file it continues from; None at the beginning.

        Raises:
            LabError: if the checkpoint was trained on other data.
        """
        for file in [*self.files(), *self._of_other_lengths()]:
            trainer = Trainer(self._config)
            try:
                content = _load(file)
                there = _config_of(content)
                if file.parent == self.path and there != self._config:
                    raise LabError(f"it belongs to another run, {content['config']}.")
                trainer.restore(content["state"])
            except LabError as error:
                say(f"{file} is refused: {error} It is left as it is; the one before it is tried.")
                continue
            if not _same_steps(there, self._config, trainer):
                continue
            if content.get("data", trainer.source) != trainer.source:
                raise LabError(
                    f"{file} was trained on other data, {content['data']}, than there are now, "
                    f"{trainer.source}: bring those back, or choose another --out."
                )
            return trainer, file
        return Trainer(self._config), None

    def _of_other_lengths(self) -> list[Path]:
        """Checkpoints of runs that differ in their number of epochs only, the latest first."""
        files = [
            file
            for config, last in self.others()
            if differences(config, self._config) in ([], ["epochs"])
            for file in _files(last.parent)
            if file.name <= f"epoch-{self._config.epochs:06d}.pt"
        ]
        return sorted(files, key=lambda file: file.name, reverse=True)


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """The settings in which two runs differ."""
    theirs = asdict(other)
    return [name for name, value in asdict(one).items() if value != theirs[name]]


def describe_differences(there: RunConfig, here: RunConfig) -> str:
    """The settings in which two runs differ, with their values, as in ``--lr 0.1, not 0.2``.

    Args:
        there: the run with checkpoints, whose settings are named first.
        here: the run that cannot go on from there; its settings are named after "not".
    """
    ours, theirs = asdict(here), asdict(there)
    names = differences(there, here)
    words = ", ".join(f"{flag(name)} {theirs[name]}, not {ours[name]}" for name in names)
    if names != ["epochs"]:
        return words
    fixed = here.schedule == "constant" and not here.warmup
    return words + (
        ", and is past that" if fixed else ", on which the step sizes of all its epochs depend"
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if _NAME.fullmatch(f.name)), reverse=True)


def _load(file: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The content of a checkpoint; if mapped, the weights are not read."""
    try:
        content = torch.load(file, weights_only=True, mmap=mapped)
    except Exception as e:  # a damaged file can raise anything
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise LabError(f"it cannot be read ({reason}).") from None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise LabError(f"it does not say that its schema is {_SCHEMA}.")
    if not isinstance(content.get("state"), dict):
        raise LabError("it holds no state.")
    return content


def _config_of(content: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.from_dict(json.loads(content["config"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabError(f"it does not say which run it is of ({error}).") from None


def _same_steps(there: RunConfig, here: RunConfig, trainer: Trainer) -> bool:
    """Whether the steps taken so far, and the next, have the same size in two runs."""
    done = trainer.state.epoch * trainer.steps_per_epoch
    factors = (
        [
            factor(c.schedule, k, c.epochs * trainer.steps_per_epoch, c.warmup)
            for k in range(done + 1)
        ]
        for c in (there, here)
    )
    return next(factors) == next(factors)
