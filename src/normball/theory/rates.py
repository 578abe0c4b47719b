"""Test every statement of the theory, and report which ones hold."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

from normball._spawned import settle_in
from normball.theory.checks import GEOMETRIES, KINDS, check
from normball.theory.pictures import draw_curves, draw_separation
from normball.theory.printed import Counterexample, counterexamples
from normball.theory.separation import Separation, separate
from normball.theory.verdicts import Curve, Row

__all__ = ["Report", "measure_rates", "run_rates"]

_FIGURES = {
    "relative": ("deterministic", "Unconstrained, (L0, L1)-smooth"),
    "constrained": ("constrained", "In the ball, L-smooth"),
    "stochastic ggnc": (
        "stochastic-ggnc",
        "With noise, the measured error put in",
    ),
    "stochastic s3cg": ("stochastic-s3cg", "With noise, in the ball, the measured error put in"),
}


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
        lines = [
            "| statement | norm | verdict | measured/bound, largest | fitted slope [over seeds] |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            verdict = "holds" if row.holds else "FAILS"
            slope = "" if row.slope is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row.slope)
            lines.append(
                f"| {row.statement} | {row.norm} | {verdict} | {row.tightest:.3g} | {slope} |"
            )
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


def measure_rates(n: int = 10_000, seeds: Sequence[int] = tuple(range(8)), jobs: int = 2) -> Report:
    """Run every statement in the norms Euclidean, Sign, Spectral and a Product.

    Args:
        n: steps of every run, at least 100.
        seeds: one run for each, side by side.
        jobs: processes; 1 runs all in this one.

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
    outcomes = dict(zip(names, _run_all(names, n, list(seeds), jobs), strict=True))
    rows, curves = [], {}
    for kind in KINDS:
        parts = [outcomes[kind, name] for name in GEOMETRIES]
        rows += [row for part, _ in parts for row in part]
        curves[kind] = tuple(curve for _, part in parts for curve in part)
    return Report(tuple(rows), curves, counterexamples(), separate())


def _run_all(
    names: list[tuple[str, str]], n: int, seeds: list[int], jobs: int
) -> Iterator[tuple[list[Row], list[Curve]]]:
    if jobs == 1:
        yield from (check(kind, name, n, seeds) for kind, name in names)
        return
    before = set(active_children())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), settle_in)
    try:
        futures = [pool.submit(check, kind, name, n, seeds) for kind, name in names]
        yield from (future.result() for future in futures)
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
) -> bool:
    """Run every statement, write `rates.md` and its figures, and say whether all hold.

    Args:
        out_dir: made if it does not exist.
        n: steps of every run, at least 100.
        seeds: one run for each, side by side.
        jobs: processes.

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
    report = measure_rates(n, seeds, jobs)
    (folder / "rates.md").write_text(report.table(), encoding="utf-8")
    for kind, (stem, title) in _FIGURES.items():
        draw_curves(report.curves[kind], title, folder / f"{stem}.svg")
    draw_separation(report.separation, folder / "separation.svg")
    return report.holds
