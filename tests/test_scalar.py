"""Numbers in Python and in 0-d tensors give the same, also where they are infinite or NaN.

torch's own float64 arithmetic is the reference; both are IEEE 754.
"""

import itertools
import math

import pytest
import torch

from normball import _scalar, steps
from tests.optim.tape import flags_unknown

VALUES = [0.0, -0.0, 1.0, -2.5, 3e300, 1e-300, math.inf, -math.inf, math.nan]
every = pytest.mark.parametrize("a", VALUES)


def wrap(x):
    return torch.tensor(x, dtype=torch.float64)


def same(number, tensor):
    """Equal, NaN to NaN; one is Python's, the other torch's."""
    assert not isinstance(number, torch.Tensor)
    assert isinstance(tensor, torch.Tensor)
    return torch.equal(wrap(number), tensor.double()) or (number != number and tensor.isnan())


@every
@pytest.mark.parametrize("b", VALUES)
def test_two_numbers(a, b):
    x, y = wrap(a), wrap(b)
    references = {
        _scalar.ratio: x / y,
        _scalar.least: torch.minimum(x, y),
        _scalar.most: torch.maximum(x, y),
    }
    for function, expected in references.items():
        assert same(function(a, b), expected), function
        assert torch.equal(function(x, y).nan_to_num(7.0), expected.nan_to_num(7.0)), function


@every
def test_one_number(a):
    x = wrap(a)
    assert same(_scalar.clamp(a, -1.0, 2.0), x.clamp(-1, 2))
    assert same(_scalar.clamp(a, high=2.0), x.clamp(max=2))
    assert _scalar.finite(a) == bool(torch.isfinite(x))
    if not a < 0:
        assert same(_scalar.sqrt(a), x.sqrt())
    limit = torch.finfo(torch.float32).max
    assert same(a, _scalar.tensor(a, x))
    found = _scalar.saturated(a, torch.zeros(()))
    assert same(float(found), x.clamp(-limit, limit).float())


@pytest.mark.parametrize("values", list(itertools.combinations(VALUES[2:], 3)))
def test_several_numbers(values):
    tensors = [wrap(value) for value in values]
    assert same(_scalar.largest(list(values)), torch.stack(tensors).amax())
    assert same(_scalar.total(list(values)), tensors[0] + tensors[1] + tensors[2])
    mixed = [values[0], *tensors[1:]]
    assert same(float(_scalar.largest(mixed)), torch.stack(tensors).amax())


@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=2)))
def test_flags(flags):
    tensors = [torch.tensor(flag) for flag in flags]
    for given in (list(flags), tensors, [flags[0], tensors[1]]):
        assert bool(_scalar.every(given)) == all(flags)
        assert bool(_scalar.negated(given[0])) != flags[0]
        assert float(_scalar.where(given[1], 1.0, 2.0)) == (1.0 if flags[1] else 2.0)


def test_values_are_read_where_the_host_knows_them():
    x = torch.tensor(0.1)
    assert _scalar.known(x) == _scalar.number(x) == float(x)
    with flags_unknown():
        assert _scalar.known(x) is x
        assert _scalar.number(x).dtype == torch.float64


@every
@pytest.mark.parametrize("rho", [0.5, 1e300])
def test_step_rules_take_both(a, rho):
    x = wrap(a)
    assert same(steps.ggnc(a, 0.1, rho), steps.ggnc(x, 0.1, rho))
    assert same(steps.short_step_2(a, 0.1, rho, 2.0), steps.short_step_2(x, 0.1, rho, 2.0))
    for length in (0.0, 2.0):
        number = steps.short_step_1(a, length, 0.1, rho)
        assert same(number, steps.short_step_1(x, wrap(length), 0.1, rho))
