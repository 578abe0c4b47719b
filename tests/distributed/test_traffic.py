"""What a step sends, counted call by call and byte by byte, against docs/distributed.md."""

import math
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

from benchmarks import cost
from normball import ClippedScion
from normball.parallel import division
from normball.polar import PolarExpress, iterative
from tests import needs
from tests.distributed import model as zoo
from tests.distributed.launch import launch

RULES = {
    "clipped": {"rho": 12.0},
    "short-step-1": {"rho": 8.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 8.0, "constrained": True},
}
# Of the model: layers of lines that shards of rows cut (RMS), those that they do not cut (rows and
# entries), stacks of experts, and matrices that need an owner.
VECTORS, PIECES, OWNED = 5, 4, 3


class Counter:
    """Stands in for the collectives of torch.distributed and notes what this rank puts in."""

    def __init__(self):
        self.calls = {"all_reduce": [], "all_to_all_single": [], "broadcast": []}
        self.real = {name: getattr(dist, name) for name in self.calls}

    def __enter__(self):
        self.patches = [mock.patch.object(dist, name, self.noting(name)) for name in self.calls]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()

    def noting(self, name):
        def call(tensor, *args, **kwargs):
            sent = args[0] if name == "all_to_all_single" else tensor
            self.calls[name].append(sent.numel() * sent.element_size())
            return self.real[name](tensor, *args, **kwargs)

        return call


def traffic(way, rule, norms=zoo.NORMS, **options):
    model, share = getattr(zoo, {"split": "ddp"}.get(way, way.removesuffix("-split")))(
        zoo.network()
    )
    options = {**RULES[rule], **options}
    split = way.endswith("split")
    optimizer = ClippedScion(zoo.groups(model, norms), 0.01, alpha=0.3, split=split, **options)
    for step in range(2):  # the first step of a constrained one reads norms once
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        with Counter() as counter, CommDebugMode() as debug:
            optimizer.step()
    calls = {name: len(sizes) for name, sizes in counter.calls.items()}
    assert debug.get_total_counts() == sum(calls.values()), "nothing else is sent"
    return {name: (len(sizes), sum(sizes)) for name, sizes in counter.calls.items()}


def everything():
    found = {("fsdp", rule): traffic("fsdp", rule) for rule in RULES}
    return found | {(way, "clipped"): traffic(way, "clipped") for way in ("ddp", "split")}


def sharded():
    return {rule: traffic("fsdp", rule) for rule in RULES}


def hybrid():
    return {(way, rule): traffic(way, rule) for way in ("hybrid", "hybrid-split") for rule in RULES}


def together(way, count):
    return {
        rule: traffic(way, rule, zoo.OF_GRAM, ranks_per_matrix=count)
        for rule in ("clipped", "short-step-2")
    }


def across():
    return [traffic("columns", "clipped", lazy=lazy) for lazy in (True, False)]


def by_one():
    """Return what one rank takes in, call by call, if matrices travel one by one."""
    taken = []
    real = dist.all_to_all_single

    def noting(target, *args, **kwargs):
        taken.append(target.numel())
        return real(target, *args, **kwargs)

    model, share = zoo.fsdp(zoo.network())
    optimizer = ClippedScion(zoo.groups(model), 0.01, alpha=0.3, **RULES["clipped"])
    zoo.loss(model, 0, share).backward()
    with (
        mock.patch.object(division, "BUCKET", 1),
        mock.patch.object(dist, "all_to_all_single", noting),
    ):
        optimizer.step()
    return taken


def replicated():
    return {way: traffic(way, "clipped") for way in ("ddp", "split")}


def owned_entries(*more):
    named = dict(zoo.network().named_parameters())
    names = ("conv.weight", "mlp.up.weight", "fused.weight", *more)
    return sum(named[name].numel() for name in names)


def on_two_ranks():
    return sharded(), by_one(), together("fsdp", 2)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launch(on_two_ranks, 2, tmp_path_factory.mktemp("traffic") / "run")


def assert_sent(ranks, counted):
    """Two reductions, of 4 bytes and of 8 for each number; one round there and back."""
    for rule in RULES:
        for rank in counted:
            found = rank[rule]
            if ranks == 1:  # all is whole: the flag alone
                assert found["all_reduce"] == (1, 4)
                assert found["all_to_all_single"] == (0, 0)
            else:
                wanted = cost.reduced_bytes(PIECES, OWNED, VECTORS, rule, ranks)
                assert found["all_reduce"] == wanted
                assert found["all_to_all_single"][0] == 2
            assert found["broadcast"] == (0, 0)
        if ranks > 1:
            sent = sum(rank[rule]["all_to_all_single"][1] for rank in counted)
            assert sent == cost.exchanged_bytes(owned_entries(), 8, rule)


