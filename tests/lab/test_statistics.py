import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from normball.lab.statistics import first_at, reach_of_mean

SCORES = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True),
    st.sampled_from([0.5, 0.9, 0.95]),
)
def test_the_reach_of_a_mean_is_students(values: list[int], level: float) -> None:
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert reach_of_mean(values, level) == pytest.approx((high - low) / 2, rel=1e-9)


def test_one_value_says_nothing_of_its_mean() -> None:
    assert reach_of_mean([1.0], 0.9) == math.inf


@given(SCORES, st.floats(-5, 5))
def test_a_goal_is_reached_where_the_curve_first_crosses_it(
    scores: list[float], goal: float
) -> None:
    place = first_at(enumerate(scores), goal)
    before = [score for at, score in enumerate(scores) if at < place]
    assert all(score > goal for score in before)
    if math.isfinite(place):
        there = float(np.interp(place, range(len(scores)), scores))
        # The place has an error of some eps, and so the score one of some eps times a difference.
        assert there <= goal + 1e-12 * (1 + np.ptp(scores))
        assert place == 0 or there == pytest.approx(goal, abs=1e-12 * (1 + np.ptp(scores)))
    else:
        assert min(scores) > goal


def test_high_scores_are_good_with_the_other_sign() -> None:
    curve = [(10, 1.0), (20, 3.0)]
    assert first_at(curve, 2.0, -1) == 15.0
    assert first_at(curve, 4.0, -1) == math.inf
    assert first_at([(10, math.nan), (20, 3.0)], 2.0, -1) == 20.0
