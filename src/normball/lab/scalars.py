"""A run's metrics for TensorBoard."""

import io
import os
import time
from pathlib import Path
from typing import Any

from normball.lab.errors import LabError
from normball.lab.files import append_line
from normball.lab.results import EpochReport


class Scalars:
    """Writes the metrics of every epoch as TensorBoard scalars.

    The file is written here, epoch by epoch. torch's writer does it in a thread, which would end
    with a traceback where the disk is full.

    Raises:
        LabError: if TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
                RecordWriter,
            )
        except ModuleNotFoundError:
            raise LabError("--tensorboard needs tensorboard: pip install tensorboard.") from None
        self._event, self._writer = Event, RecordWriter
        # Viewers know the files by this beginning.
        self._file = folder / f"events.out.tfevents.{time.time():.0f}.normball.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"--tensorboard cannot write to {folder}: {error.strerror}.") from error
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, report: EpochReport) -> None:
        """Write an epoch's metrics, without delay; after a LabError the file has those before."""
        values = {
            "loss": report.loss,
            "score": report.score,
            "clipped_share": report.clipped_share,
            "examples_per_second": report.per_second,
        }
        if report.trace_name is not None:
            values[report.trace_name] = report.traced
        event = self._event(wall_time=time.time(), step=report.epoch)
        for name, value in values.items():
            if value is not None:
                event.summary.value.add(tag=name, simple_value=value)
        self._append(event)

    def _append(self, event: Any) -> None:
        content = io.BytesIO()
        self._writer(content).write(event.SerializeToString())
        append_line(self._file, content.getvalue())
