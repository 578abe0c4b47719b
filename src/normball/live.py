"""A view of a training loop in the terminal. It needs rich: the extra `normball[live]`."""

import math
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType

import torch
from rich.console import Console, Group, RenderableType
from rich.table import Table
from torch import Tensor

from normball._screen import Screen
from normball.optim.base import NormBallOptimizer

__all__ = ["Live"]

_SPARKS = "▁▂▃▄▅▆▇█"
_KEPT = 60
_PAUSE = 0.25
_LINES = 10


class Live(Screen):
    """Shows a progress bar, the loss and the optimizer's metrics while a loop trains.

    Use it as a context manager and call `step` after every step of the optimizer. It waits for the
    device at most four times a second. If the output is not a terminal, it prints about ten lines
    over the run instead.

    Args:
        optimizer: `ClippedScion`, `Scion`, `GGNC` or `S3CG`.
        total: how many steps there will be.
        console: where to draw; the standard output when None.

    Raises:
        TypeError: another optimizer.
        ValueError: `total` is not a positive whole number.

    Examples:
        >>> import torch
        >>> from normball import GGNC
        >>> from normball.live import Live
        >>> from normball.norms import Euclidean
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = GGNC([w], gamma=0.25, rho=2.0, norm=Euclidean())
        >>> with Live(optimizer, total=1) as live:
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     live.step(loss)
        step 1/1  loss 25  dual norm 10  step factor 1  clipped share 100 %  skipped 0
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, total: int, console: Console | None = None
    ) -> None:
        if not isinstance(optimizer, NormBallOptimizer):
            raise TypeError(
                f"{type(optimizer).__name__} has no dual norm to show: give an optimizer of "
                "normball, such as ClippedScion"
            )
        if isinstance(total, bool) or not isinstance(total, int) or total < 1:
            raise ValueError(f"total={total!r} must be a whole number of steps, 1 or more")
        super().__init__(console or Console(highlight=False))
        self._optimizer = optimizer
        self._total = total
        self._task = self._bar.add_task("training", total=total)
        self._done = 0
        self._seen: dict[str, float] = {}
        self._sizes: deque[float] = deque(maxlen=_KEPT)
        self._next = 0.0

    def step(self, loss: Tensor | float | None = None) -> None:
        """Add one step to the view.

        Args:
            loss: the loss of this step, 0-d; None leaves it out of the view.
        """
        self._done += 1
        self._bar.advance(self._task)
        now = time.monotonic()
        line = self._done % max(1, self._total // _LINES) == 0 or self._done == self._total
        if self._console.is_terminal:
            if now < self._next and self._done < self._total:
                return
            self._next = now + _PAUSE
        elif not line:
            return
        self._read(loss)
        self._line(f"step {self._done}/{self._total}  {self._figures()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._console.is_terminal and self._seen:
            self._console.print(f"step {self._done}/{self._total}  {self._figures()}")

    def _read(self, loss: Tensor | float | None) -> None:
        metrics = self._optimizer.metrics()
        self._seen = {name: float(v) for name, v in metrics.items() if v.ndim == 0}
        name = "dual_norm" if "dual_norm" in metrics else "gap"
        self._sizes.append(self._seen[name])
        if loss is not None:
            loss = loss.detach() if isinstance(loss, Tensor) else loss
            self._seen = {"loss": float(loss)} | self._seen

    def _figures(self) -> str:
        return "  ".join(f"{name} {shown}" for name, shown in self._shown())

    def _shown(self) -> Iterator[tuple[str, str]]:
        """Names and values in words; what `rho="auto"` measured is on two lines."""
        seen = dict(self._seen)
        limits = [seen.pop(name, None) for name in ("shortest_step", "longest_step")]
        mean, swing = (seen.pop(name, None) for name in ("mean_curvature", "swing"))
        for name, value in seen.items():
            shown = f"{100 * value:.0f} %" if name == "clipped_share" else f"{value:.4g}"
            if name == "curvature":
                shown += f", mean {mean:.4g}, swing {swing:.3g}"
            yield name.replace("_", " "), shown
            if name == "step_factor" and limits[0] is not None:
                longest = max(group["lr"] for group in self._optimizer.param_groups)
                length = value * float(longest)
                yield "step length", f"{length:.3g} of {limits[0]:.3g} to {limits[1]:.3g}"

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, value in self._shown():
            shown = value
            if name in ("dual norm", "gap"):
                shown = f"{shown}{self._threshold()}  {spark(self._sizes)}"
            table.add_row(name, shown)
        return Group(self._bar, table)

    def _threshold(self) -> str:
        rho = self._optimizer.param_groups[0].get("rho")
        return "" if rho is None else f" of rho {float(rho):.4g}"


def spark(values: "deque[float] | list[float]") -> str:
    """Return a line of bars, one for each value, on a log scale from the smallest to the largest.

    Args:
        values: any numbers; those that are not positive and finite are drawn as the lowest bar.
    """
    logs = [math.log(v) if v > 0 and math.isfinite(v) else None for v in values]
    known = [value for value in logs if value is not None]
    if not known:
        return _SPARKS[0] * len(logs)
    low, reach = min(known), (max(known) - min(known)) or 1.0
    top = len(_SPARKS) - 1
    return "".join(
        _SPARKS[0 if value is None else round((value - low) / reach * top)] for value in logs
    )
