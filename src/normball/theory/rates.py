"""Test every statement of the theory, and report which ones hold."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

from normball._spawned import settle_in
from normball.theory.checks import GEOMETRIES, KINDS, check
from normball.theory.pictures import draw_curves, draw_separation
from normball.theory.printed import Counterexample, counterexamples
from normball.theory.separation import Separation, separate
from normball.theory.verdicts import Curve, Outcome, Row

__all__ = ["Part", "Report", "measure_rates", "run_rates"]

_TABLE = "rates.md"
_UNFINISHED = "rates-unfinished.md"

_FIGURES = {
    "relative": ("deterministic", "Unconstrained, (L0, L1)-smooth"),
    "constrained": ("constrained", "In the ball, L-smooth"),
    "stochastic ggnc": (
        "stochastic-ggnc",
        "With noise, the measured error put in",
    ),
    "stochastic s3cg": ("stochastic-s3cg", "With noise, in the ball, the measured error put in"),
    "measured threshold": ("measured-threshold", "Steps between two lengths, with momentum"),
    "constant-free": ("constant-free", "Backtracking, (L0, L1)-smooth"),
}


@dataclass(frozen=True)
class Part:
    """One kind of statements in one norm, which has just been tested.

    Attributes:
        kind: of the statements.
        norm: in words.
        rows: the verdicts.
        done: how many parts are finished, with this one.
        total: how many there are.
    """

    kind: str
    norm: str
    rows: tuple[Row, ...]
    done: int
    total: int

    def __str__(self) -> str:
        failed = [row.statement for row in self.rows if not row.holds]
        total = len(self.rows)
        verdict = f"{total - len(failed)} of {total} statements hold"
        if failed:
            verdict += f"; FAIL: {', '.join(failed)}"
        return f"[{self.done}/{self.total}] {self.kind}, {self.norm}: {verdict}"


@dataclass(frozen=True)
class Report:
    """The results.

    Attributes:
        rows: one per statement and norm.
        curves: by kind of statement.
        counterexamples: to the printed statements.
        separation: how SD, uCG and GGNC behave as their steps grow.
    """

    rows: tuple[Row, ...]
    curves: dict[str, tuple[Curve, ...]]
    counterexamples: tuple[Counterexample, ...]
    separation: Separation

    @property
    def holds(self) -> bool:
        """Whether all our statements hold, and all counterexamples still contradict the paper's."""
        statements = all(row.holds for row in self.rows)
        fails = all(c.printed < c.measured <= c.ours * (1 + 1e-9) for c in self.counterexamples)
        return statements and fails and self.separation.holds

    def table(self) -> str:
        """Return the verdicts as a Markdown table."""
        lines = _verdicts(self.rows)
        lines += ["", "| printed statement | where it fails | measured | printed | ours |"]
        lines.append("|---|---|---|---|---|")
        for one in self.counterexamples:
            lines.append(
                f"| {one.statement} | {one.problem} | {one.measured:.4g} | {one.printed:.4g} | "
                f"{one.ours:.4g} |"
            )
        verdict = "holds" if self.separation.holds else "FAILS"
        lines += ["", f"SD diverges, uCG stalls at its radius, GGNC does neither: {verdict}."]
        return "\n".join(lines) + "\n"


def _verdicts(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| statement | norm | verdict | measured/bound, largest | fitted slope [over seeds] |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = "holds" if row.holds else "FAILS"
        slope = "" if row.slope is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row.slope)
        lines.append(f"| {row.statement} | {row.norm} | {verdict} | {row.tightest:.3g} | {slope} |")
    return lines


def measure_rates(
    n: int = 10_000,
    seeds: Sequence[int] = tuple(range(8)),
    jobs: int = 2,
    on_part: Callable[[Part], None] | None = None,
) -> Report:
    """Run every statement in the norms Euclidean, Sign, Spectral and a Product.

    Args:
        n: steps of every run, at least 100.
        seeds: one run for each, side by side.
        jobs: processes; 1 runs all in this one.
        on_part: called with every part once it is finished.

    Raises:
        ValueError: `n` below 100, no seed or one out of range, or no process.
    """
    if n < 100:
        raise ValueError(f"n={n} must be at least 100: slopes are fitted over two decades")
    if not seeds:
        raise ValueError("seeds must name at least one")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"a seed must be at least 0 and below 2^63, got {seed}")
    if jobs < 1:
        raise ValueError(f"jobs={jobs} must be at least 1")
    # Longest first, so that one process is not left with it at the end.
    names = [(kind, name) for name in reversed(GEOMETRIES) for kind in reversed(KINDS)]
    outcomes: dict[tuple[str, str], Outcome] = {}
    for (kind, name), outcome in _run_all(names, n, list(seeds), jobs):
        outcomes[kind, name] = outcome
        if on_part is not None:
            on_part(Part(kind, name, tuple(outcome[0]), len(outcomes), len(names)))
    rows, curves = [], {}
    for kind in KINDS:
        parts = [outcomes[kind, name] for name in GEOMETRIES]
        rows += [row for part, _ in parts for row in part]
        curves[kind] = tuple(curve for _, part in parts for curve in part)
    return Report(tuple(rows), curves, counterexamples(), separate())


def _run_all(
    names: list[tuple[str, str]], n: int, seeds: list[int], jobs: int
) -> Iterator[tuple[tuple[str, str], Outcome]]:
    """Yield every part's name and outcome, in the order in which they finish."""
    if jobs == 1:
        yield from ((part, check(*part, n, seeds)) for part in names)
        return
    before = set(active_children())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), settle_in)
    try:
        futures = {pool.submit(check, *part, n, seeds): part for part in names}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
    finally:
        # After Ctrl-C or a failure, do not wait for the rest, which may take hours.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(active_children()) - before:
            worker.kill()


def run_rates(
    out_dir: str | Path,
    n: int = 10_000,
    seeds: Sequence[int] = tuple(range(8)),
    jobs: int = 2,
    on_part: Callable[[Part], None] | None = None,
) -> bool:
    """Run every statement, write `rates.md` and its figures, and say whether all hold.

    While it runs, `rates-unfinished.md` holds the verdicts so far. It stays there if the run is
    interrupted; the files of an earlier run stay too, until the new ones are complete.

    Args:
        out_dir: made if it does not exist.
        n: steps of every run, at least 100.
        seeds: one run for each, side by side.
        jobs: processes.
        on_part: called with every part once it is finished and on disk.

    Returns:
        Whether every statement held at every n, in every norm and run.

    Raises:
        ValueError: `n` below 100, no seed or one out of range, or no process.
        OSError: a file cannot be written.

    Examples:
        >>> from normball.theory import run_rates
        >>> run_rates("rates", n=100, seeds=[0], jobs=1)  # doctest: +SKIP
        True
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []

    def keep(part: Part) -> None:
        rows.extend(part.rows)
        lines = [f"Unfinished: {part.done} of {part.total} parts.", "", *_verdicts(rows)]
        _write(folder / _UNFINISHED, "\n".join(lines) + "\n")
        if on_part is not None:
            on_part(part)

    report = measure_rates(n, seeds, jobs, keep)
    _write(folder / _TABLE, report.table())
    (folder / _UNFINISHED).unlink()
    for kind, (stem, title) in _FIGURES.items():
        draw_curves(report.curves[kind], title, folder / f"{stem}.svg")
    draw_separation(report.separation, folder / "separation.svg")
    return report.holds


def _write(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
