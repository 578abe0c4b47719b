"""What a sharded step costs on paper, for models and numbers of GPUs: `python -m benchmarks.cost`.

Bytes follow the formula of docs/distributed.md, which tests count on real ranks. Operations are
those of the factors, all products at full price, as a GPU computes them.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from normball.parallel import share_out

GPUS = (8, 64, 512, 4096)


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder with gated MLPs and grouped queries."""

    layers: int
    width: int
    keys: int
    hidden: int
    vocabulary: int
    tied: bool

    def matrices(self) -> list[tuple[int, int]]:
        """Return the hidden matrices of all layers: q, k, v, out, gate, up, down."""
        d, k, h = self.width, self.keys, self.hidden
        layer = [(d, d), (k, d), (k, d), (d, d), (h, d), (h, d), (d, h)]
        return layer * self.layers

    def tables(self) -> int:
        """Return the entries of embedding and head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    def parameters(self) -> int:
        """Return the number of parameters, gains left out."""
        return sum(m * n for m, n in self.matrices()) + self.tables()


# The published shapes of Llama 3.2 1B, Llama 2 7B, Llama 2 70B and Llama 3.1 405B.
MODELS = {
    "1B": Decoder(16, 2048, 512, 8192, 128256, True),
    "7B": Decoder(32, 4096, 4096, 11008, 32000, False),
    "70B": Decoder(80, 8192, 1024, 28672, 32000, False),
    "405B": Decoder(126, 16384, 1024, 53248, 128256, False),
}

# Assumed for the times, per GPU: operations of 16-bit products and bytes between machines, both per
# second. A call takes so many seconds, and so many more for each rank that takes part.
RATE, LINK, CALL, PEER = 4e14, 5e10, 2e-5, 1e-6
NODE, NODE_LINK = 8, 4e11  # GPUs of one machine, and the bytes per second between them


def reduced_bytes(
    pieces: int, owned: int, lines: int, rule: str = "clipped", ranks: int = 1
) -> tuple[int, int]:
    """Return calls and bytes of the reductions that one rank of a sharded step takes part in.

    Args:
        pieces: layers computed on their shards. `owned`: layers that have an owner.
        lines: lengths of cut lines: one for a vector, one for each line of a matrix.
        rule: `clipped`, `short-step-1` or `short-step-2`.
        ranks: of the default process group; with variant 1 each has an entry for its largest norm.
    """
    numbers = 1 if rule == "clipped" else 2
    per_line = {"clipped": 1, "short-step-2": 2, "short-step-1": 3}[rule]
    slots = ranks if rule == "short-step-1" else 0
    return 2, 4 + 8 * ((pieces + owned) * numbers + lines * per_line + slots)


def exchanged_bytes(entries: int, itemsize: int, rule: str = "clipped", copies: int = 1) -> int:
    """Return the bytes that all ranks of a team together put in for matrices with an owner.

    Every entry goes to its owner once, with that of the weight for variant 1, and returns once to
    each of the copies that share the owner. The share that a rank keeps for itself, 1 in N, is
    counted and not sent.
    """
    return entries * itemsize * ((2 if rule == "short-step-1" else 1) + copies)


def together_bytes(
    shape: tuple[int, int], itemsize: int, team: int, moves: bool, copies: int = 1
) -> int:
    """Return the bytes that all ranks put in for a matrix that a team of ranks computes together.

    A term of the size of the shorter side goes from every rank of the team to the owner, and a root
    to each, in 4 bytes or more for an entry. If the matrix `moves`, as it is not cut along a longer
    side over the team alone, every entry goes there once, and once back to each copy.
    """
    squares = 2 * team * min(shape) ** 2 * max(itemsize, 4)
    return squares + (exchanged_bytes(math.prod(shape), itemsize, copies=copies) if moves else 0)


def factor_flops(shape: tuple[int, int], steps: int = 6) -> float:
    """Return the operations of `PolarExpress(steps)`: step by step, or in the Gram form."""
    m, n = min(shape), max(shape)
    return float(m * m * min(steps * (4 * n + 2 * m), 4 * n + (8 * steps - 6) * m))


def shared(shapes: list[tuple[int, int]], ranks: int) -> tuple[float, float, int]:
    """Return the operations of the busiest of `ranks` and of all, and the most entries owned."""
    costs = [factor_flops(shape) for shape in shapes]
    shares = share_out(costs, ranks)
    busiest = max(sum(costs[i] for i in share) for share in shares)
    entries = max(sum(shapes[i][0] * shapes[i][1] for i in share) for share in shares)
    return busiest, sum(costs), entries


def muon_flops(m: int, n: int, ranks: int = 1) -> float:
    """Return the operations of five Newton-Schulz steps with Gram matrices of `m x m`.

    If `ranks` share a matrix of `m x n`, each has `n / ranks` of the long dimension, and all
    compute the product of Gram matrices.
    """
    return 5 * (4 * n * m**2 / ranks + 2 * m**3)


def muon(shapes: list[tuple[int, int]], ranks: int) -> tuple[float, int, int]:
    """Return the operations, the entries sent and the calls of one rank with dion's Muon.

    Batches of equal shapes, padded to the number of ranks, one matrix for each: five Newton-Schulz
    steps, and a matrix sent out in parts and sent back. Source: microsoft/dion, `dion/muon.py`.
    """
    flops, entries, calls = 0.0, 0, 0
    for shape in set(shapes):
        batches = -(-shapes.count(shape) // ranks)
        flops += batches * muon_flops(min(shape), max(shape))
        entries += batches * 2 * math.prod(shape)
        calls += 2 * batches
    return flops, entries, calls


def row(name: str, gpus: int) -> str:
    """Return a line of the table of docs/distributed.md."""
    model = MODELS[name]
    matrices, shapes = sum(m * n for m, n in model.matrices()), model.matrices()
    busiest, total, owned = shared(shapes, gpus)
    away = (gpus - 1) / gpus  # the rest stays where it is
    muon_work, muon_entries, _ = muon(shapes, gpus)
    parameters = model.parameters() / gpus
    # Two matrices on their way and one at work, with buffers and the factor's own: as measured for
    # square ones on the CPU.
    flight = 10 * 4 * max(m * n for m, n in shapes)
    work = [busiest, total / gpus, muon_work]
    sent = [4 * (matrices / gpus + owned) * away, 2 * muon_entries * away]
    memory = [4 * parameters, 8 * parameters, flight]
    figures = [x / 1e12 for x in work] + [x / 1e9 for x in sent + memory]
    return f"| {name} | {gpus} | " + " | ".join(f"{x:.3g}" for x in figures) + " |"


def spread_flops(shape: tuple[int, int], ranks: int, steps: int = 6) -> tuple[float, float]:
    """Return the operations of one of `ranks` that compute a matrix together, and the owner's own.

    Each has `n / ranks` of the long dimension: its Gram matrix, and its product with the root. The
    owner computes the root of the sum.
    """
    m, n = min(shape), max(shape)
    return 4.0 * m * m * n / ranks, (8.0 * steps - 6) * m**3


def between(ranks: int, spread: int = 1) -> float:
    """Return the bytes per second between `ranks`, each of `spread` GPUs.

    The share that a rank keeps, 1 in `ranks`, costs nothing.
    """
    link = NODE_LINK if ranks * spread <= NODE else LINK
    return link * ranks / (ranks - 1) if ranks > 1 else math.inf


def latency(calls: int, ranks: int) -> float:
    """Return the time of calls among `ranks` without their bytes."""
    return calls * (CALL + PEER * ranks) if ranks > 1 else 0.0


def seconds(
    shapes: list[tuple[int, int]], gpus: int, spread: int = 1, steps: int = 6
) -> tuple[float, float, float]:
    """Return the time of the busiest rank: its products, its exchange, and its calls.

    An owner takes in its matrices, and then sends them out: twice as many bytes as it owns.

    With `spread` above 1 a matrix belongs to so many GPUs of one machine (`ranks_per_matrix`). The
    owner of each takes in the Gram matrices of the others, and sends the root to them; the matrices
    of a machine have their owners in turn, and a round has one for each.
    """
    shares = share_out([factor_flops(shape, steps) for shape in shapes], max(1, gpus // spread))
    owned = max(sum(math.prod(shapes[i]) for i in share) for share in shares) / spread
    if spread == 1:
        flops = max(sum(factor_flops(shapes[i], steps) for i in share) for share in shares)
        calls = latency(2 * max(map(len, shares)), gpus)
        return flops / RATE, 4 * 2 * owned / between(gpus), calls
    flops = squares = 0.0
    for share in filter(None, shares):
        parts, roots = zip(*(spread_flops(shapes[i], spread, steps) for i in share), strict=True)
        owners = share_out(roots, spread)
        busiest = max(sum(roots[k] for k in owner) for owner in owners)
        flops = max(flops, sum(parts) + busiest)
        most = max(sum(min(shapes[share[k]]) ** 2 for k in owner) for owner in owners)
        squares = max(squares, most)
    exchange = 4 * 2 * owned / between(gpus) + 4 * 2 * spread * squares / between(spread)
    rounds = -(-max(map(len, shares)) // spread)
    return flops / RATE, exchange, latency(4 * rounds + 1, gpus)


def time_row(name: str, gpus: int) -> str:
    """Return a line of the second table of docs/distributed.md, in milliseconds."""
    shapes = MODELS[name].matrices()
    figures = [1000 * x for spread in (1, NODE) for x in seconds(shapes, gpus, spread)]
    return f"| {name} | {gpus} | " + " | ".join(f"{x:.3g}" for x in figures) + " |"


def dion_seconds(model: Decoder, gpus: int) -> tuple[float, float, float]:
    """Return the time of products, exchange in bf16, and calls with dion's Muon."""
    flops, entries, calls = muon(model.matrices(), gpus)
    return flops / RATE, 2 * entries / between(gpus), latency(calls, gpus)


