"""A newcomer's mistakes: each is answered by what is wrong and what to write instead."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion, param_groups
from normball.norms import Spectral


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def make(params: object, **options: object) -> ClippedScion:
    return ClippedScion(params, **({"lr": 0.01, "rho": 1.0} | options))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().sum().backward()
    optimizer.step()


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 4))


def sparse() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    trained(model, make(param_groups(model)), torch.tensor([1, 2]))


def one_rho_of_two() -> None:
    model = net()
    optimizer = make(param_groups(model))
    optimizer.param_groups[0]["rho"] = 2.0
    trained(model, optimizer, torch.randn(5, 4))


MISTAKES: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("rho a word", lambda: ClippedScion(param_groups(net()), rho="best"), ValueError, '"auto"'),
    ("average", lambda: ClippedScion(param_groups(net()), average=2.0), ValueError,
     "average=2.0 must lie in (0, 1]"),
    ("lr a list in a tensor", lambda: make(net().parameters(), lr=torch.tensor([0.1, 0.1])),
     ValueError, "lr is a tensor of the shape (2,): use a 0-d tensor"),
    ("lr a string", lambda: make(net().parameters(), lr="1e-3"), TypeError, "plain number"),
    ("lr negative", lambda: make(net().parameters(), lr=-1.0), ValueError,
     "lr=-1.0 must lie in [0, inf)"),
    ("rho zero", lambda: make(net().parameters(), rho=0.0), ValueError,
     "rho=0.0 must lie in (0, inf)"),
    ("weight_decay", lambda: make(net().parameters(), weight_decay=0.1), TypeError,
     "weight_decay"),
    ("weight_decay in a group", lambda: make([{"params": net().parameters(), "weight_decay": 0.1}]),
     TypeError, "leave it out. What decays weights here is the ball of constrained=True"),
    ("betas in a group", lambda: make([{"params": net().parameters(), "betas": (0.9, 0.95)}]),
     TypeError, "beta 0.9 is alpha=0.1"),
    ("rho for Scion", lambda: Scion(net().parameters(), lr=0.1, rho=1.0), TypeError,
     "no threshold"),
    ("a norm's name", lambda: make([{"params": [net()[0].weight], "norm": "spectral"}]),
     TypeError, "did you mean Spectral()?"),
    ("a norm's class", lambda: make([{"params": [net()[0].weight], "norm": Spectral}]),
     TypeError, "did you mean Spectral()?"),
    ("a norm of matrices for vectors",
     lambda: make([{"params": net().parameters(), "norm": Spectral()}]), ValueError,
     "parameter 1 of shape (8,): Spectral(scale='rms', polar=Auto()) needs a matrix"),
    ("two values of rho", one_rho_of_two, ValueError, "set the same value in every group"),
    ("parameters for param_groups", lambda: param_groups(net().parameters()), TypeError,
     "param_groups takes the model itself"),
    ("an unknown parameter", lambda: param_groups(Odd()), ValueError,
     "kernel, shape (3, 4), in Odd"),
    ("a frozen model", lambda: param_groups(net().requires_grad_(False)), ValueError,
     "nothing to train"),
    ("a lazy model", lambda: param_groups(nn.LazyLinear(3)), ValueError, "run one batch first"),
    ("a typo in an override", lambda: param_groups(net(), overrides={"0.wieght": "hidden"}),
     ValueError, "near it are 0.weight"),
    ("no parameters", lambda: make([]), ValueError, "empty parameter list"),
    ("one tensor", lambda: make(torch.zeros(3, requires_grad=True)), TypeError, "write [tensor]"),
    ("integers", lambda: make([torch.zeros(3, dtype=torch.int64)]), TypeError,
     "only floating dtypes have gradients"),
    ("complex numbers", lambda: make(nn.Linear(3, 2, dtype=torch.complex64).parameters()),
     TypeError, "optimize torch.view_as_real of it"),
    ("no leaf", lambda: make([torch.zeros(3, requires_grad=True) * 2]), ValueError,
     "not a leaf"),
    ("sparse gradients", sparse, ValueError, "sparse=False in torch.nn.Embedding"),
    ("Adam's state", lambda: make(param_groups(net())).load_state_dict(
        torch.optim.Adam(net().parameters()).state_dict()), ValueError,
     "build it from the same groups"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [pytest.param(*row, id=name) for name, *row in MISTAKES],
)
def test_a_mistake_is_answered(mistake, error, message):
    with pytest.raises(error) as caught:
        mistake()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [lambda model: model.parameters(), lambda model: model.named_parameters(), param_groups],
    ids=["parameters", "named_parameters", "param_groups"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_other_optimizers_take_works_too(params, dtype):
    model = net().to(dtype)
    optimizer = make(params(model))
    before = [p.detach().clone() for p in model.parameters()]
    trained(model, optimizer, torch.ones(5, 4, dtype=dtype))
    assert all(p.dtype == dtype for p in model.parameters())
    assert any((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_a_step_before_any_gradient_changes_nothing():
    """As torch's own optimizers do, with a warning."""
    model = net()
    optimizer = make(param_groups(model))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.warns(UserWarning, match="no parameter of this optimizer has a gradient"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert float(optimizer.metrics()["dual_norm"]) == 0
