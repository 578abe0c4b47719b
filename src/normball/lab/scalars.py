"""A run's metrics for TensorBoard."""

from pathlib import Path

from normball.lab.errors import LabError
from normball.lab.results import EpochReport


class Scalars:
    """Writes the metrics of every epoch as TensorBoard scalars.

    Args:
        folder: the folder that TensorBoard reads.

    Raises:
        LabError: if TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise LabError("--tensorboard needs tensorboard: pip install tensorboard.") from None
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise LabError(f"--tensorboard cannot write to {folder}: {error.strerror}.") from error

    def write(self, report: EpochReport) -> None:
        """Write an epoch's metrics, without delay.

        Args:
            report: the epoch.
        """
        values = {
            "loss": report.loss,
            "score": report.score,
            "clipped_share": report.clipped_share,
            "examples_per_second": report.per_second,
        }
        if report.trace_name is not None:
            values[report.trace_name] = report.traced
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, report.epoch)
        self._writer.flush()
