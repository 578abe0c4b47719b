"""Looking again and again: how often the verdict is wrong, and how often there is one."""

import math

import numpy as np
import pytest
from scipy import stats

from normball.lab.sequential import LOOKS, critical_values, repeated_interval

LEVEL = 0.9
REPETITIONS = 2000
# Three standard deviations of a share that is 10 %, in so many repetitions.
CHANCE = 3 * math.sqrt(0.1 * 0.9 / REPETITIONS)


def looks(values: np.ndarray, critical: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """For every row the sign of its first interval without 0, or 0, and the number of values."""
    sign, count = np.zeros(len(values)), np.full(len(values), LOOKS[-1])
    for n, limit in zip(LOOKS, critical, strict=True):
        part = values[:, :n]
        reach = limit * part.std(axis=1, ddof=1) / math.sqrt(n)
        first = (sign == 0) & (np.abs(part.mean(axis=1)) > reach)
        sign[first], count[first] = np.sign(part.mean(axis=1))[first], n
    return sign, count


def draw(effect: float, seed: int, repetitions: int = REPETITIONS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((repetitions, LOOKS[-1])) + effect


def test_under_the_null_the_error_is_at_most_the_stated_one() -> None:
    sign, _ = looks(draw(0.0, 0), critical_values(LEVEL))
    assert np.mean(sign != 0) <= 1 - LEVEL + CHANCE
    assert np.mean(sign > 0) <= (1 - LEVEL) / 2 + CHANCE
    # What it is for: Student's interval at every look is wrong more than three times as often.
    naive = tuple(stats.t.ppf((1 + LEVEL) / 2, n - 1) for n in LOOKS)
    assert np.mean(looks(draw(0.0, 0), naive)[0] != 0) > 3 * (1 - LEVEL)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.99])
def test_the_error_is_the_stated_one_in_many_repetitions(level: float) -> None:
    sign, _ = looks(draw(0.0, 1, 50_000), critical_values(level))
    deviation = math.sqrt(level * (1 - level) / 50_000)
    assert np.mean(sign != 0) == pytest.approx(1 - level, abs=3 * deviation)


@pytest.mark.parametrize("scatter", [1.0, 2.0, 4.0])
def test_counts_of_examples_do_not_raise_the_error(scatter: float) -> None:
    """Accuracies of few test examples: scatter in units of one example."""
    sign, _ = looks(np.round(scatter * draw(0.0, 2)), critical_values(LEVEL))
    assert np.mean(sign != 0) <= 1 - LEVEL + CHANCE


@pytest.mark.parametrize(
    ("effect", "power", "seeds"), [(0.5, 0.85, 25), (0.8, 0.99, 15), (2, 1, 7)]
)
def test_an_effect_is_found(effect: float, power: float, seeds: float) -> None:
    """An effect in standard deviations, the least share of verdicts, the most seeds on average."""
    sign, count = looks(draw(effect, 3), critical_values(LEVEL))
    assert np.mean(sign > 0) >= power
    assert np.mean(sign < 0) < 0.01
    assert np.mean(count) <= seeds


def test_the_first_look_spends_its_share_and_the_last_is_wider_than_students() -> None:
    critical = critical_values(LEVEL)
    share = (1 - LEVEL) * LOOKS[0] / LOOKS[-1]
    assert critical[0] == pytest.approx(stats.t.ppf(1 - share / 2, LOOKS[0] - 1), rel=1e-3)
    assert critical[-1] > stats.t.ppf((1 + LEVEL) / 2, LOOKS[-1] - 1)
    assert list(critical) == sorted(critical, reverse=True)


def test_the_interval_is_that_of_its_look() -> None:
    values = draw(1.0, 4, 1)[0, : LOOKS[3]]
    low, high = repeated_interval(values.tolist(), LEVEL)
    assert (low + high) / 2 == pytest.approx(values.mean())
    reach = critical_values(LEVEL)[3] * values.std(ddof=1) / math.sqrt(LOOKS[3])
    assert high - low == pytest.approx(2 * reach)


def test_what_is_not_finite_has_no_interval_and_other_looks_are_refused() -> None:
    assert repeated_interval([1.0] * 5 + [math.inf], LEVEL) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no look is planned at 7 values"):
        repeated_interval([1.0] * 7, LEVEL)