def torchtitan_seconds(
    model: Decoder, gpus: int, layers: int = 2, slots: int = 2
) -> tuple[float, float, float]:
    """Return the time of products, exchange in fp32, and calls with torchtitan's `DistMuon`.

    Every matrix of a bucket goes to the rank with the least work in the bucket, then in all. A
    bucket has an all-to-all there and one back. At most `slots` buckets are under way: the next
    begins when the matrices of the oldest are on their way back.

    Source: torchtitan 0.3.0, `distributed/flex_shard/dist_muon.py` (owners, five steps) and
    `_optimizer_reshard_runtime.py` (slots); two layers are a bucket in
    `models/kimi_k2_7/config_registry.py`.
    """
    shapes = model.matrices()
    size = layers * len(shapes) // model.layers
    buckets = [shapes[i : i + size] for i in range(0, len(shapes), size)]
    total, busy = [0.0] * gpus, [0.0] * gpus  # work of each rank, and when it is done with it
    ends = [0.0] * slots  # of the buckets before the first
    largest = 0
    for bucket in buckets:
        loads = [(0.0, total[rank], rank, 0) for rank in range(gpus)]
        heapq.heapify(loads)
        for shape in sorted(bucket, key=lambda s: -muon_flops(min(s), max(s))):
            load, before, rank, entries = loads[0]
            work = muon_flops(min(shape), max(shape))
            heapq.heapreplace(loads, (load + work, before + work, rank, entries + math.prod(shape)))
        for load, after, rank, _ in loads:
            if load:
                total[rank], busy[rank] = after, max(busy[rank], ends[-slots]) + load
        ends.append(max(ends[-1], *(busy[rank] for load, _, rank, _ in loads if load)))
        largest += max(entries for *_, entries in loads)
    exchange = 4 * 2 * largest / between(gpus)
    return ends[-1] / RATE, exchange, latency(2 * len(buckets), gpus)