@needs.fsdp_on_cpu
def test_sharded(two_ranks):
    assert_sent(2, [counted for counted, *_ in two_ranks])


@needs.fsdp_on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_sharded_over_any_number(ranks, tmp_path):
    assert_sent(ranks, launch(sharded, ranks, tmp_path / "run"))


@needs.fsdp_on_cpu
@pytest.mark.slow
def test_replicas_share_the_work(tmp_path):
    """Two replicas of two shards: parts go to one owner, not to two, and results to both copies."""
    found = launch(hybrid, 4, tmp_path / "run")
    for rule in RULES:
        wanted = cost.reduced_bytes(PIECES, OWNED, VECTORS, rule, 4)
        calls = [rank[way, rule] for rank in found for way in ("hybrid", "hybrid-split")]
        assert all(counted["all_reduce"] == wanted for counted in calls)
        assert all(counted["all_to_all_single"][0] == 2 for counted in calls)
        sent = {
            way: sum(rank[way, rule]["all_to_all_single"][1] for rank in found)
            for way in ("hybrid", "hybrid-split")
        }
        assert sent["hybrid"] == 2 * cost.exchanged_bytes(owned_entries(), 8, rule)
        assert sent["hybrid-split"] == cost.exchanged_bytes(owned_entries(), 8, rule, copies=2)


def assert_together(ranks, team, counted, copies=1, split=False):
    """Of the MLP's two matrices one is cut along its longer side, over all ranks of a copy."""
    named = dict(zoo.network().named_parameters())
    up, down = (tuple(named[f"mlp.{name}.weight"].shape) for name in ("up", "down"))
    # Of a copy; without `split` every copy does the same.
    inside = team == ranks // copies and not split
    shared = cost.together_bytes(up, 8, team, not inside, copies if split else 1)
    shared += cost.together_bytes(down, 8, team, True, copies if split else 1)
    owned = sum(named[name].numel() for name in ("conv.weight", "fused.weight"))
    for rule in ("clipped", "short-step-2"):
        # Besides, one reduction for the largest entry of each.
        calls, sent = cost.reduced_bytes(PIECES - 1, 2 + 2, VECTORS, rule, ranks)
        for rank in counted:
            assert rank[rule]["all_reduce"] == (calls + 1, sent + 8 * 2)
            assert rank[rule]["all_to_all_single"][0] == 2 + 4
            assert rank[rule]["broadcast"] == (0, 0)
        total = sum(rank[rule]["all_to_all_single"][1] for rank in counted)
        if split:
            assert total == shared + cost.exchanged_bytes(owned, 8, copies=copies)
        else:
            assert total == copies * (shared + cost.exchanged_bytes(owned, 8))


@needs.fsdp_on_cpu
def test_a_matrix_that_ranks_compute_together(two_ranks):
    assert_together(2, 2, [counted for *_, counted in two_ranks])


@needs.fsdp_on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("team", [2, 4])
def test_together_on_a_part_of_the_ranks(team, tmp_path):
    assert_together(4, team, launch(together, 4, tmp_path / "run", "fsdp", team))


@needs.fsdp_on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("way", ["hybrid", "hybrid-split"])
def test_together_in_replicas(way, tmp_path):
    found = launch(together, 4, tmp_path / "run", way, 2)
    assert_together(4, 2, found, copies=2, split=way.endswith("split"))


def test_which_parts_rest_is_one_reduction_where_a_cut_goes_across(tmp_path):
    """8 bytes for each row of both tables, and each expert."""
    parts = zoo.TOKENS + zoo.LENGTH + zoo.EXPERTS
    numbers = 1 + zoo.LENGTH + 1  # entries, lines, and a stack that has an owner
    for lazy, formula in launch(across, 2, tmp_path / "run"):
        assert formula["all_reduce"] == (2, 4 + 8 * numbers)
        assert lazy["all_reduce"] == (3, 4 + 8 * numbers + 8 * parts)
        assert lazy["all_to_all_single"] == formula["all_to_all_single"]


@needs.fsdp_on_cpu
def test_a_rank_takes_in_one_matrix_at_a_time(two_ranks):
    """Three matrices for two owners: two rounds, there and back, none with more than a matrix."""
    named = dict(zoo.network().named_parameters())
    sizes = [named[name].numel() for name in ("conv.weight", "mlp.up.weight", "fused.weight")]
    taken = [calls for _, calls, _ in two_ranks]
    for calls in taken:
        assert len(calls) == 4
        # First parts to the owners, of the next round too; then results.
        there, back = calls[:2], calls[2:]
        assert all(entries in (0, *sizes) for entries in there)
        assert sum(back) < sum(sizes)
    assert sorted(x for calls in taken for x in calls[:2] if x) == sorted(sizes)


