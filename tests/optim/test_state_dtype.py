"""Formats of the momentum that are refused."""

import pytest
import torch
from torch import nn

from normball import Scion


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int16], ids=str)
def test_other_formats_are_refused(dtype):
    with pytest.raises(ValueError, match=r"state_dtype=torch\.\w+ must be a floating dtype of at"):
        Scion([nn.Parameter(torch.zeros(3, 3))], 0.1, radius=1.0, state_dtype=dtype)


def test_a_packed_momentum_of_another_shape_is_refused():
    def make(*shape):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.ones_like(p)
        return Scion([p], 0.1, radius=1.0, state_dtype=torch.int8)

    first = make(4, 40)
    first.step()
    with pytest.raises(ValueError, match=r"momentum of parameter 0 of group 0 is \(4, 42\)"):
        make(4, 41).load_state_dict(first.state_dict())
    state = first.state_dict()
    state["param_groups"][0]["rounded_steps"] = float("nan")
    with pytest.raises(ValueError, match="rounded_steps=nan"):
        make(4, 40).load_state_dict(state)
