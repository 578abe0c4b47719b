"""The table that a plan prints."""

from torch import nn

from normball.groups import param_groups
from normball.groups.plan import brief
from normball.norms import RMS, Blocks, Euclidean, Norm, Spectral, Transposed
from normball.polar import SVD


def test_the_table_is_aligned_and_keeps_long_names():
    model = nn.ModuleDict({"a" * 90: nn.Linear(3, 2), "b": nn.LayerNorm(2)})
    plan = param_groups(model)
    lines = str(plan).splitlines()
    assert repr(plan) == str(plan)
    assert len(lines) == 5
    assert lines[1].startswith("a" * 90 + ".weight  (2, 3)  output  Sign()  32      last layer")
    roles = ("role", "output", "bias", "vector", "bias")
    assert len({line.index(f"  {role} ") for line, role in zip(lines, roles, strict=True)}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_norms_are_shown_without_their_defaults():
    shown = {
        "Spectral()": Spectral(),
        "Spectral(scale='plain', polar=SVD())": Spectral("plain", SVD()),
        "Blocks(Spectral(scale='input'), 3, dim=1)": Blocks(Spectral("input"), 3, 1),
        "Transposed(Blocks(RMS(), 2))": Transposed(Blocks(RMS(), 2)),
        "Euclidean()": Euclidean(),
    }
    assert {text: brief(norm) for text, norm in shown.items()} == {text: text for text in shown}
    # And what is shown makes the norm.
    known = {"Spectral": Spectral, "SVD": SVD, "Blocks": Blocks, "Transposed": Transposed}
    known |= {"RMS": RMS, "Euclidean": Euclidean}
    assert all(eval(text, dict(known)) == norm for text, norm in shown.items())


class Odd(Norm):
    def norm(self, w):
        return w.abs().max()

    def lmo_and_dual(self, d):
        return -d.sign(), d.abs().sum()

    def __repr__(self):
        return "Odd!"


def test_a_norm_that_is_no_dataclass_is_shown_by_its_repr():
    assert brief(Odd()) == "Odd!"
    assert brief(Blocks(Odd(), 2)) == "Blocks(Odd!, 2)"
