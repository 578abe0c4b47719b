"""Charts of the metrics of an optimizer. Drawing needs matplotlib; recording does not."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normball._style import new_axes, new_figure
from normball.optim import GGNC, ClippedScion
from normball.optim.base import NormBallOptimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["History", "clipped_share", "draw", "dual_norm", "heatmap", "layers"]


class History:
    """The metrics of an optimizer over its training.

    Call `record()` after a step. It keeps the metrics as tensors on their device, without waiting
    for it; they are read when they are drawn. A record is six numbers, and one for each group.

    Args:
        optimizer: `ClippedScion`, `Scion`, `GGNC` or `S3CG`.
        every: record one step in `every`.

    Raises:
        TypeError: another optimizer.
        ValueError: `every` is not a positive whole number.

    Examples:
        >>> import torch
        >>> from normball import GGNC, plot
        >>> from normball.norms import Euclidean
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = GGNC([w], gamma=0.25, rho=2.0, norm=Euclidean())
        >>> history = plot.History(optimizer)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     w.square().sum().backward()
        ...     optimizer.step()
        ...     history.record()
        >>> history.values()["dual_norm"].round(decimals=2)
        tensor([10.,  9.,  8.], dtype=torch.float64)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, every: int = 1) -> None:
        if not isinstance(optimizer, NormBallOptimizer):
            raise TypeError(
                f"{type(optimizer).__name__} has no dual norm to record: give an optimizer of "
                "normball, such as ClippedScion"
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every={every!r} must be a whole number, 1 or more")
        self.optimizer = optimizer
        self.every = every
        self._calls = 0
        self._steps: list[int] = []
        self._thresholds: list[float | Tensor] = []
        self._seen: list[dict[str, Tensor]] = []

    def record(self) -> None:
        """Record the step just taken; do nothing for steps that `every` leaves out."""
        self._calls += 1
        if (self._calls - 1) % self.every:
            return
        self._steps.append(self._calls)
        self._thresholds.append(_threshold(self.optimizer))
        self._seen.append(self.optimizer.metrics())

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def size_name(self) -> str:
        """`"dual_norm"`, or `"gap"` of a constrained optimizer."""
        return "gap" if "gap" in self.optimizer.metrics() else "dual_norm"

    @property
    def labels(self) -> list[str]:
        """A label for every group: the name of its first parameter, and how many more it has."""
        found = []
        for number, group in enumerate(self.optimizer.param_groups):
            names = group.get("param_names") or [f"group {number}"]
            more = len(group["params"]) - 1
            found.append(f"{names[0]} +{more}" if more else str(names[0]))
        return found

    def values(self) -> dict[str, Tensor]:
        """Return what was recorded, on the CPU in float64; this waits for the device.

        Returns:
            For n records: `step` (from 1), `threshold` (NaN if the method has no threshold that is
            a single number), `dual_norm` or `gap`, `step_factor`, `clipped_share` and `skipped`, of
            shape `(n,)`, and `group_dual_norms` of shape `(n, groups)`.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self._seen:
            raise ValueError("nothing was recorded: call record() after optimizer.step()")
        groups = max(len(seen["group_dual_norms"]) for seen in self._seen)
        result = {
            "step": torch.tensor(self._steps, dtype=torch.float64),
            "threshold": torch.tensor([float(x) for x in self._thresholds], dtype=torch.float64),
        }
        for name in self._seen[0]:
            column = [seen[name].detach().cpu().double() for seen in self._seen]
            if name == "group_dual_norms":  # a group may have been added during training
                pad = torch.nn.functional.pad
                column = [pad(x, (0, groups - len(x)), value=math.nan) for x in column]
            result[name] = torch.stack(column)
        return result


def _threshold(optimizer: NormBallOptimizer) -> float | Tensor:
    if isinstance(optimizer, ClippedScion):
        # Variant 1 scales its threshold again at every step.
        known = not optimizer._needs_corner
    else:
        known = isinstance(optimizer, GGNC)
    rho: float | Tensor = optimizer.param_groups[0]["rho"] if known else math.nan
    # A schedule or a graph may write to the tensor later.
    return rho.clone() if isinstance(rho, Tensor) else rho


def dual_norm(history: History, axes: "Axes | None" = None) -> "Axes":
    """Draw the dual norm (or gap) of every recorded step, and the threshold.

    Args:
        history: what to draw.
        axes: where to draw; None makes a new figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was recorded.

    Examples:
        >>> import torch
        >>> from normball import ClippedScion, plot
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = ClippedScion(layer.parameters())
        >>> history = plot.History(optimizer)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> history.record()
        >>> plot.dual_norm(history).get_title()
        'What the threshold acts on'
    """
    data = history.values()
    axes = axes or new_axes()
    name = history.size_name
    axes.plot(data["step"], data[name], color="#0072b2", linewidth=1, label=name.replace("_", " "))
    if not bool(data["threshold"].isnan().all()):
        axes.plot(data["step"], data["threshold"], ":", color="0.5", label="threshold rho")
    if bool((data[name] > 0).any()):
        axes.set_yscale("log")
    axes.set(xlabel="step", title="What the threshold acts on")
    axes.legend()
    return axes


def clipped_share(history: History, axes: "Axes | None" = None) -> "Axes":
    """Draw each step's length as a share of the longest, and the share of full steps so far.

    Args:
        history: what to draw.
        axes: where to draw; None makes a new figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was recorded.

    Examples:
        >>> import torch
        >>> from normball import ClippedScion, plot
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = ClippedScion(layer.parameters())
        >>> history = plot.History(optimizer)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> history.record()
        >>> plot.clipped_share(history).get_title()
        'Steps, the longest being 1'
    """
    data = history.values()
    axes = axes or new_axes()
    axes.plot(data["step"], data["step_factor"], ".", color="#56b4e9", ms=3, label="step length")
    axes.plot(data["step"], data["clipped_share"], color="#d55e00", label="share of full steps")
    axes.set(xlabel="step", ylim=(-0.03, 1.03), title="Steps, the longest being 1")
    axes.legend()
    return axes


def layers(history: History, axes: "Axes | None" = None) -> "Axes":
    """Draw what each group contributes to the dual norm of the last recorded step.

    Args:
        history: what to draw.
        axes: where to draw; None makes a new figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was recorded.

    Examples:
        >>> import torch
        >>> from normball import ClippedScion, plot
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = ClippedScion(layer.parameters())
        >>> history = plot.History(optimizer)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> history.record()
        >>> [label.get_text() for label in plot.layers(history).get_yticklabels()]
        ['group 0 +1']
    """
    last = history.values()["group_dual_norms"][-1]
    axes = axes or new_axes()
    places = list(range(len(last)))
    axes.barh(places, last.tolist(), color="#009e73")
    axes.set_yticks(places, history.labels[: len(last)])
    axes.invert_yaxis()
    axes.set(xlabel="radius times dual norm", title=f"Layers at step {history._steps[-1]}")
    return axes


def heatmap(history: History, axes: "Axes | None" = None) -> "Axes":
    """Draw every group's share of the dual norm over time.

    Args:
        history: what to draw.
        axes: where to draw; None makes a new figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was recorded.

    Examples:
        >>> import torch
        >>> from normball import ClippedScion, plot
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = ClippedScion(layer.parameters())
        >>> history = plot.History(optimizer)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> history.record()
        >>> plot.heatmap(history).get_title()
        'Share of the dual norm'
    """
    data = history.values()
    parts = data["group_dual_norms"].nan_to_num()
    total = parts.sum(1, keepdim=True)
    share = (parts / torch.where(total == 0, 1, total)).T
    axes = axes or new_axes()
    ends = (float(data["step"][0]) - 0.5, float(data["step"][-1]) + 0.5)
    image = axes.imshow(
        share.numpy(), aspect="auto", interpolation="nearest", cmap="viridis",
        vmin=0, vmax=float(share.max()) or 1, extent=(*ends, len(share) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(list(range(len(share))), history.labels[: len(share)])
    axes.set(xlabel="step", title="Share of the dual norm")
    axes.figure.colorbar(image, ax=axes)
    return axes


def draw(history: History) -> "Figure":
    """Draw all four charts as one figure; `draw(history).savefig("seen.png")` saves it.

    Args:
        history: what to draw.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: nothing was recorded.

    Examples:
        >>> import torch
        >>> from normball import ClippedScion, plot
        >>> layer = torch.nn.Linear(4, 2)
        >>> optimizer = ClippedScion(layer.parameters())
        >>> history = plot.History(optimizer)
        >>> layer(torch.randn(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> history.record()
        >>> len(plot.draw(history).axes)  # the four, and the scale of colours
        5
    """
    history.values()
    height = max(3.6, 0.22 * len(history.labels))
    figure = new_figure(figsize=(9, 3.4 + height), height_ratios=(3.4, height))
    for panel, axes in zip((dual_norm, clipped_share, layers, heatmap), figure.axes, strict=True):
        panel(history, axes)
    return figure
