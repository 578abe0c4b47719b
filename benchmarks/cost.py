"""What a sharded step costs on paper, for models and numbers of GPUs: `python -m benchmarks.cost`.

Bytes follow the formula of docs/distributed.md, which tests count on real ranks. Operations are
those of the factors, all products at full price, as a GPU computes them.
"""

import math
from dataclasses import dataclass
from functools import partial

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


def factor_flops(shape: tuple[int, int], steps: int = 6) -> float:
    """Return the operations of `PolarExpress(steps)`: step by step, or in the Gram form."""
    m, n = min(shape), max(shape)
    return float(m * m * min(steps * (4 * n + 2 * m), 8 * n + (8 * steps - 12) * m))


def shared(shapes: list[tuple[int, int]], ranks: int) -> tuple[float, float, int]:
    """Return the operations of the busiest of `ranks` and of all, and the most entries owned."""
    costs = [factor_flops(shape) for shape in shapes]
    shares = share_out(costs, ranks)
    busiest = max(sum(costs[i] for i in share) for share in shares)
    entries = max(sum(shapes[i][0] * shapes[i][1] for i in share) for share in shares)
    return busiest, sum(costs), entries


def muon(shapes: list[tuple[int, int]], ranks: int) -> tuple[float, int]:
    """Return the operations and the entries sent by one rank with dion's Muon.

    Batches of equal shapes, padded to the number of ranks, one matrix for each: five Newton-Schulz
    steps, and a matrix sent out in parts and sent back.
    """
    flops, entries = 0.0, 0
    for shape in set(shapes):
        m, n = min(shape), max(shape)
        batches = -(-shapes.count(shape) // ranks)
        flops += batches * 5 * (4 * n * m**2 + 2 * m**3)
        entries += batches * 2 * m * n
    return flops, entries


def row(name: str, gpus: int) -> str:
    """Return a line of the table of docs/distributed.md."""
    model = MODELS[name]
    matrices, shapes = sum(m * n for m, n in model.matrices()), model.matrices()
    busiest, total, owned = shared(shapes, gpus)
    away = (gpus - 1) / gpus  # the rest stays where it is
    muon_work, muon_entries = muon(shapes, gpus)
    parameters = model.parameters() / gpus
    # Two matrices on their way and one at work, with buffers and the factor's own: as measured for
    # square ones on the CPU.
    flight = 10 * 4 * max(m * n for m, n in shapes)
    work = [busiest, total / gpus, muon_work]
    sent = [4 * (matrices / gpus + owned) * away, 2 * muon_entries * away]
    memory = [4 * parameters, 8 * parameters, flight]
    figures = [x / 1e12 for x in work] + [x / 1e9 for x in sent + memory]
    return f"| {name} | {gpus} | " + " | ".join(f"{x:.3g}" for x in figures) + " |"


def spread_flops(shape: tuple[int, int], ranks: int, steps: int = 6) -> float:
    """Return the operations of one of `ranks` that share the factor of a matrix, in the Gram form.

    Each has `n / ranks` of the long dimension: its part of the two Gram matrices and of the two
    products with the result. Of every `m x m` product it computes `m / ranks` rows.
    """
    m, n = min(shape), max(shape)
    return float(m * m * (8 * n + (8 * steps - 12) * m)) / ranks


def seconds(
    shapes: list[tuple[int, int]], gpus: int, spread: int = 1, steps: int = 6
) -> tuple[float, float, float]:
    """Return the time of the busiest rank: its products, its exchange, and its calls.

    With `spread` above 1 a matrix belongs to so many GPUs of one machine. They add up two Gram
    matrices, which a ring sends twice, and gather the `4 steps - 6` other `m x m` products.
    """
    cost = factor_flops if spread == 1 else partial(spread_flops, ranks=spread)
    shares = share_out([cost(shape) for shape in shapes], max(1, gpus // spread))
    flops = max(sum(cost(shapes[i]) for i in share) for share in shares)
    owned = max(sum(math.prod(shapes[i]) for i in share) for share in shares) / spread
    matrices = max(map(len, shares))
    exchange = 4 * (sum(map(math.prod, shapes)) / gpus + owned) / LINK
    calls = 2 * matrices * (CALL + PEER * gpus)
    if spread > 1:
        products = 4 * steps - 6
        squares = max(sum(min(shapes[i]) ** 2 for i in share) for share in shares)
        exchange += 4 * (2 * 2 + products) * squares * (spread - 1) / spread / NODE_LINK
        calls += (2 + products) * matrices * (CALL + PEER * spread)
    return flops / RATE, exchange, calls


def time_row(name: str, gpus: int) -> str:
    """Return a line of the second table of docs/distributed.md, in milliseconds."""
    shapes = MODELS[name].matrices()
    figures = [1000 * x for spread in (1, NODE) for x in seconds(shapes, gpus, spread)]
    return f"| {name} | {gpus} | " + " | ".join(f"{x:.3g}" for x in figures) + " |"


def main() -> None:
    for line in (row, time_row):
        for name in MODELS:
            for gpus in GPUS:
                print(line(name, gpus))
        print()


if __name__ == "__main__":
    main()
