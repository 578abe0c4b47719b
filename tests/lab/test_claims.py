import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normball.lab.cells import best, best_per_step, make_cells, of
from normball.lab.claims import KINDS, LEVEL, Claim, interval, judge, read_claim, share_saved
from normball.lab.errors import LabError
from normball.lab.optimizers import configure
from normball.lab.results import RunResult
from normball.lab.rows import Row
from normball.lab.tasks import find_task
from tests.lab.samples import RESULT, row


def loss_row(optimizer: str, lr: float, seed: int, scores: list[float], **more: object) -> Row:
    config = configure(
        find_task("shakespeare"), optimizer, lr=lr, seed=seed, epochs=len(scores), **more
    )
    result = replace(RESULT, score=scores[-1], scores=scores)
    return Row(config, result, {}, "A box")


def pair(ours: list[float], theirs: list[float]) -> list[Row]:
    """Accuracies of Clipped Scion and of Scion, one per seed, at one step."""
    rows = [row("clipped-scion", seed=s, percent=p) for s, p in enumerate(ours)]
    return rows + [row("scion", seed=s, percent=p) for s, p in enumerate(theirs)]


def claim(kind: str, **more: object) -> Claim:
    return Claim(kind, "it is so", "clipped-scion", "scion", **more)


def test_cells_hold_all_seeds_of_equal_settings() -> None:
    rows = [row(lr=lr, seed=seed, percent=50 + seed) for seed in (2, 0, 1) for lr in (0.5, 0.25)]
    cells = make_cells(rows)
    assert [(cell.lr, list(cell.scores)) for cell in cells] == [(0.5, [0, 1, 2]), (0.25, [0, 1, 2])]
    assert cells[0].mean == pytest.approx(51)


def test_the_best_is_that_of_the_task() -> None:
    good, bad = row(lr=0.25, percent=90), row(lr=0.5, percent=80)
    assert best(make_cells([bad, good])).lr == 0.25
    low, high = loss_row("scion", 0.25, 0, [1.0]), loss_row("scion", 0.5, 0, [2.0])
    assert best(make_cells([high, low])).lr == 0.25
    tie = [row(lr=lr, percent=90) for lr in (0.5, 0.25)]
    assert best(make_cells(tie)).lr == 0.25
    lost = loss_row("scion", 0.1, 0, [math.nan])
    assert best(make_cells([lost, high])).lr == 0.5


def test_the_threshold_is_chosen_at_every_step() -> None:
    rows = [
        loss_row("clipped-scion", lr, 0, [lr + abs(rho - 4)], rho=rho)
        for lr in (0.5, 0.25)
        for rho in (2.0, 4.0, 8.0)
    ]
    line = best_per_step(of(make_cells(rows), "clipped-scion"))
    assert [(cell.lr, cell.rho) for cell in line] == [(0.25, 4.0), (0.5, 4.0)]


def test_the_interval_is_students() -> None:
    values = [1.0, 2.5, 0.5, 3.0]
    expected = stats.t.interval(
        LEVEL, 3, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(4)
    )
    assert interval(values) == pytest.approx(expected)
    assert interval([1.0]) == (-math.inf, math.inf)
    assert interval([1.0, math.inf]) == (math.inf, math.inf)
    assert interval([1.0, math.inf, -math.inf]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("ours", "bounds", "outcome"),
    [
        ([92.0, 92.1, 91.9], {"at_least": 1.0}, "holds"),
        ([90.1, 90.0, 90.2], {"at_least": 1.0}, "fails"),
        ([92.0, 89.0, 93.0], {"at_least": 1.0}, "undecided"),
        ([90.1, 89.9, 90.0], {"at_least": -1.0, "at_most": 1.0}, "holds"),
        ([93.0, 93.1, 92.9], {"at_least": -1.0, "at_most": 1.0}, "fails"),
        ([92.0], {"at_least": 1.0}, "undecided"),
        # A method that is the other one is not above it.
        ([90.0, 90.0, 90.0], {"at_least": 0.0}, "undecided"),
    ],
)
def test_a_claim_is_decided_by_its_interval(ours, bounds, outcome: str) -> None:
    rows = pair(ours, [90.0] * len(ours))
    verdict = judge(claim("gain-of-best", **bounds), make_cells(rows))
    assert verdict.outcome == outcome
    assert verdict.finding.values == pytest.approx([value - 90 for value in ours])
    assert outcome in verdict.sentence


def test_a_loss_gains_when_it_falls() -> None:
    rows = [loss_row("clipped-scion", 0.25, s, [1.0]) for s in range(3)]
    rows += [loss_row("scion", 0.25, s, [1.5]) for s in range(3)]
    verdict = judge(claim("gain-of-best", at_least=0.1), make_cells(rows))
    assert verdict.finding.values == pytest.approx([0.5] * 3)
    assert verdict.outcome == "holds"


