import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from normball.lab.fields import read


@dataclass(frozen=True)
class Inner:
    NULL: ClassVar[float] = math.inf

    score: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    sizes: dict[str, int]
    rate: float = 1.0


GOOD = {"name": "a", "inner": {"score": 0.5}, "sizes": {"x": 1}}


def test_a_record_is_read_with_its_defaults() -> None:
    assert read(Outer, GOOD) == Outer("a", Inner(0.5), {"x": 1})
    whole = GOOD | {"inner": {"score": 1, "curve": [[3, 0.5]], "share": None}}
    assert read(Outer, whole).inner == Inner(1.0, [(3, 0.5)])


def test_a_null_stands_for_what_its_record_says_and_elsewhere_for_nothing() -> None:
    inner = read(Inner, {"score": None, "curve": [[1, None]], "share": None})
    assert inner == Inner(math.inf, [(1, math.inf)], None)
    with pytest.raises(ValueError, match="rate is None"):
        read(Outer, GOOD | {"rate": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name is 3"),
        ({"inner": [0.5]}, "has no fields"),
        ({"inner": {"curve": []}}, "lacks or does not know score"),
        ({"inner": {"score": 0.5, "more": 1}}, "lacks or does not know more"),
        ({"inner": {"score": True}}, "score is True"),
        ({"inner": {"score": math.nan}}, "score is nan"),
        ({"inner": {"score": 2**63}}, "score is 9223372036854775808"),
        ({"inner": {"score": 0.5, "curve": [[1, 2, 3]]}}, "curve is"),
        ({"inner": {"score": 0.5, "curve": [[1.5, 2.0]]}}, "curve is 1.5"),
        ({"sizes": {"x": -1}}, "sizes is -1"),
        ({"sizes": {"x": 2**63}}, "sizes is 9223372036854775808"),
        ({"sizes": [1]}, "sizes is"),
        ({"rate": "1"}, "rate is '1'"),
    ],
)
def test_another_value_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(Outer, GOOD | change)