@pytest.mark.slow
def test_replicated(tmp_path):
    """Nothing is sent; or, divided, every minimiser once to all, and one reduction."""
    entries = owned_entries("experts")
    for rank in launch(replicated, 2, tmp_path / "run"):
        assert all(calls == (0, 0) for calls in rank["ddp"].values())
        # Four matrices for two owners, in one bucket each.
        assert rank["split"]["broadcast"] == (2, 8 * entries)
        assert rank["split"]["all_reduce"] == (1, 8 * 4)
        assert rank["split"]["all_to_all_single"] == (0, 0)


def test_shares_of_models_on_paper():
    """On 8 ranks every model is in balance; on 4096 its largest matrix is the work."""
    for model in cost.MODELS.values():
        shapes = model.matrices()
        busiest, total, _ = cost.shared(shapes, 8)
        assert busiest <= 1.02 * total / 8
        assert cost.shared(shapes, 4096)[0] == max(map(cost.factor_flops, shapes))


def test_the_sizes_of_models_are_the_published_ones():
    wanted = {"1B": 1.236e9, "7B": 6.738e9, "70B": 68.98e9, "405B": 405.8e9}
    for name, model in cost.MODELS.items():
        assert model.parameters() == pytest.approx(wanted[name], rel=1e-3)


def test_the_tables_of_the_page():
    text = (Path(__file__).parent.parent.parent / "docs/distributed.md").read_text("utf-8")
    for name in cost.MODELS:
        for gpus in cost.GPUS:
            assert cost.row(name, gpus) in text
            assert cost.time_row(name, gpus) in text
            assert cost.peer_row(name, gpus) in text


def test_where_the_page_says_that_several_ranks_for_a_matrix_pay():
    pays = set()
    for name, model in cost.MODELS.items():
        for gpus in cost.GPUS:
            alone, spread = (sum(cost.seconds(model.matrices(), gpus, k)) for k in (1, cost.NODE))
            if spread < alone:
                pays.add((name, gpus))
            if gpus == 512 and name != "405B":
                assert 0.09 <= round(1 - spread / alone, 2) <= 0.14
            if (name, gpus) == ("70B", 4096):
                assert (round(1000 * spread), round(1000 * alone)) == (95, 123)
            if (name, gpus) == ("405B", 4096):
                assert (round(1000 * spread), round(1000 * alone)) == (588, 753)
    assert pays == {("1B", 512), ("7B", 512), ("70B", 512), ("70B", 4096), ("405B", 4096)}
    for model in cost.MODELS.values():
        for shape in model.matrices():
            part, root = cost.spread_flops(shape, 8)
            assert root >= 0.75 * (part + root)
            # Eight GPUs together do the work of one in the Gram form, which takes the cheaper one.
            assert 8 * part + root >= cost.factor_flops(shape)


