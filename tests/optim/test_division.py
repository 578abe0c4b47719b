"""The shares of the ranks, and which part of a tensor each holds."""

import math

import pytest
import torch

from normball import parallel
from normball.norms import Spectral
from normball.parallel.cuts import _boxes, _Split, slices_of
from normball.polar import Eigh, NewtonSchulz, PolarExpress

# performance.md's work (a): six GPT layers of width 384.
WORK = [(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 6


@pytest.mark.parametrize("ranks", range(2, 9))
@pytest.mark.parametrize("polar", [Eigh(), PolarExpress(), NewtonSchulz()], ids=str)
def test_shares_are_within_a_tenth_of_balance(polar, ranks):
    costs = [Spectral(polar=polar).flops(torch.Size(shape)) for shape in WORK]
    shares = parallel.share_out(costs, ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(WORK)))
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) <= 1.1 * sum(costs) / ranks


def test_more_ranks_than_work():
    assert sorted(parallel.share_out([3.0, 1.0], 4)) == [[], [], [0], [1]]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("dim", [0, 1])
def test_boxes_are_the_chunks_of_torch(size, dim):
    x = torch.arange(size * size).view(size, size)
    boxes = _boxes((size, size), (_Split(dim, 1, 4),))
    chunks = x.chunk(4, dim)
    for i, box in enumerate(boxes):
        held = x[slices_of(box)]
        assert torch.equal(held, chunks[i]) if i < len(chunks) else not held.numel()


def test_boxes_of_two_mesh_dimensions_tile_the_tensor():
    layouts = [
        (_Split(0, 1, 2), _Split(1, 1, 3)),
        (_Split(0, 1, 2), _Split(0, 1, 2)),
        (_Split(0, 2, 2), _Split(0, 1, 2)),
    ]
    for layout in layouts:
        seen = torch.zeros(7, 5)
        boxes = _boxes((7, 5), layout)
        assert len(boxes) == math.prod(split.count for split in layout)
        for box in boxes:
            seen[slices_of(box)] += 1
        assert bool((seen == 1).all())


def test_a_strided_split_comes_after_the_one_it_cuts():
    # FSDP over columnwise tensor parallelism: half i of tensor parallelism, then its half.
    boxes = _boxes((8,), (_Split(0, 2, 2), _Split(0, 1, 2)))
    assert boxes == (((0, 2),), ((4, 2),), ((2, 2),), ((6, 2),))
