"""Spread over ranks in any way, a model trains as on one process."""

from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from normball import GGNC, S3CG, ClippedScion
from normball.norms import RMS, Euclidean, Lp, Norm, Sign, Spectral
from normball.parallel import division
from normball.polar import SVD
from tests import needs
from tests.distributed import model as zoo
from tests.distributed.launch import launch

RULES = {
    "clipped": {"rho": 12.0},
    "short-step-1": {"rho": 8.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 8.0, "constrained": True},
    "measured": {"rho": "auto"},
    "measured-1": {"rho": "auto", "constrained": True, "variant": 1},
    "recipe": {"rho": 12.0, "nesterov": True, "average": 0.3},
    "ahead-1": {"rho": 8.0, "constrained": True, "variant": 1, "nesterov": True, "average": 1.0},
}

# In float64: eps over 20 steps, times 10^4 as a polar factor divides by the least singular value.
TOLERANCE = 1e-10
# By a Gram matrix: what `Eigh` states for its rounding, 3 eps over the square root of its shift.
OF_GRAM = {torch.float64: 3 * 2**-52 / 1e-13**0.5, torch.float32: 3 * 2**-23 / 4e-6**0.5}


def train(way, rule, dtype, steps, poisoned=()):
    """Return whole weights, fast and averaged, and the figures of every step.

    With `-by-one` at the end of the way, matrices travel one by one, in several rounds; with
    `-together-2`, two ranks compute a matrix together. With `-sparse` at the end of the rule, rows
    of tables and experts are without a gradient; with `gram-` in front, Gram matrices give factors.
    """
    if way.endswith("-by-one"):
        with mock.patch.object(division, "BUCKET", 1):
            return train(way.removesuffix("-by-one"), rule, dtype, steps, poisoned)
    way, _, together = way.partition("-together-")
    split = way.endswith("split")
    spread = getattr(zoo, {"split": "ddp"}.get(way, way.removesuffix("-split")))
    model, share = spread(zoo.network(dtype))
    norms = zoo.OF_GRAM if rule.startswith("gram-") else zoo.NORMS
    sparse = rule.endswith("-sparse")
    options = RULES[rule.removeprefix("gram-").removesuffix("-sparse")]
    optimizer = ClippedScion(
        zoo.groups(model, norms), 0.01, alpha=0.3, split=split, ranks_per_matrix=int(together or 1),
        reuse_grad=way != "alone", **options,
    )  # fmt: skip
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        zoo.loss(model, step, share, sparse).backward()
        if way == "alone":
            assert resting(model) == ([8, 9, 4] if sparse else [0, 0, 0])
        if step in poisoned:
            poison(optimizer)
        optimizer.step()
        metrics = optimizer.metrics()
        assert not any(isinstance(value, DTensor) for value in metrics.values())
        size = metrics["gap" if options.get("constrained") else "dual_norm"]
        seen.append(torch.stack([size, metrics["step_factor"], metrics["group_dual_norms"].sum()]))
    names = {"momentum", "average"} if "average" in options else {"momentum"}
    for p in model.parameters():
        assert set(optimizer.state[p]) == names
        for value in optimizer.state[p].values():
            assert type(value) is (DTensor if isinstance(p, DTensor) else torch.Tensor)
            if isinstance(p, DTensor):
                assert value.placements == p.placements
    whole = zoo.whole(model.named_parameters())
    optimizer.eval()
    averaged = zoo.whole(model.named_parameters())
    optimizer.train()
    assert all(torch.equal(whole[n], x) for n, x in zoo.whole(model.named_parameters()).items())
    weights = whole | {f"average of {name}": x for name, x in averaged.items()}
    return {"weights": weights, "seen": torch.stack(seen), "skipped": float(metrics["skipped"])}


def resting(model):
    """Return how many rows of both tables, and experts, have no gradient."""
    parts = (model.table.weight, model.position.weight, model.experts)
    return [int((p.grad.flatten(1) == 0).all(1).sum()) for p in parts]