def test_the_operations_of_a_factor_are_those_of_its_products(monkeypatch):
    """Counted where the products are made, at two operations for each term."""
    counted = []

    def noting(a, b):
        counted.append(2 * a.shape[-2] * a.shape[-1] * b.shape[-1])

    real = torch.Tensor.__matmul__

    def multiply(a, b):
        noting(a, b)
        return real(a, b)

    def add(c, a, b, *, beta=1.0, alpha=1.0):
        noting(a, b)
        return beta * c + alpha * real(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", multiply)
    monkeypatch.setattr(iterative, "symmetric", multiply)
    monkeypatch.setattr(iterative, "symmetric_sum", add)
    monkeypatch.setattr(iterative, "add_product", add)
    monkeypatch.setattr(iterative, "gram", lambda x: multiply(x, x.mT))
    for shape in [(64, 64), (64, 200)]:  # step by step, and in the Gram form
        counted.clear()
        PolarExpress(6)(torch.randn(shape))
        assert sum(counted) == cost.factor_flops(shape)
    counted.clear()
    of_gram = PolarExpress(6).of_gram(torch.float32, torch.device("cpu"), torch.Size((64, 200)))
    of_gram(torch.eye(64))
    assert sum(counted) == cost.spread_flops((64, 200), 8)[1]


def newton_schulz(shape):
    """Five steps, two of their products with the long dimension, two operations for each term."""
    m, n = sorted(shape)
    return 5 * (2 * m * m * n + 2 * m * m * m + 2 * m * m * n)


def test_a_peer_without_other_ranks_does_all_the_work_and_sends_nothing():
    for model in cost.MODELS.values():
        wanted = pytest.approx(sum(map(newton_schulz, model.matrices())) / cost.RATE)
        for way in (cost.dion_seconds, cost.torchtitan_seconds, cost.megatron_seconds):
            assert way(model, 1) == (wanted, 0, 0)


def test_buckets_of_torchtitan():
    """Where ranks abound, a bucket takes as long as its largest matrix, and two run at a time."""
    for model in cost.MODELS.values():
        largest = max(map(newton_schulz, model.matrices())) / cost.RATE
        for layers, slots, turns in [(1, 1, 1), (2, 1, 2), (2, 2, 4)]:
            work, _, calls = cost.torchtitan_seconds(model, 512, layers, slots)
            assert work == pytest.approx(math.ceil(model.layers / turns) * largest)
            each = cost.CALL + 512 * cost.PEER
            assert calls == pytest.approx(2 * model.layers / layers * each)
        # One bucket holds all: the matrices are shared out as ours are.
        work, *_ = cost.torchtitan_seconds(model, 512, model.layers)
        costs = [newton_schulz(shape) for shape in model.matrices()]
        shares = [sum(costs[i] for i in share) for share in cost.share_out(costs, 512)]
        assert work == pytest.approx(max(shares) / cost.RATE)


def test_layers_of_megatron():
    for model in cost.MODELS.values():
        shapes, d = model.matrices(), model.width
        entries = sum(m * n for m, n in shapes)
        # On 4096 GPUs the gate and up of one layer are the work, and all weights come in.
        work, exchange, _ = cost.megatron_seconds(model, 4096)
        assert work == pytest.approx(2 * newton_schulz((d, model.hidden)) / cost.RATE)
        assert exchange == pytest.approx(2 * entries * 4095 / 4096 / cost.LINK)
        # In one team of eight every GPU does it all, or its part of the products with a long side.
        work, exchange, _ = cost.megatron_seconds(model, 8, 8)
        assert work == pytest.approx(sum(map(newton_schulz, shapes)) / cost.RATE)
        assert exchange == pytest.approx(4 * entries * 7 / 8 / cost.NODE_LINK)
        work, exchange, _ = cost.megatron_seconds(model, 8, 8, "distributed")
        wanted = sum(5 * (4 * d * m * n / 8 + 2 * d**3) for m, n in shapes)
        assert work == pytest.approx(wanted / cost.RATE)
        # A ring adds up in twice 7 sends of an eighth.
        assert exchange == pytest.approx(5 * len(shapes) * 2 * d * d * 14 / 8 / cost.NODE_LINK)


def test_what_the_page_says_of_other_libraries():
    def total(way, name, gpus, *options):
        return 1000 * sum(way(cost.MODELS[name], gpus, *options))

    def here(name, gpus):
        return 1000 * sum(cost.seconds(cost.MODELS[name].matrices(), gpus))

    slower = set()
    for name in cost.MODELS:
        for gpus in cost.GPUS:
            dion, titan, megatron = (
                total(way, name, gpus)
                for way in (cost.dion_seconds, cost.torchtitan_seconds, cost.megatron_seconds)
            )
            teams = [
                total(cost.megatron_seconds, name, gpus, 8, mode)
                for mode in ("duplicated", "distributed")
            ]
            if here(name, gpus) > min(dion, titan, megatron, *teams):
                slower.add((name, gpus))
                assert name == "1B" or here(name, gpus) < 1.06 * dion
    assert slower == {("7B", 8), ("7B", 64), ("1B", 4096)}
    assert round(here("70B", 512)) == 117
    assert round(total(cost.dion_seconds, "70B", 512)) == 309
    assert round(total(cost.torchtitan_seconds, "70B", 512, 80)) == 149
    model = cost.MODELS["70B"]
    ways = (
        cost.dion_seconds(model, 512),
        cost.torchtitan_seconds(model, 512, 80),
        cost.seconds(model.matrices(), 512),
    )
    assert [round(1000 * products) for products, *_ in ways] == [262, 110, 77]
    for name, model in cost.MODELS.items():
        work = cost.megatron_seconds(model, 4096, 8, "distributed")[0]
        ways = (cost.dion_seconds, cost.torchtitan_seconds, cost.megatron_seconds)
        assert work < min(way(model, 4096)[0] for way in ways), name
        assert work < cost.seconds(model.matrices(), 4096)[0], name
        for gpus in (512, 4096):
            work, exchange, calls = cost.megatron_seconds(model, gpus)
            assert exchange > work + calls, name
