"""Claims judged on fresh seeds, which are added in pairs until the claims are decided.

A figure's own seeds choose the settings that a claim compares, and do not judge it. The seeds from
``FIRST_SEED`` on judge it, in their order. A claim is decided at the first look whose interval
decides it, and seeds that come later change nothing. All of this follows from the finished rows
alone. So it does not matter in how many sittings, and in which order, they were made.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from normball.lab.cells import Cell, check_one_data, make_cells
from normball.lab.claims import KINDS, LEVEL, Claim, Verdict, outcome, unmeasured
from normball.lab.config import RunConfig
from normball.lab.rows import Row
from normball.lab.sequential import LOOKS, repeated_interval

FIRST_SEED = 100


@dataclass(frozen=True)
class Standing:
    """How far a claim has come.

    Attributes:
        verdict: at the last look at which all runs are there, or at the one that decided.
        cells: the chosen settings, with the fresh seeds of that look.
        missing: runs that choose, or else that the next look needs; empty at the end.
    """

    verdict: Verdict
    cells: tuple[Cell, ...] = ()
    missing: tuple[RunConfig, ...] = ()


def stand(
    configs: Sequence[RunConfig], claims: Iterable[Claim], rows: Iterable[Row]
) -> tuple[Standing, ...]:
    """How far the claims have come; none has begun before all runs that choose are there.

    Args:
        configs: the runs that choose the settings, with seeds below ``FIRST_SEED``.

    Raises:
        LabError: if runs that choose, or runs that judge, were made on different data.
    """
    there = {row.config.key(): row for row in rows}
    # In the order of the configurations, because among equal settings the first is chosen.
    if missing := tuple(config for config in configs if config.key() not in there):
        return tuple(Standing(unmeasured(claim), (), missing) for claim in claims)
    cells = make_cells(there[config.key()] for config in configs)
    check_one_data(cells)
    return tuple(_stand(claim, cells, there) for claim in claims)


def _stand(claim: Claim, cells: Sequence[Cell], there: Mapping[str, Row]) -> Standing:
    kind, found = KINDS[claim.kind], Standing(unmeasured(claim))
    chosen = kind.choose(claim, cells)
    if chosen is None:
        return found
    for count in LOOKS:
        wanted = [
            [replace(cell.rows[0].config, seed=FIRST_SEED + n) for n in range(count)]
            for cell in chosen
        ]
        missing = [config for each in wanted for config in each if config.key() not in there]
        if missing:
            return replace(found, missing=tuple(missing))
        fresh = tuple(Cell(tuple(there[config.key()] for config in each)) for each in wanted)
        check_one_data(fresh)
        finding = kind.measure(claim, *fresh)
        low, high = repeated_interval(finding.values, LEVEL)
        result = outcome(claim, low, high)
        found = Standing(Verdict(claim, result, finding, low, high, "fresh seeds"), fresh)
        # Where a run diverged, no further seed can give the mean an interval.
        if result != "undecided" or math.isinf(low):
            break
    return found


def next_runs(standings: Iterable[Standing]) -> tuple[RunConfig, ...]:
    """The runs that claims need to go on, each once, by ascending seed."""
    runs = {config.key(): config for standing in standings for config in standing.missing}
    return tuple(sorted(runs.values(), key=lambda config: config.seed))
