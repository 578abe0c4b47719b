"""A compiled step is the step, and is compiled once whatever becomes of lr and rho."""

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion, param_groups
from normball.norms import RMS, Sign, Spectral
from normball.polar import Eigh, Nonic


def build(polar, tensors, **options):
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (70, 110), (9,), (9,), (40, 6)]
    params = [nn.Parameter(0.1 * torch.randn(shape)) for shape in shapes]
    groups = [
        {"params": params[:3], "norm": Spectral(polar=polar), "radius": 3.0},
        {"params": params[3:5], "norm": RMS(), "radius": 3.0},
        {"params": params[5:], "norm": Sign(), "radius": 20.0},
    ]
    lr, rho = (torch.tensor(0.1), torch.tensor(1.0)) if tensors else (0.1, 1.0)
    return params, ClippedScion(groups, lr, rho=rho, **options)


def set_numbers(optimizer, lr, rho):
    for group in optimizer.param_groups:
        for name, value in (("lr", lr), ("rho", rho)):
            if isinstance(group[name], torch.Tensor):
                group[name].fill_(value)
            else:
                group[name] = value


@pytest.mark.parametrize(
    ("polar", "tensors", "backend", "options"),
    [
        (Nonic(), True, "eager", {}),
        pytest.param(Nonic(), True, "aot_eager", {}, marks=pytest.mark.slow),
        pytest.param(Eigh(), True, "eager", {"reuse_grad": True}, marks=pytest.mark.slow),
        (Nonic(), False, "eager", {}),
        (Nonic(), True, "eager", {"state_dtype": torch.bfloat16}),
        (Nonic(), True, "eager", {"state_dtype": torch.int8}),
        pytest.param(
            Nonic(), True, "eager", {"constrained": True, "variant": 1}, marks=pytest.mark.slow
        ),
        pytest.param(
            Nonic(),
            False,
            "eager",
            {"capturable": True, "constrained": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*")
def test_a_compiled_step(polar, tensors, backend, options):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    params, optimizer = build(polar, tensors, **options)
    others, plain = build(polar, tensors, **options)
    compiled = torch.compile(optimizer.step, backend=backend)
    generator = torch.Generator().manual_seed(1)
    for i in range(6):
        # The first step makes the state, and the second learns that plain numbers change.
        with torch.compiler.set_stance("fail_on_recompile" if i > 2 else "default"):
            for p, q in zip(params, others, strict=True):
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.clone()
            for one in (optimizer, plain):
                set_numbers(one, 0.1 / (1 + i), 0.5 + i)
            compiled()
            plain.step()
        for p, q in zip(params, others, strict=True):
            # A compiled factor scales its input first, and rounds otherwise: with few bits, to
            # another bfloat16 of entries up to 3, times radius 3 and the sum of lr, 0.25.
            atol = 3 * 3 * 0.25 * 2**-8 if "state_dtype" in options else 1e-5
            assert torch.allclose(p, q, rtol=1e-5, atol=atol)
            mine, theirs = optimizer.state[p]["momentum"], plain.state[q]["momentum"]
            assert torch.allclose(mine.double(), theirs.double(), rtol=1e-6, atol=1e-8)
    # A graph for the whole step, and those of the first two steps, which make things.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5
    for name, value in plain.metrics().items():
        assert torch.allclose(optimizer.metrics()[name], value), name


def layers(*shapes):
    return [nn.Parameter(0.1 * torch.randn(shape)) for shape in shapes]


def language():
    return nn.Sequential(
        nn.Embedding(20, 16),
        nn.Linear(16, 24),
        nn.LayerNorm(24),
        nn.Linear(24, 16),
        nn.Linear(16, 8),
    )


WHOLE = {
    "list": lambda: ClippedScion(layers((8, 4), (4, 8), (4,), (2, 3, 3, 3)), radius=1.0),
    "plan": lambda: ClippedScion(param_groups(language())),
    "average": lambda: ClippedScion(param_groups(language()), rho=5.0, average=0.1),
    "tall": lambda: ClippedScion(layers((150, 130)), rho=5.0, norm=Spectral(), radius=1.0),
    "two tall": lambda: Scion(layers((40, 20), (40, 20)), 0.01, norm=Spectral(), radius=1.0),
    "bfloat16": lambda: ClippedScion(param_groups(language()), state_dtype=torch.bfloat16),
    "int8": lambda: ClippedScion(param_groups(language()), state_dtype=torch.int8),
    "one group a layer": lambda: Scion([{"params": p} for p in layers((4, 4), (4, 4))], 0.01),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore:.*")
def test_the_step_is_one_graph_with_the_default_factor(name):
    """Compiled with `fullgraph=True`, which raises where a graph would break."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    ours = WHOLE[name]()
    torch.manual_seed(0)
    theirs = WHOLE[name]()
    compiled = torch.compile(ours.step, backend="eager", fullgraph=True)
    pairs = [
        (p, q)
        for g, h in zip(ours.param_groups, theirs.param_groups, strict=True)
        for p, q in zip(g["params"], h["params"], strict=True)
    ]
    before = [q.detach().clone() for _, q in pairs]
    for _ in range(4):
        for p, q in pairs:
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        compiled()
        theirs.step()
    for (p, q), start in zip(pairs, before, strict=True):
        # Four steps, each perhaps rounded to another bfloat16.
        way = 4 * 2**-8 * float((q - start).abs().max())
        assert torch.allclose(p, q, rtol=1e-5, atol=way if name in ("bfloat16", "int8") else 1e-5)