def poison(optimizer):
    """Put a NaN into one gradient on the last rank alone."""
    if dist.is_initialized() and dist.get_rank() < dist.get_world_size() - 1:
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            part = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
            if part.numel():
                # The last entry is in the last rank's part: before torch 2.13 some gradients come
                # whole to all ranks, and each reads its own part.
                part.view(-1)[-1] = float("nan")
                return


def on_each_rank(cases):
    return [train(*case) for case in cases]


# One norm over all parameters together, the last over the experts alone; rho of GGNC, rho and
# radius of the short steps.
JOINT: list[tuple[Norm, float, float, float]] = [
    (Euclidean(), 1.0, 0.3, 9.0),
    (RMS(), 25.0, 60.0, 2.0),
    (Sign(normalized=False), 17.0, 20.0, 1.5),
    (Lp(3.0), 2.0, 0.3, 4.0),
    (Spectral("plain", SVD()), 1.4, 0.3, 4.0),
]


# GGNC and the variants of the short step, and whether they look ahead.
STEPS = ((None, False), (None, True), (1, False), (1, True), (2, True))


def train_joint(way, steps=6):
    """Return whole weights and figures of GGNC and both short steps in every norm."""
    found = []
    for norm, threshold, least, beta in JOINT:
        for variant, ahead in STEPS:
            model, share = getattr(zoo, way)(zoo.network())
            last = "experts" if isinstance(norm, Spectral) else ""
            params = [p for name, p in model.named_parameters() if name.endswith(last)]
            options = {"alpha": 0.3, "nesterov": ahead, "average": 0.3 if ahead else None}
            # The first estimates that look ahead are nearly twice as long.
            longer = 2.0 if ahead else 1.0
            if variant is None:
                rho = longer * threshold
                optimizer = GGNC(params, gamma=0.02, rho=rho, norm=norm, **options)
            else:
                rho = longer * least
                gamma, options["variant"] = 0.05 / rho, variant
                optimizer = S3CG(params, gamma=gamma, rho=rho, beta=beta, norm=norm, **options)
            seen = []
            for step in range(steps):
                model.zero_grad()
                zoo.loss(model, step, share).backward()
                optimizer.step()
                metrics = optimizer.metrics()
                size = metrics["dual_norm" if variant is None else "gap"]
                seen.append(torch.stack([size, metrics["step_factor"]]))
            if ahead:
                optimizer.eval()
            found.append((zoo.whole(model.named_parameters()), torch.stack(seen)))
    return found


def assert_joint(found, alone):
    """Within `TOLERANCE`; where the minimiser takes a square root, within that of rounding."""
    norms = [norm for norm, *_ in JOINT for _ in STEPS]
    for norm, (weights, seen), (wanted, there) in zip(norms, found, alone, strict=True):
        assert float(there[:, 1].min()) < 1, "the threshold must matter"
        tolerance = torch.finfo(torch.float64).eps ** 0.5 if norm == Lp(3.0) else TOLERANCE
        assert torch.allclose(seen, there, rtol=10 * tolerance, atol=tolerance)
        for name, w in wanted.items():
            assert float((weights[name] - w).abs().max()) <= tolerance, name


@needs.fsdp_on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("way", ["fsdp", "tensor_parallel"])
def test_one_norm_over_all_parameters_on_three_ranks(way, tmp_path):
    alone = train_joint("alone")
    for found in launch(train_joint, 3, tmp_path / "run", way):
        assert_joint(found, alone)


def compare(cases, every_rank):
    alone = {case[1:]: train("alone", *case[1:]) for case in cases}
    for results in every_rank:
        for case, here in zip(cases, results, strict=True):
            there = alone[case[1:]]
            factors = there["seen"][:, 1]
            assert factors.min() < 0.95, "the threshold must matter"
            tolerance = TOLERANCE if case[2] == torch.float64 else 1e-5
            if case[1].startswith("gram-"):
                tolerance = OF_GRAM[case[2]]
            for name, w in there["weights"].items():
                error = float((here["weights"][name] - w).abs().max())
                assert error <= tolerance, (case, name, error)
            assert torch.allclose(
                here["seen"], there["seen"], rtol=10 * tolerance, atol=0, equal_nan=True
            ), case
            assert here["skipped"] == there["skipped"]


