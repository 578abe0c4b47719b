"""Claims judged on fresh seeds, two at a time, until they are decided.

The figure's own seeds choose the settings that a claim compares. Seeds from 100 on judge them.
After 4, 6, ..., 20 of these the interval of the mean effect is looked at, and the first look that
decides ends it. So that nine looks together err no more often than one, each interval is wider.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from normball.lab.cells import Cell, make_cells
from normball.lab.claims import Claim, Verdict, choose, measure, weigh
from normball.lab.config import RunConfig
from normball.lab.reproduce import Experiment
from normball.lab.rows import Row

FIRST_SEED = 100
LOOKS = tuple(range(4, 21, 2))
"""After how many seeds a claim is looked at."""

# Pocock's rule (Biometrika 1977): one nominal level for all looks, applied to Student's intervals
# (Jennison and Turnbull, "Group Sequential Methods", 2000, chapter 4). With 2.4 % at each of these
# looks, 9.9 % of claims whose effect lies on the bound are decided: a test repeats the simulation.
NOMINAL = 1 - 0.024


@dataclass(frozen=True)
class Trial:
    """A claim under trial.

    Attributes:
        claim: the claim.
        chosen: the settings that it compares, of seed ``FIRST_SEED``; empty if the figure's own
            runs are too few to choose any.
    """

    claim: Claim
    chosen: tuple[RunConfig, ...]

    def verdict(self, rows: Sequence[Row]) -> Verdict:
        """The verdict at the first look that decides, or at the last one that can be held.

        Later rows do not change it, so a trial that was interrupted ends as any other.

        Args:
            rows: finished runs, those of other settings and seeds included.
        """
        found = Verdict(self.claim, "undecided", None, float("nan"), float("nan"), FIRST_SEED)
        for seeds in LOOKS:
            cells = self._cells(rows, seeds)
            if cells is None:
                break
            found = weigh(self.claim, measure(self.claim, cells), NOMINAL)
            found = replace(found, seeds=FIRST_SEED)
            if found.outcome != "undecided":
                break
        return found

    def wanted(self, rows: Sequence[Row]) -> tuple[RunConfig, ...]:
        """The runs up to the next look; none once the claim is decided or all looks are held.

        Args:
            rows: finished runs.
        """
        if not self.chosen or self.verdict(rows).outcome != "undecided":
            return ()
        done = {row.config.key() for row in rows}
        for seeds in LOOKS:
            missing = [config for config in self._configs(seeds) if config.key() not in done]
            if missing:
                return tuple(missing)
        return ()

    def _configs(self, seeds: int) -> list[RunConfig]:
        return [
            replace(config, seed=seed)
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
            for config in self.chosen
        ]

    def _cells(self, rows: Sequence[Row], seeds: int) -> list[Cell] | None:
        """The chosen settings with the runs of the first seeds; None if some are missing."""
        by_key = {row.config.key(): row for row in rows}
        cells: list[Cell] = []
        for config in self.chosen:
            keys = [
                replace(config, seed=seed).key() for seed in range(FIRST_SEED, FIRST_SEED + seeds)
            ]
            if any(key not in by_key for key in keys):
                return None
            cells += make_cells(by_key[key] for key in keys)
        return cells or None


def make_trials(experiment: Experiment, rows: Sequence[Row]) -> tuple[Trial, ...]:
    """A trial for every claim of a figure.

    Args:
        experiment: all of whose runs are among the rows.
        rows: finished runs.
    """
    keys = {config.key() for config in experiment.configs}
    cells = make_cells([row for row in rows if row.config.key() in keys])
    trials = []
    for claim in experiment.claims:
        chosen = choose(claim, cells) or ()
        configs = tuple(replace(cell.rows[0].config, seed=FIRST_SEED) for cell in chosen)
        trials.append(Trial(claim, configs))
    return tuple(trials)


def next_runs(trials: Sequence[Trial], rows: Sequence[Row]) -> tuple[RunConfig, ...]:
    """The runs that undecided claims need for their next looks, each once, the first seeds first.

    Args:
        trials: from ``make_trials``.
        rows: finished runs.
    """
    wanted = {config.key(): config for trial in trials for config in trial.wanted(rows)}
    return tuple(sorted(wanted.values(), key=lambda config: config.seed))
