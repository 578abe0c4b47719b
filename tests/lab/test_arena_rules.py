"""The arena's rules: equal tuning, the grid's edges, and verdicts against examples by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from normball.lab.arena.choose import chosen, pending, tried
from normball.lab.arena.judge import (
    Interval,
    Standing,
    paired,
    profile,
    ranks,
    reach,
    stand,
    time_to_goal,
    verdicts,
)
from normball.lab.arena.methods import METHODS
from normball.lab.arena.page import brief, write_page
from normball.lab.arena.protocol import Claim, Protocol, declare, demo, quick, select, whole
from normball.lab.arena.record import Row
from normball.lab.errors import LabError
from tests.lab.arena import row

RULES = Protocol(tasks=("chars",), judge=(0, 1), settings=3, extensions=2)


def tune(score: Callable[[float], float], method: str = "adamw") -> tuple[list[Row], list[float]]:
    """Do what is pending on the choosing seed until nothing is, and say in which order."""
    rows: list[Row] = []
    order = []
    while wanted := [r for r in pending(RULES, rows, "chars", method) if r.seed == RULES.choose]:
        rows += [row(method, r.value, r.seed, score(r.value)) for r in wanted]
        order += [r.value for r in wanted]
    return rows, order


@pytest.mark.parametrize("rules", [whole(), quick()], ids=["whole", "quick"])
def test_every_method_gets_the_same_number_of_settings(rules: Protocol) -> None:
    tuned = [name for name in rules.methods if METHODS[name].tuned]
    assert len(tuned) == 8
    assert {len(set(rules.grid(name))) for name in tuned} == {rules.settings}
    assert [len(rules.grid(n)) for n in rules.methods if n not in tuned] == [1]
    for name in tuned:  # log-spaced, around what is recommended
        grid = rules.grid(name)
        assert METHODS[name].centre == pytest.approx(grid[rules.settings // 2])
        assert grid[-1] / grid[0] == pytest.approx(METHODS[name].factor ** (rules.settings - 1))


def test_the_choosing_seed_is_not_judged() -> None:
    for rules in (whole(), quick()):
        assert rules.choose not in rules.judge
    assert len(whole().judge) >= 3
    assert len(whole().tasks) >= 8


def test_a_best_setting_inside_the_grid_ends_the_search() -> None:
    rows, order = tune(lambda value: abs(math.log2(value / 4e-3)))
    assert order == [2e-3, 4e-3, 8e-3]
    assert chosen(RULES, rows, "chars", "adamw") == 4e-3
    assert [(r.value, r.seed) for r in pending(RULES, rows, "chars", "adamw")] == [
        (4e-3, 0),
        (4e-3, 1),
    ]


@pytest.mark.parametrize(
    ("best", "order"),
    [
        (16e-3, [2e-3, 4e-3, 8e-3, 16e-3, 32e-3]),
        (8e-3, [2e-3, 4e-3, 8e-3, 16e-3]),
        (0.5e-3, [2e-3, 4e-3, 8e-3, 1e-3, 0.5e-3]),
    ],
)
def test_a_best_setting_at_an_edge_extends_the_grid_there(best: float, order: list[float]) -> None:
    rows, made = tune(lambda value: abs(math.log2(value / best)))
    assert made == pytest.approx(order)
    assert chosen(RULES, rows, "chars", "adamw") == pytest.approx(best)
    assert list(tried(RULES, rows, "chars", "adamw")) == sorted(made)


def test_the_grid_grows_so_often_and_no_more() -> None:
    rows, order = tune(lambda value: -value)
    assert order == pytest.approx([2e-3, 4e-3, 8e-3, 16e-3, 32e-3])
    (judged,) = {r.value for r in pending(RULES, rows, "chars", "adamw")}
    assert judged == pytest.approx(32e-3)
    standing = stand(RULES, [*rows, *(row("adamw", judged, seed, 1.0) for seed in (0, 1))], "chars")
    assert standing.entries["adamw"].edge
    assert len(standing.entries["adamw"].tried) == 5


def test_what_diverges_is_not_chosen_and_what_is_not_tuned_is_judged_at_once() -> None:
    rows, _ = tune(lambda value: math.inf if value > 2e-3 else 1 / value)
    assert chosen(RULES, rows, "chars", "adamw") == 2e-3
    assert [r.seed for r in pending(RULES, [], "chars", "untuned")] == [0, 1]


def test_settings_are_chosen_by_the_other_half_and_seed() -> None:
    rows = [
        row("adamw", 2e-3, 100, score=1.0, choose=3.0),
        row("adamw", 4e-3, 100, score=3.0, choose=1.0),
        row("adamw", 8e-3, 100, score=2.0, choose=2.0),
    ]
    assert chosen(RULES, rows, "chars", "adamw") == 4e-3
    judged = row("adamw", 2e-3, 0, score=0.0, choose=0.0)
    assert chosen(RULES, [*rows, judged], "chars", "adamw") == 4e-3


def test_paired_intervals_are_students() -> None:
    found = paired([1.0, 2.0, 3.0], [1.5, 2.0, 4.0], 0.95)
    # Differences -.5, 0, -1: mean -.5, deviation .5; Student's 97.5 % point with 2 is 4.30265.
    assert found.mean == pytest.approx(-0.5)
    assert found.half == pytest.approx(4.30265 * 0.5 / math.sqrt(3), rel=1e-5)
    assert not found.below
    assert Interval(-0.5, 0.4).below
    assert Interval(0.5, 0.4).above


def test_a_run_that_diverged_is_worse_than_any_other() -> None:
    assert paired([1.0, math.inf], [1.0, 2.0], 0.95).above
    assert paired([1.0, 2.0], [1.0, math.inf], 0.95).below
    both = paired([1.0, math.inf], [math.inf, 2.0], 0.95)
    assert not both.above
    assert not both.below


def standing(task: str, means: dict[str, float]) -> Standing:
    """A finished task of two seeds, .1 to both sides of each mean."""
    rules = replace(RULES, methods=tuple(means), settings=1, extensions=0, tasks=(task,))
    rows = []
    for method, mean in means.items():
        value = rules.grid(method)[0]
        rows += [row(method, value, 100, mean, task=task)] if METHODS[method].tuned else []
        rows += [row(method, value, seed, mean + d, task=task) for seed, d in ((0, 0.1), (1, -0.1))]
    return stand(rules, rows, task)


def test_ranks_by_hand() -> None:
    first = standing("chars", {"adamw": 2.0, "muon": 1.0, "decay": 3.0})
    second = standing("lstm", {"adamw": 2.0, "muon": 1.5, "decay": 1.5})
    open_ = replace(second, complete=False)
    assert ranks([first, second, open_]) == {
        "muon": [1.0, 1.5],
        "adamw": [2.0, 3.0],
        "decay": [3.0, 1.5],
    }


def test_a_profile_by_hand() -> None:
    times = {"a": [10.0, 40.0, math.inf], "b": [20.0, 20.0, 30.0], "c": [math.inf] * 3}
    assert profile(times) == {
        "a": [(1.0, pytest.approx(1 / 3)), (2.0, pytest.approx(2 / 3))],
        "b": [(1.0, pytest.approx(1 / 3)), (1.0, pytest.approx(2 / 3)), (2.0, pytest.approx(1.0))],
        "c": [],
    }


def test_the_time_to_a_goal_is_read_straight_between_points() -> None:
    result = row("muon", 1e-3, 0, 1.0, curve=[(50, 3.0), (100, 1.0)]).result
    assert reach(result, 1.5) == pytest.approx((87.5, 8.75))
    assert reach(result, 5.0) == pytest.approx((50.0, 5.0))
    assert reach(result, 0.5) == (math.inf, math.inf)
    both = standing("chars", {"adamw": 2.0, "muon": 1.0})
    # On seed 0 from 2.2 at step 50 to 1.1 at 100, to AdamW's 2.1; on seed 1 there at once.
    assert time_to_goal(both, "muon")[0] == pytest.approx((50 + 50 * 0.1 / 1.1 + 50) / 2)
    assert time_to_goal(both, "adamw")[0] == pytest.approx(100)


def test_claims_are_counted_task_by_task() -> None:
    ours = standing("chars", {"adamw": 2.0, "muon": 2.5, "decay": 1.0, "untuned": 1.03})
    theirs = standing("lstm", {"adamw": 1.0, "muon": 0.9, "decay": 2.0, "untuned": 0.91})
    names = ("adamw", "muon", "decay", "untuned")
    kinds = {
        "first": (["chars"], "decay"),
        "beats-adamw": (["chars"], "decay"),
        "beats-muon": (["chars"], "decay"),
        "no-worse-than-muon": (["chars"], "decay"),
        "near": (["lstm"], "untuned"),
    }
    claims = tuple(Claim(kind, kind, method, 1.0) for kind, (_, method) in kinds.items())
    rules = replace(RULES, tasks=("chars", "lstm"), methods=names, claims=claims)
    found = verdicts(rules, [ours, theirs])
    assert {v.claim.kind: list(v.held) for v in found} == {
        k: held for k, (held, _) in kinds.items()
    }
    assert {v.outcome for v in found} == {"fails"}
    half = replace(rules, claims=tuple(replace(claim, share=0.5) for claim in claims))
    assert {v.outcome for v in verdicts(half, [ours, theirs])} == {"holds"}
    assert {v.outcome for v in verdicts(half, [])} == {"undecided"}


def test_the_demo_holds_nothing_tuned_against_what_is() -> None:
    rules = replace(demo(), tasks=("chars",), judge=(0,))
    values = {method: rules.grid(method) for method in rules.methods}
    rows = []
    for method, best in (("adamw", 1.0), ("anytime", 0.9)):
        tuning = zip(values[method], (2.0, 1.5, 1.0, 1.5, 2.0), strict=True)
        rows += [row(method, value, 100, score) for value, score in tuning]
        rows.append(row(method, values[method][2], 0, best))
    for score, outcome in ((0.95, "fails"), (0.91, "holds")):  # 2 % above .9 is .918
        lines = brief(rules, [*rows, row("untuned", values["untuned"][0], 0, score)])
        assert lines[0].startswith("chars, nats: Clipped Scion, anytime 0.9; ")
        assert lines[1].endswith(f"It {outcome} ({int(outcome == 'holds')} of 1 tasks).")


@pytest.mark.parametrize(("share", "needed"), [(7 / 8, 9), (6 / 8, 8), (4 / 8, 5), (1.0, 10)])
def test_shares_of_eight_tasks_are_rounded_up(share: float, needed: int) -> None:
    assert Claim("near", "", "untuned", share).needed(10) == needed
    assert Claim("near", "", "untuned", share).needed(8) == round(8 * share)


def test_rules_do_not_change_in_a_folder(tmp_path) -> None:
    declare(RULES, tmp_path)
    before = (tmp_path / "protocol.json").read_bytes()
    declare(RULES, tmp_path)
    with pytest.raises(LabError, match=r"declares other rules .*judge"):
        declare(replace(RULES, judge=(3, 4)), tmp_path)
    assert (tmp_path / "protocol.json").read_bytes() == before
    (tmp_path / "protocol.json").write_text("[")
    with pytest.raises(LabError, match="cannot be read as rules"):
        declare(RULES, tmp_path)


def test_names_are_taken_in_the_order_of_the_rules() -> None:
    assert select(None, ("a", "b"), "task") == ("a", "b")
    assert select("b, a", ("a", "b"), "task") == ("a", "b")
    with pytest.raises(LabError, match="no task 'c' in this arena: choose of a, b"):
        select("a,c", ("a", "b"), "task")


def test_the_page_says_who_stands_where(tmp_path) -> None:
    rules = replace(RULES, methods=("adamw", "muon", "decay", "untuned"), settings=1, extensions=0)
    means = {"adamw": 2.0, "muon": 2.5, "decay": math.inf, "untuned": 1.03}
    rows = [row(m, rules.grid(m)[0], s, x) for m, x in means.items() for s in (100, 0, 1)]
    page = write_page(rules, rows, tmp_path).read_text(encoding="utf-8")
    summary = (tmp_path / "arena.md").read_text(encoding="utf-8")
    for text in (page, summary):
        assert "diverged" in text
        assert "Clipped Scion, untuned" in text
        assert "Not finished" not in text
    assert page.count("data:image/svg+xml") == 3
    assert (tmp_path / "chars.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "profile.svg").exists()
    assert "| Clipped Scion, untuned | - | none | 1.03 | 1.03, 1.03 | -0.97" in summary
    assert "| AdamW | 2.00 | 2 |" in summary
    write_page(rules, rows[:-1], tmp_path)
    assert "Not finished: chars." in (tmp_path / "arena.md").read_text(encoding="utf-8")