TWO_RANKS = [
    (way, "clipped", torch.float64, 6)
    for way in ("ddp", "split", "split-by-one", "fsdp", "fsdp-by-one", "tensor_parallel")
]
TWO_RANKS += [
    ("fsdp", "short-step-1", torch.float64, 6, (3,)),
    ("tensor_parallel", "short-step-2", torch.float64, 6, (3,)),
    ("fsdp", "measured", torch.float64, 6),
    ("split", "measured", torch.float64, 6),
    ("tensor_parallel", "measured-1", torch.float64, 6, (3,)),
    ("fsdp", "recipe-sparse", torch.float64, 6),
    ("split", "ahead-1", torch.float64, 6),
    ("columns", "ahead-1-sparse", torch.float64, 6, (3,)),
    ("fsdp-together-2", "gram-recipe-sparse", torch.float64, 6, (3,)),
    ("tensor_parallel-together-2", "gram-short-step-2", torch.float64, 12),
]


if needs.fsdp_on_cpu.args[0]:
    TWO_RANKS = [case for case in TWO_RANKS if not case[0].startswith("fsdp")]


def on_two_ranks():
    return on_each_rank(TWO_RANKS), train_joint("ddp" if needs.fsdp_on_cpu.args[0] else "fsdp")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launch(on_two_ranks, 2, tmp_path_factory.mktemp("agreement") / "run")


def test_two_ranks_train_as_one_process(two_ranks):
    compare(TWO_RANKS, [layered for layered, _ in two_ranks])


def test_one_norm_over_all_parameters(two_ranks):
    alone = train_joint("alone")
    for _, joint in two_ranks:
        assert_joint(joint, alone)


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_trains_as_one_process(ranks, tmp_path):
    ways = ["ddp", "split", "fsdp", "tensor_parallel"]
    ways += ["hybrid", "hybrid-split", "mixed", "moe"] if ranks == 4 else []
    cases = [(way, rule, torch.float64, 20) for way in ways for rule in RULES]
    cases += [(f"{way}-by-one", rule, torch.float64, 8) for way in ways[1:] for rule in RULES]
    sparse = [f"{rule}-sparse" for rule in RULES]
    cases += [(way, rule, torch.float64, 12) for way in (*ways, "columns") for rule in sparse]
    cases += [(way, "clipped", torch.float32, 20) for way in ways]
    cases += [
        (way, "clipped", torch.float64, 8, (3, 5)) for way in ways if way not in ("ddp", "split")
    ]
    compare(cases, launch(on_each_rank, ranks, tmp_path / "run", cases))


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_that_compute_a_matrix_together_train_as_one_process(ranks, tmp_path):
    """All ranks bit for bit alike; variant 1, with an owner for each, among them."""
    ways = [f"fsdp-together-{ranks}", f"tensor_parallel-together-{ranks}"]
    if ranks == 4:
        ways += ["fsdp-together-2", "hybrid-together-2", "hybrid-split-together-2"]
        ways += ["mixed-together-4", "mixed-together-3", "moe-together-2"]
    cases = [(way, f"gram-{rule}", torch.float64, 12) for way in ways for rule in RULES]
    cases += [(way, "gram-recipe-sparse", torch.float64, 8, (3, 5)) for way in ways]
    cases += [(way, "gram-clipped", torch.float32, 12) for way in ways]
    every_rank = launch(on_each_rank, ranks, tmp_path / "run", cases)
    compare(cases, every_rank)
    for results in every_rank[1:]:
        for here, first in zip(results, every_rank[0], strict=True):
            assert torch.equal(here["seen"], first["seen"])
            assert all(torch.equal(x, first["weights"][n]) for n, x in here["weights"].items())