def megatron_seconds(
    model: Decoder, gpus: int, spread: int = 1, mode: str = "duplicated"
) -> tuple[float, float, float]:
    """Return the time of products, exchange and calls with Megatron's layer-wise optimizer.

    A team of `spread` GPUs (tensor parallelism) owns whole parameters, shared out by their entries;
    q, k and v are one, gate and up another. Then one all-gather sends all updated weights to all
    teams, in bf16 and without padding. Source: NVIDIA/Megatron-LM,
    `megatron/core/optimizer/layer_wise_optimizer.py`, `megatron/core/transformer/mlp.py`.

    In a team a matrix is cut along the dimension that is not the model's width. `duplicated`
    gathers the matrix in fp32, and every rank does all the work. `distributed` sums Gram matrices
    of the width in bf16, one for each of five steps, and one number before. Source:
    NVIDIA-NeMo/Emerging-Optimizers, `emerging_optimizers/orthogonalized_optimizers/muon_utils.py`.
    """
    shapes, teams, d = model.matrices(), gpus // spread, model.width
    size = len(shapes) // model.layers
    layers = [shapes[i : i + size] for i in range(0, len(shapes), size)]
    owned = [part for x in layers for part in (x[:3], x[3:4], x[4:6], x[6:])]
    shares = share_out([sum(map(math.prod, part)) for part in owned], teams)

    def most(cost: Callable[[tuple[int, int]], float]) -> float:
        return max(sum(cost(shape) for i in share for shape in owned[i]) for share in shares)

    matrices = round(most(lambda shape: 1))
    if mode == "duplicated":
        flops = most(lambda shape: muon_flops(min(shape), max(shape)))
        inside, calls = 4 * most(math.prod), matrices
    else:
        flops = most(lambda shape: muon_flops(d, math.prod(shape) // d, spread))
        inside, calls = 2 * 2 * 5 * matrices * d**2, 6 * matrices
    weights = 2 * sum(map(math.prod, shapes)) / spread
    exchange = weights / between(teams, spread) + inside / between(spread)
    return flops / RATE, exchange, latency(1, teams) + latency(calls, spread)


def peer_row(name: str, gpus: int) -> str:
    """Return a line of the third table of docs/distributed.md, in milliseconds."""
    model = MODELS[name]
    ways = [
        seconds(model.matrices(), gpus),
        dion_seconds(model, gpus),
        torchtitan_seconds(model, gpus),
        megatron_seconds(model, gpus),
        megatron_seconds(model, gpus, NODE),
        megatron_seconds(model, gpus, NODE, "distributed"),
    ]
    cells = [" + ".join(f"{1000 * x:.3g}" for x in way) for way in ways]
    return f"| {name} | {gpus} | " + " | ".join(cells) + " |"


def main() -> None:
    for line in (row, time_row, peer_row):
        for name in MODELS:
            for gpus in GPUS:
                print(line(name, gpus))
        print()


if __name__ == "__main__":
    main()