def test_what_is_lost_far_from_the_best_step() -> None:
    rows = []
    for seed in range(3):
        for lr, plain, clipped in ((0.25, 90, 88), (0.5, 80, 91), (1.0, 20, 90), (2.0, 10, 50)):
            rows.append(row("scion", lr, seed, plain + seed))
            rows.append(row("clipped-scion", lr, seed, clipped + seed))
    cells = make_cells(rows)
    keeps = judge(claim("keeps", at_least=-100, at_most=3.0, factor=4.0), cells)
    assert keeps.finding.values == pytest.approx([1.0] * 3)
    assert keeps.outcome == "holds"
    loses = judge(claim("loses", at_least=5.0, factor=4.0), cells)
    assert loses.finding.values == pytest.approx([70.0] * 3)
    assert loses.outcome == "holds"
    assert judge(claim("loses", factor=64.0), cells).outcome == "undecided"


def test_steps_saved_are_counted_between_epochs() -> None:
    rows = [loss_row("scion", 0.25, 0, [4.0, 3.0, 2.5, 2.0])]
    rows += [loss_row("clipped-scion", 0.25, 0, [3.0, 2.5, 1.5, 1.0])]
    verdict = judge(claim("steps-saved"), make_cells(rows))
    assert verdict.finding.values == pytest.approx([1 - 2.5 / 4])
    # Ours is the slower one: Scion was at 2.25 halfway between its epochs 3 and 4.
    rows[1] = loss_row("clipped-scion", 0.25, 0, [3.0, 2.5, 2.4, 2.25])
    assert judge(claim("steps-saved"), make_cells(rows)).finding.values == pytest.approx([-0.5 / 4])


def test_a_seed_that_misses_the_goal_decides_nothing_alone() -> None:
    rows = [loss_row("scion", 0.25, s, [2.0, 1.5, 1.2, 1.0]) for s in range(4)]
    rows += [loss_row("clipped-scion", 0.25, s, [1.5, 1.0, 0.9, 0.8]) for s in range(3)]
    rows += [loss_row("clipped-scion", 0.25, 3, [2.0, 1.5, 1.2, 1.1])]
    verdict = judge(claim("steps-saved", at_least=0.05), make_cells(rows))
    assert verdict.finding.values == pytest.approx([0.5, 0.5, 0.5, -0.125])
    assert verdict.outcome == "undecided"
    assert math.isfinite(verdict.low)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_the_share_saved_is_a_share_and_turns_with_the_runs(data, higher: bool) -> None:
    def run() -> RunResult:
        scores = data.draw(st.lists(st.floats(0.1, 5), min_size=6, max_size=6))
        return replace(RESULT, scores=scores, score=scores[-1])

    ours, theirs = run(), run()
    share = share_saved(ours, theirs, higher=higher)
    assert -1 <= share <= 1
    assert share == -share_saved(theirs, ours, higher=higher)
    lost = replace(theirs, score=math.nan)
    assert share_saved(ours, lost, higher=higher) == 1
    assert share_saved(lost, replace(ours, diverged=True), higher=higher) == 0


def test_growth_is_that_of_the_gap_from_one_tenth_to_the_last() -> None:
    # A gap of 2, of 5 from the second quarter on, of 10 and more in the last tenth.
    traces = [[2.0] * 10 + [5.0] * 26 + [10.0 + seed] * 4 for seed in range(3)]
    made = [
        replace(r, result=replace(r.result, trace=trace, trace_name="gap"))
        for seed, trace in enumerate(traces)
        for r in [row("clipped-scion", seed=seed)]
    ]
    verdict = judge(Claim("grows", "", "clipped-scion", at_least=1.0), make_cells(made))
    assert verdict.finding.values == pytest.approx([5.0, 5.5, 6.0])
    assert verdict.outcome == "holds"
    later = judge(Claim("grows", "", "clipped-scion", since=0.9), make_cells(made))
    assert later.finding.values == pytest.approx([2.0, 2.2, 2.4])
    free = [replace(r, result=replace(r.result, trace_name="dual_norm")) for r in made]
    assert judge(Claim("grows", "", "clipped-scion"), make_cells(free)).finding is None
    with pytest.raises(LabError, match=r"since must be a share of the run .* got 0"):
        Claim("grows", "", "clipped-scion", since=0.0)


def test_the_middle_is_held_against_the_better_end() -> None:
    rows = [
        loss_row("clipped-scion", 0.25, seed, [value], rho=rho)
        for seed in range(3)
        for rho, value in ((1.0, 2.0), (4.0, 1.4), (8.0, 1.2), (64.0, 1.5))
    ]
    verdict = judge(Claim("middle-wins", "", "clipped-scion"), make_cells(rows))
    assert verdict.finding.values == pytest.approx([0.3] * 3)
    two = [r for r in rows if r.config.rho in (1.0, 64.0)]
    assert judge(Claim("middle-wins", "", "clipped-scion"), make_cells(two)).finding is None


@pytest.mark.parametrize("kind", KINDS)
def test_without_runs_nothing_is_decided(kind: str) -> None:
    verdict = judge(claim(kind), make_cells([row("adam")]))
    assert verdict.outcome == "undecided"
    assert "not there" in verdict.sentence


def test_a_claim_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match=r"fig9.toml.*atleast"):
        read_claim("fig9.toml", {"kind": "keeps", "text": "", "ours": "scion", "atleast": 1})
    with pytest.raises(LabError, match="unknown kind of claim 'keep': did you mean 'keeps'"):
        read_claim("fig9.toml", {"kind": "keep", "text": "", "ours": "scion"})
