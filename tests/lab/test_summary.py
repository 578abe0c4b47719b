import pytest

from normball.lab.rows import Row
from normball.lab.summary import Summary, in_words, judge, seed_deviation, summarise, width
from tests.lab.samples import row


def rows_of(optimizer: str, table: dict[int, tuple[float, ...]]) -> list[Row]:
    """Rows from exponent of the step size to the percent of each seed."""
    return [
        row(optimizer, 2.0**exponent, seed, percent)
        for exponent, percents in table.items()
        for seed, percent in enumerate(percents)
    ]


def summary_of(table: dict[int, tuple[float, ...]], optimizer: str = "scion") -> Summary:
    return summarise(rows_of(optimizer, table))[0]


def test_rows_are_grouped_by_optimizer_and_step() -> None:
    rows = rows_of("scion", {-3: (90.0, 92.0), -5: (80.0, 70.0)})
    rows += rows_of("clipped-scion", {-4: (50.0,)})
    plain, clipped = summarise(reversed(rows))
    assert [step.lr for step in plain.steps] == [2.0**-5, 2.0**-3]
    assert plain.steps[1].accuracies == (90.0, 92.0)
    assert plain.steps[0].mean == pytest.approx(75)
    assert plain.best.lr == 2.0**-3
    assert plain.best.clipped_share is None
    assert clipped.best.clipped_share == 0.25


def test_the_good_stretch_has_no_gap_and_includes_one_point() -> None:
    summary = summary_of(
        {-9: (97.5,), -8: (96.0,), -7: (97.0,), -6: (98.0,), -5: (97.2,), -4: (90.0,)}
    )
    assert [step.lr for step in summary.good] == [2.0**-7, 2.0**-6, 2.0**-5]
    assert summary.factor == 4
    assert not summary.reaches_end
    assert width(summary) == "4"
    assert "98.0 %" in in_words(summary)
    assert "from 2^-7 to 2^-5, a factor of 4" in in_words(summary)


def test_a_stretch_at_the_end_of_the_grid_may_be_wider() -> None:
    summary = summary_of({-7: (90.0,), -6: (98.0,), -5: (97.2,)})
    assert summary.reaches_end
    assert width(summary) == "2 or more"
    alone = summary_of({-7: (90.0,), -6: (98.0,), -5: (91.0,)})
    assert width(alone) == "1"
    assert "no neighbouring step" in in_words(alone)


def test_of_equal_steps_the_smaller_is_the_best() -> None:
    assert summary_of({-5: (98.0,), -6: (98.0,)}).best.lr == 2.0**-6


def claim(clipped: dict[int, tuple[float, ...]], plain: dict[int, tuple[float, ...]]):
    return judge(summarise(rows_of("clipped-scion", clipped) + rows_of("scion", plain)))


def test_the_claim_holds_with_its_step_and_figures() -> None:
    verdict = claim(
        {-6: (97.0,), -5: (98.0, 98.4), -4: (97.6,), -3: (10.0,)},
        {-6: (98.6,), -5: (95.0, 94.0), -4: (60.0,), -3: (10.0,)},
    )
    assert verdict.holds is True
    assert verdict.lr == 2.0**-4
    assert "It holds at the step 2^-4" in verdict.text
    assert "97.6 % there, 0.6 points below its own best of 98.2 % at 2^-5" in verdict.text
    assert "60.0 % there, 38.6 points below its own best of 98.6 % at 2^-6" in verdict.text


@pytest.mark.parametrize(
    ("clipped", "plain", "holds"),
    [
        (97.0, 93.0, True),
        (96.9, 93.0, False),
        (97.0, 93.1, False),
        (98.0, 93.0, True),
    ],
)
def test_the_bounds_of_the_claim_count_as_within(clipped: float, plain: float, holds: bool) -> None:
    verdict = claim({-6: (98.0,), -4: (clipped,)}, {-6: (98.0,), -4: (plain,)})
    assert verdict.holds is holds


def test_a_claim_that_fails_says_how_near_it_came() -> None:
    verdict = claim({-6: (98.0,), -5: (97.5,)}, {-6: (98.0,), -5: (95.0,)})
    assert verdict.holds is False
    assert verdict.lr == 2.0**-5
    assert "does not hold" in verdict.text
    assert "95.0 % there, 3.0 points below" in verdict.text


def test_a_collapse_of_both_is_no_proof() -> None:
    verdict = claim({-6: (98.0,), -2: (10.0,)}, {-6: (98.0,), -2: (10.0,)})
    assert verdict.holds is False


@pytest.mark.parametrize(
    ("clipped", "plain"),
    [({-6: (98.0,)}, {}), ({}, {-6: (98.0,)}), ({-6: (98.0,)}, {-5: (98.0,)})],
)
def test_without_rows_to_compare_there_is_no_verdict(clipped: dict, plain: dict) -> None:
    verdict = claim(clipped, plain)
    assert verdict.holds is None
    assert "cannot be judged" in verdict.text


def test_a_claim_whose_good_steps_were_not_run_unclipped_is_open() -> None:
    verdict = claim({-6: (98.0,), -2: (10.0,)}, {-7: (98.0,), -2: (10.0,)})
    assert verdict.holds is None
    assert "cannot be judged" in verdict.text


def test_the_scatter_of_the_seeds_is_pooled_over_the_good_steps() -> None:
    table = {-6: (98.0, 99.0), -5: (98.0, 98.2, 98.4), -4: (10.0, 90.0)}
    # About their means the squares sum to 0.5 and 0.08, with 1 + 2 degrees of freedom.
    assert seed_deviation([summary_of(table)]) == pytest.approx((0.58 / 3) ** 0.5)
    assert seed_deviation([summary_of({-6: (98.0,)})]) is None
