"""What the user states, and every refusal with its message."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from normball.groups import param_groups
from normball.norms import (
    RMS,
    Blocks,
    Column,
    Norm,
    Row,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)
from tests.groups.models import Language, Recurrent, Vision, mlp


def rows_of(model: nn.Module, overrides=None, **radii):
    plan = param_groups(model, overrides=overrides, **radii)
    return {row.name: (row.role, row.norm, row.radius) for row in plan.rows}


class Held(nn.Module):
    """One raw parameter of a given shape."""

    def __init__(self, *shape: int, name: str = "w") -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.randn(shape)))


def test_a_pattern_changes_what_it_names_and_nothing_else():
    model = mlp()
    plain = rows_of(model)
    rows = rows_of(model, {"*.bias": {"radius": 2}, "2.weight": {"norm": Row()}})
    expected = dict(plain)
    for name in ("0.bias", "1.bias", "2.bias", "3.bias"):
        expected[name] = ("bias", RMS(), 2.0)
    expected["2.weight"] = ("hidden", Row(), 5.0)
    assert rows == expected


def test_the_rule_names_the_entry():
    plan = param_groups(mlp(), overrides={"0.*": {"radius": 2}, nn.LayerNorm: {"radius": 3}})
    assert [row.rule for row in plan.rows[:4]] == [
        "override '0.*'",
        "override '0.*'",
        "override LayerNorm",
        "override LayerNorm",
    ]


def test_later_entries_win_and_settings_add_up():
    model = mlp()
    name = "2.weight"
    settings = {"*.weight": {"norm": Sign(), "radius": 2}, "2.*": {"radius": 3}}
    assert rows_of(model, settings)[name] == ("hidden", Sign(), 3.0)
    assert rows_of(model, settings | {name: "output"})[name] == ("output", Sign(), 32.0)
    later = {name: "output", "*.weight": {"radius": 3}}
    assert rows_of(model, later)[name] == ("output", Sign(), 3.0)


@pytest.mark.parametrize(
    ("role", "norm", "radius"),
    [
        ("input", Spectral(scale="input"), 2.0),
        ("hidden", Spectral(), 6.0),
        ("output", Sign(), 300.0),
        ("embedding", Column(), 2.0),  # a layer with one-hot inputs
        ("bias", RMS(), 0.5),
        ("vector", RMS(), 2.0),
    ],
)
def test_roles(role, norm, radius):
    rows = rows_of(mlp(), {"2.weight": role}, radius=6, input_radius=2, output_radius=300)
    assert rows["2.weight"] == (role, norm, radius)


@pytest.mark.parametrize(
    ("build", "role", "norm"),
    [
        (lambda: nn.Conv2d(4, 6, 3, groups=2), "hidden", Blocks(SpectralConv(), 2)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), "embedding", Column()),
        (lambda: nn.ConvTranspose1d(4, 6, 3), "hidden", Transposed(SpectralConv())),
        (lambda: nn.ConvTranspose1d(4, 6, 3), "embedding", Column(transposed=True)),
        (lambda: nn.Embedding(5, 4), "hidden", Transposed(Spectral())),
        (lambda: nn.Embedding(5, 4), "input", Transposed(Spectral(scale="input"))),
        (lambda: nn.Embedding(5, 4), "output", Sign()),  # a tie no module shows
        (lambda: nn.Embedding(5, 4), "vector", RMS()),
        (lambda: nn.MultiheadAttention(4, 2), "input", Blocks(Spectral(scale="input"), 3)),
        (lambda: Held(5, 4), "hidden", Spectral()),
        (lambda: Held(5, 4), "embedding", Column(transposed=True)),
        (lambda: Held(1, 5, 4), "embedding", Transposed(Column(transposed=True))),
        (lambda: Held(5, 1, 4), "embedding", Column(transposed=True)),
        (lambda: Held(1, 1, 5, 4), "embedding", Transposed(Column(transposed=True), dims=(0, 2))),
        (lambda: Held(5, 4, 3), "output", Sign()),
        (lambda: Held(5, 4, 3), "vector", RMS()),
        (lambda: Held(1, 5, 4, name="pos_embed"), "vector", RMS()),
        (lambda: Held(1, 5, 4, name="pos_embed"), "output", Sign()),
    ],
)
def test_a_role_takes_the_storage_into_account(build, role, norm):
    model = build()
    name = next(n for n, p in model.named_parameters() if p.ndim > 1)
    assert rows_of(model, {name: role})[name][:2] == (role, norm)


def test_a_type_means_the_weights_its_modules_hold():
    model = Recurrent(nn.LSTM(3, 4), 4)
    plain = rows_of(model)
    rows = rows_of(model, {nn.LSTM: {"norm": Spectral()}, nn.Linear: {"radius": 9}})
    changed = {name for name in rows if rows[name] != plain[name]}
    assert changed == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"}
    assert rows["rnn.weight_hh_l0"] == ("hidden", Spectral(), 5.0)


def test_a_type_means_the_vectors_of_modules_without_weights():
    model = Vision()
    plain = rows_of(model)
    rows = rows_of(model, {nn.LayerNorm: {"radius": 2}, nn.RMSNorm: {"radius": 3}})
    changed = {name: rows[name][2] for name in rows if rows[name] != plain[name]}
    assert changed == {"blocks.0.norm.weight": 2, "blocks.0.norm.bias": 2, "norm.weight": 3}


def test_a_type_includes_its_subclasses_and_parametrised_layers():
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    rows = rows_of(model, {nn.Linear: {"radius": 9}})
    assert [name for name, row in rows.items() if row[2] == 9] == [
        "0.weight",
        "1.parametrizations.weight.original1",
    ]


def test_any_name_of_a_shared_parameter_will_do():
    model = Language(tied=True)
    for key in ("wte.weight", "lm_head.*", nn.Embedding, nn.Linear):
        assert rows_of(model, {key: {"radius": 7}})["wte.weight"] == ("output", Sign(), 7.0)


def test_names_are_those_without_wrappers():
    model = torch.compile(mlp(), backend="eager")
    assert rows_of(model, {"2.weight": {"radius": 7}})["2.weight"][2] == 7.0


def test_a_frozen_parameter_may_be_named():
    model = mlp()
    model[0].requires_grad_(False)
    assert rows_of(model, {"0.weight": "output"})["0.weight"] == ("output", Sign(), 32.0)


def test_a_norm_places_what_no_rule_knows():
    norm = Transposed(Spectral(), dims=(1, 2))
    assert rows_of(Held(4, 3, 2), {"w": {"norm": norm}}) == {"w": ("hidden", norm, 5.0)}
    both = {"w": {"norm": Spectral(), "radius": 2}}
    assert rows_of(Held(4, 3, 2), both) == {"w": ("hidden", Spectral(), 2.0)}


# -- refusals ------------------------------------------------------------------------------------


def refusal(error: type[Exception], model, overrides=None, **radii) -> str:
    with pytest.raises(error) as caught:
        param_groups(model, overrides=overrides, **radii)
    return str(caught.value)


def test_all_unknown_parameters_are_named_with_what_to_write():
    model = nn.ModuleDict({"experts": Held(4, 3, 2), "mix": Held(3, 2), "head": nn.Linear(2, 2)})
    message = refusal(ValueError, model)
    assert "no rule places 2 of the parameters" in message
    assert "  experts.w, shape (4, 3, 2), in Held\n" in message
    assert "  mix.w, shape (3, 2), in Held\n" in message
    assert "head" not in message
    # The lines can be pasted.
    pasted = re.search(r"overrides=(\{.*?\n\})", message, re.DOTALL)
    assert pasted
    overrides = eval(pasted[1], {"Spectral": Spectral})
    rows = rows_of(model, overrides)
    assert rows["experts.w"] == rows["mix.w"] == ("hidden", Spectral(), 5.0)


@pytest.mark.parametrize(
    ("shape", "says", "silent"),
    [
        ((3, 2), ["Transposed(Spectral())", "Column(transposed=True)"], ["SpectralConv"]),
        (
            (4, 3, 2),
            ["Transposed(Spectral(), dims=(1, 2))", "SpectralConv()", "RMS()"],
            ["Transposed(Spectral())."],
        ),
        ((4, 3, 2, 2), ["SpectralConv()", "RMS()"], ["Transposed", "Column"]),
    ],
)
def test_a_refusal_says_what_the_shape_may_be(shape, says, silent):
    message = refusal(ValueError, Held(*shape))
    assert all(text in message for text in says)
    assert not any(text in message for text in silent)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.ParameterList([torch.randn(3, 2)]),
        # Neither name nor shape says which dimension counts the positions.
        lambda: Held(1, 4, 4, 8, name="pos_embed"),
        lambda: Held(4, 3, 2, name="lora_A"),
        lambda: parametrize.register_parametrization(nn.Linear(3, 2), "weight", Sum()),
    ],
    ids=["list", "positions in two dimensions", "a stack of low-rank pairs", "sum"],
)
def test_more_that_no_rule_knows(build):
    assert "no rule places" in refusal(ValueError, build())


class Sum(nn.Module):
    """A weight that is the sum of two tensors, neither of which is the weight."""

    def forward(self, x, y):
        return x + y

    def right_inverse(self, x):
        return x / 2, x / 2


def test_a_raw_matrix_in_a_known_module_is_refused():
    layer = nn.Linear(3, 2)
    layer.gate = nn.Parameter(torch.randn(3, 2))
    assert "  gate, shape (3, 2), in Linear" in refusal(ValueError, layer)
    norm = nn.LayerNorm(3)
    norm.project = nn.Parameter(torch.randn(3, 2))
    assert "  project, shape (3, 2), in LayerNorm" in refusal(ValueError, norm)


def test_what_no_rule_knows_may_be_frozen():
    model = nn.Sequential(Held(4, 3, 2).requires_grad_(False), nn.Linear(2, 2))
    assert rows_of(model)["0.w"] == ("frozen", None, None)


def test_a_radius_alone_does_not_place_a_parameter():
    assert "  w, shape (3, 2)" in refusal(ValueError, Held(3, 2), {"w": {"radius": 2}})


def test_a_role_that_the_shape_does_not_determine():
    message = refusal(ValueError, Held(4, 3, 2), {"w": "hidden"})
    assert message.startswith("override 'w': the shape (4, 3, 2) of 'w' does not tell its norm")
    assert "{'norm': Spectral()}" in message
    assert "role 'embedding'" in refusal(ValueError, Held(4, 3, 2), {"w": "embedding"})
    assert "role 'input'" in refusal(
        ValueError, Held(1, 3, 2, name="pos_embed"), {"pos_embed": "input"}
    )


def test_a_norm_that_does_not_fit_is_named():
    overrides = {"0.weight": {"norm": Blocks(Spectral(), 3)}, "2.bias": "hidden"}
    message = refusal(ValueError, mlp(), overrides)
    assert "0.weight: Blocks(" in message
    assert "4 is not a multiple of 3" in message
    assert "2.bias: Spectral(" in message
    assert "needs a matrix" in message


@dataclass(frozen=True)
class OnlySquare(Norm):
    """A norm from elsewhere; the table shows its repr."""

    def check(self, shape):
        if shape[0] != shape[-1]:
            raise ValueError(f"{tuple(shape)} is not square")

    def norm(self, w):
        return w.abs().max()

    def lmo_and_dual(self, d):
        return -d.sign(), d.abs().sum()


def test_a_norm_from_elsewhere():
    assert "OnlySquare()" in str(
        param_groups(mlp(), overrides={"2.weight": {"norm": OnlySquare()}})
    )
    message = refusal(ValueError, mlp(), {nn.Linear: {"norm": OnlySquare()}})
    assert message == "0.weight: (4, 3) is not square\n3.weight: (2, 4) is not square"


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            {"1.wieght": {"radius": 2}},
            ValueError,
            "overrides['1.wieght'] matches no parameter of the model; near it are 1.weight",
        ),
        (
            {nn.Conv2d: {"radius": 2}},
            ValueError,
            "overrides[Conv2d] matches no module that holds parameters itself",
        ),
        (
            {nn.InstanceNorm1d: "vector"},
            ValueError,
            "overrides[InstanceNorm1d] matches no module that holds parameters itself; near it "
            "are LayerNorm",
        ),
        (
            {"*": "hiden"},
            ValueError,
            "overrides['*'] has the role 'hiden', known are input, hidden, output, embedding, "
            "bias, vector; did you mean 'hidden'?",
        ),
        (
            {"*": {"raduis": 2}},
            ValueError,
            "overrides['*'] has the setting 'raduis', known are norm, radius, lr, alpha; did you "
            "mean 'radius'?",
        ),
        (
            {"*": {"rho": 2}},
            ValueError,
            "overrides['*'] has the setting 'rho', known are norm, rad",
        ),
        ({"*": {"lr": 0}}, ValueError, "overrides['*']['lr']=0 must be positive and finite"),
        ({"*": {"alpha": None}}, TypeError, "overrides['*']['alpha']=None must be a number"),
        ({"*": {"radius": 0}}, ValueError, "overrides['*']['radius']=0 must be positive and fini"),
        ({"*": {"radius": "5"}}, TypeError, "overrides['*']['radius']='5' must be a number"),
        ({"*": {"norm": Spectral}}, TypeError, "overrides['*'] has norm=<class"),
        ({"*": {}}, TypeError, "overrides['*']={} must be a role or a dict such as {'norm': "),
        ({nn.Linear: RMS()}, TypeError, "overrides[Linear]=RMS() must be a role or a dict"),
        ({3: "hidden"}, TypeError, "overrides has the key 3: give a pattern"),
        ({int: "hidden"}, TypeError, "overrides has the key <class 'int'>: give a pattern"),
        ([("*", "hidden")], TypeError, "overrides must map names or module types to settings"),
    ],
)
def test_bad_overrides(overrides, error, message):
    assert refusal(error, mlp(), overrides).startswith(message)


@pytest.mark.parametrize("name", ["radius", "input_radius", "output_radius"])
def test_bad_radii(name):
    for value in (0, -1, float("inf"), float("nan")):
        message = refusal(ValueError, mlp(), **{name: value})
        assert message == f"{name}={value!r} must be positive and finite"
    assert refusal(TypeError, mlp(), **{name: None}) == f"{name}=None must be a number"


def test_only_a_model_will_do():
    model = mlp()
    for what in (model.parameters(), dict(model.named_parameters()), [model]):
        assert "takes the model itself, a torch.nn.Module, got " in refusal(TypeError, what)


def test_nothing_to_train():
    for model in (nn.ReLU(), mlp().requires_grad_(False)):
        assert "nothing to train" in refusal(ValueError, model)


def test_a_lazy_module_must_have_seen_a_batch():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyConv1d(2, 3))
    message = refusal(ValueError, model)
    assert message.startswith("0.weight, 0.bias, 1.weight, 1.bias: a lazy module has no shapes")
    assert message.endswith("run one batch first")
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    model(torch.randn(2, 3))
    assert rows_of(model)["0.weight"] == ("input", Spectral(scale="input"), 1.0)
