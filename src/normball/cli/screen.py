"""The terminal view of a run while it trains, and the output that remains after it."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table

from normball import SmoothnessProbe
from normball._screen import Screen
from normball.lab.cells import BEST, Cell, best_lines
from normball.lab.charts import views
from normball.lab.config import RunConfig
from normball.lab.race import TITLES, lines, race
from normball.lab.results import EpochReport, RunResult
from normball.lab.rows import Row
from normball.lab.sweep import Plan, SweepEvent
from normball.lab.tasks import find_task
from normball.lab.workers import Advanced, Finished, Started
from normball.optim.probe import Fit

_SILENCE = 60.0  # seconds without a line, where nothing is drawn


class SweepScreen(Screen):
    """One bar for all runs and one line for each worker.

    Where nothing is drawn, a line is printed for each finished run, and between them for an epoch
    once in a minute.
    """

    def __init__(
        self, plan: Plan, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(console)
        self._clock = clock
        self._spoken = clock()
        self._runs = len(plan.configs)
        self._done = plan.kept
        self._epochs = plan.configs[0].epochs
        self._workers: dict[int, tuple[RunConfig, EpochReport | None]] = {}
        self._task = self._bar.add_task(
            self._title(), total=self._runs * self._epochs, completed=self._done * self._epochs
        )

    def on_event(self, event: SweepEvent) -> None:
        """Show an event."""
        if isinstance(event, Started):
            self._workers[event.worker] = (event.run, None)
        elif isinstance(event, Advanced):
            self._workers[event.worker] = (event.run, event.report)
            self._bar.advance(self._task)
            if self._clock() - self._spoken >= _SILENCE:
                self._say(
                    f"{event.run.describe()}: epoch {event.report.epoch}/{event.report.epochs}  "
                    f"{_epoch_line(event.run, event.report)}"
                )
        else:
            self._finish(event)

    def _finish(self, event: Finished[RunConfig, Row]) -> None:
        config, result = event.run, event.row.result
        self._workers.pop(event.worker)
        self._done += 1
        self._bar.update(
            self._task,
            advance=self._epochs - result.epochs_done,
            description=self._title(),
        )
        outcome = "diverged" if result.diverged else score_text(config, result.score)
        self._say(f"{config.describe()}: {outcome} in {result.seconds:.1f} s")

    def _say(self, text: str) -> None:
        self._line(f"{self._title()}  {text}")
        self._spoken = self._clock()

    def _title(self) -> str:
        return f"{self._done}/{self._runs} runs"

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for title in ("worker", "run"):
            table.add_column(title)
        for title in ("epoch", "loss", "test"):
            table.add_column(title, justify="right")
        for worker, (config, report) in sorted(self._workers.items()):
            table.add_row(
                str(worker + 1),
                config.describe(),
                f"{report.epoch if report else 0}/{config.epochs}",
                f"{report.loss:.4f}" if report else "",
                score_text(config, report.score) if report else "",
            )
        return Group(self._bar, table)


class TrainScreen(Screen):
    """One bar for a run, and its figures under it.

    Args:
        done: epochs that an earlier process did.
    """

    def __init__(self, config: RunConfig, console: Console, *, done: int = 0) -> None:
        super().__init__(console)
        self._config = config
        self._figures = "the first epoch is under way"
        self._task = self._bar.add_task(config.describe(), total=config.epochs, completed=done)

    def on_epoch(self, report: EpochReport) -> None:
        """Show an epoch."""
        self._figures = _epoch_line(self._config, report)
        self._bar.advance(self._task)
        self._line(f"epoch {report.epoch}/{report.epochs}  {self._figures}")

    def _draw(self) -> RenderableType:
        return Group(self._bar, self._figures)


def _epoch_line(config: RunConfig, report: EpochReport) -> str:
    parts = [
        f"loss {report.loss:.4f}",
        f"test {score_name(config)} {score_text(config, report.score)}",
    ]
    if report.trace_name is not None:
        parts.append(f"{report.trace_name.replace('_', ' ')} {report.traced:.3g}")
    if report.clipped_share is not None:
        parts.append(f"clipped {100 * report.clipped_share:.0f} %")
    parts.append(f"{report.per_second:,.0f} examples/s")
    return "  ".join(parts)


def score_name(config: RunConfig) -> str:
    """What the score of a run's task is called."""
    return "accuracy" if find_task(config.task).higher else "loss"


def score_text(config: RunConfig, score: float, digits: int = 1) -> str:
    """A score for reading: an accuracy in percent, a loss as it is.

    Args:
        digits: of a percentage after the point; a loss has two more.
    """
    if find_task(config.task).higher:
        return f"{100 * score:.{digits}f} %"
    return f"{score:.{digits + 2}f}"


def result_line(config: RunConfig, result: RunResult) -> str:
    """A finished run in one sentence."""
    epochs = f"{result.epochs_done} epoch{'s' if result.epochs_done > 1 else ''}"
    ending = f"{epochs} and {result.seconds:.1f} s"
    if result.diverged:
        return (
            f"{config.describe()}: diverged after {ending}, its loss is no longer a finite "
            "number. Try a smaller --lr."
        )
    clipped = (
        f", {100 * result.clipped_share:.0f} % of the steps clipped"
        if result.clipped_share is not None
        else ""
    )
    return (
        f"{config.describe()}: test {score_name(config)} {score_text(config, result.score, 2)}, "
        f"training loss {result.train_loss:.4f}{clipped}, after {ending}."
    )


def fit_lines(config: RunConfig, fit: Fit) -> tuple[str, ...]:
    """A fitted line in words, and what it suggests."""
    low0, high0 = fit.l0_interval
    low1, high1 = fit.l1_interval
    return (
        f"L0 = {fit.l0:.4g} (5 to 95 %: {low0:.4g} to {high0:.4g}), "
        f"L1 = {fit.l1:.4g} ({low1:.4g} to {high1:.4g}), from {fit.count} pairs, "
        f"rank correlation {fit.correlation:.2f}.",
        f"At --lr {config.lr:.4g} this suggests --rho {fit.rho(config.lr):.3g}, "
        "so that the step size below the threshold is 1/L0.",
    )


def layer_table(probe: SmoothnessProbe) -> Table:
    """The fitted line of every parameter."""
    table = Table()
    for title in ("parameter", "L0", "L1", "rank correlation"):
        table.add_column(title, justify="left" if title == "parameter" else "right")
    for name, pairs in probe.layers().items():
        if int(pairs.isfinite().all(0).sum()) < 3:  # it moved in too few steps
            table.add_row(name, "-", "-", "-")
            continue
        fit = probe.fit(layer=name)
        table.add_row(name, f"{fit.l0:.3g}", f"{fit.l1:.3g}", f"{fit.correlation:.2f}")
    return table


def tables(cells: Sequence[Cell]) -> list[Table]:
    """For every schedule the optimizers' best settings, and how soon each is at the goal of all."""
    found = []
    for view in views(cells):
        found.append(_table(view.steps, BEST, best_lines(view.cells)))
        if (goal := race(view.cells)) is not None:
            reached = f"{view.steps}, to {goal.goal:.4g}, which every seed at the best reaches"
            found.append(_table(reached, TITLES, lines(goal)))
    return found


def _table(title: str, titles: Sequence[str], content: Sequence[Sequence[str]]) -> Table:
    table = Table(*titles, title=title)
    for line in content:
        table.add_row(*line)
    return table
