"""What a step allocates, counted storage by storage."""

import pytest
import torch

from benchmarks.memory import Live
from normball import ClippedScion
from normball.norms import Sign, Spectral


@pytest.mark.parametrize("maximize", [False, True])
def test_with_the_gradients_memory_a_table_needs_no_other(maximize):
    table = torch.nn.Parameter(torch.randn(4096, 256))
    matrix = torch.nn.Parameter(torch.randn(64, 64))
    groups = [{"params": [table], "norm": Sign()}, {"params": [matrix], "norm": Spectral()}]
    optimizer = ClippedScion(groups, 1e-3, rho=1.0, reuse_grad=True, maximize=maximize)
    known = []
    for _ in range(2):  # the first step makes the momentum
        table.grad, matrix.grad = torch.randn_like(table), torch.randn_like(matrix)
        known = [table, matrix, table.grad, matrix.grad]
        known += [state["momentum"] for state in optimizer.state.values()]
        with Live(known) as live:
            optimizer.step()
    piece = 2**18
    matrix_work = 20 * matrix.numel()
    assert live.peak <= 4 * (piece + matrix_work + 64) < 4 * table.numel()


def test_leaving_gradients_alone_costs_one_tensor_of_their_size():
    table = torch.nn.Parameter(torch.randn(4096, 256))
    optimizer = ClippedScion([{"params": [table], "norm": Sign()}], 1e-3, rho=1.0)
    for _ in range(2):
        table.grad = torch.randn_like(table)
        known = [table, table.grad, *(s["momentum"] for s in optimizer.state.values())]
        with Live(known) as live:
            optimizer.step()
    assert live.peak <= 4 * (table.numel() + 2**18 + 64)
