"""Checkpoints of one run: never incomplete, the last two kept, and checked when they are read."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.files import whole_file
from normball.lab.train import Trainer

_SCHEMA = "normball.checkpoint/1"
_NAME = re.compile(r"epoch-(\d{6})\.pt")
_KEPT = 2


class Checkpoints:
    """The checkpoints of one configuration in a run folder.

    Args:
        folder: the run folder.
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
        if not self.path.is_dir():
            return []
        named = [file for file in self.path.iterdir() if _NAME.fullmatch(file.name)]
        return sorted(named, reverse=True)

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint to a temporary file, rename it, and delete all but the last two.

        Args:
            trainer: the run, between two epochs.

        Returns:
            The file.

        Raises:
            LabError: if it cannot be written; earlier checkpoints are then unchanged.
        """
        target = self.path / f"epoch-{trainer.state.epoch:06d}.pt"
        content = {"schema": _SCHEMA, "config": self._config.key(), "state": trainer.snapshot()}
        with whole_file(target) as file:
            torch.save(content, file)
        for old in self.files()[_KEPT:]:
            old.unlink(missing_ok=True)
        return target

    def resume(self, say: Callable[[str], None]) -> tuple[Trainer, Path | None]:
        """Continue from the latest valid checkpoint, or start from the beginning.

        Args:
            say: called with a message for every checkpoint that is refused, with its name.

        Returns:
            The run, and the file it continues from; None at the beginning.
        """
        for file in self.files():
            trainer = Trainer(self._config)
            try:
                trainer.restore(self._read(file))
            except LabError as error:
                say(f"{file} is refused: {error} It is left as it is; the one before it is tried.")
                continue
            return trainer, file
        return Trainer(self._config), None

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            content = torch.load(file, weights_only=True)
        except Exception as e:  # a damaged file can raise anything
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise LabError(f"it cannot be read ({reason}).") from None
        if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
            raise LabError(f"it does not say that its schema is {_SCHEMA}.")
        if content.get("config") != self._config.key():
            raise LabError(f"it belongs to another run, {content.get('config')}.")
        state = content.get("state")
        if not isinstance(state, dict):
            raise LabError("it holds no state.")
        return state
